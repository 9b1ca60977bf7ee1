"""Clips written by Pillow whose every crop has one colour, so that a pixel of a picture says what it shows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slt_jax.data.clip_files import ClipFiles, scan
from slt_jax.data.corpus_folder import folders_under

COLOURS = {"face": (200, 60, 60), "hand_l": (60, 200, 60), "hand_r": (60, 60, 200)}


class Corpus:
    """A folder with face/, hand_l/, hand_r/ and pose/."""

    def __init__(self, root: Path):
        self.root = root
        for name in (*COLOURS, "pose"):
            (root / name).mkdir(parents=True)

    def write(
        self,
        video_id: str,
        frames: int,
        *,
        without: dict[str, list[int]] | None = None,
        landmarks: int = 13,
        pose: np.ndarray | None = None,
        **arrays,
    ) -> ClipFiles:
        for stream, colour in COLOURS.items():
            for frame in set(range(frames)) - set((without or {}).get(stream, [])):
                path = self.root / stream / f"{video_id}_f{frame:06d}.jpg"
                Image.new("RGB", (24, 24), colour).save(path, quality=95)
        pose = upright(frames, landmarks) if pose is None else pose
        np.savez(self.root / "pose" / f"{video_id}.npz", pose=pose, **arrays)
        return self.files(video_id)

    def files(self, video_id: str) -> ClipFiles:
        return scan(folders_under(self.root), [video_id])[video_id]


def upright(frames: int, landmarks: int) -> np.ndarray:
    """(frames, 3L): landmarks on a spiral inside the picture, all of them sure."""
    turn = np.linspace(0, 5, landmarks)
    points = np.stack([0.5 + 0.05 * turn * np.cos(turn), 0.5 + 0.05 * turn * np.sin(turn), np.ones(landmarks)], axis=-1)
    return np.tile(points.reshape(1, -1), (frames, 1)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return Corpus(tmp_path / "corpus")
