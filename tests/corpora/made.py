"""Corpora to prepare: a CSV of clips in long videos, and an extraction that needs no video and no detector."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.data.conftest import ClipFactory

HEADER = "id;text;video;start;end;duration"


def write_csv(path: Path, rows, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def rows(videos: int, clips: int, seed: int = 0) -> list[str]:
    """`clips` clips of each video, of 1 to 9 seconds; every text is another."""
    rng = np.random.default_rng(seed)
    found = []
    for video in range(videos):
        at = 0.0
        for number in range(clips):
            length = round(float(rng.uniform(1, 9)), 2)
            text = f"frase {number} del video {video}"
            found.append(f"v{video}_{number};{text};v{video};{at:.2f};{at + length:.2f};{length:.2f}")
            at += length
    return found


def write_videos(folder: Path, names) -> Path:
    """Files that stand for videos."""
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


class FakeExtraction:
    """Stands for `extract_videos`: grey crops of the right number; the clips in `broken` fail."""

    def __init__(self, broken=(), without: dict[str, dict[str, list[int]]] | None = None):
        self.broken, self.without = set(broken), without or {}
        self.calls: list[list[Any]] = []

    def __call__(self, jobs, out_root, settings, workers, *, resume) -> list[dict[str, Any]]:
        assert resume
        self.calls.append(list(jobs))
        if not (Path(out_root) / "face").exists():
            self.factory = ClipFactory(Path(out_root))
        return [self.record(job, settings.fps) for job in jobs]

    def record(self, job, fps: float) -> dict[str, Any]:
        if job.video_id in self.broken:
            return {"video_id": job.video_id, "status": "failed", "reason": "nobody is in it"}
        frames = round((job.end - job.start) * fps) if job.end is not None else 12
        self.factory.write(job.video_id, frames, without=self.without.get(job.video_id))
        return {"video_id": job.video_id, "status": "ok", "frames": frames, "fps": fps, "duration": frames / fps}
