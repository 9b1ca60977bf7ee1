"""Extract many videos: workers, resuming, and a record of each clip.

`slt-extract`, `slt-translate` and the preparation of a corpus call `extract_videos`.
"""

import contextlib
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slt_jax.base.console import PLAIN_SECONDS, say
from slt_jax.base.files import holding, is_running
from slt_jax.base.output import without_news
from slt_jax.base.places import DISK, check_file, check_folder
from slt_jax.errors import UserError
from slt_jax.media.detect import Detector
from slt_jax.media.extract import extract
from slt_jax.media.jobs import ExtractionRecord, Job, check_jobs, files_on_disk, is_done, printable
from slt_jax.media.machines import Part, check_parts, own_jobs
from slt_jax.media.pool import Worker, run_jobs
from slt_jax.media.settings import ExtractionSettings
from slt_jax.streams import HANDS, IMAGES, POSE, STREAMS

REFUSED = "refused"  # in the outcome of a clip: the number of the error that the disk gave
WORKING = ".extracting"  # folder under the output that holds clips until they are complete


def extract_videos(
    jobs: Sequence[Job],
    out_root: str | Path,
    settings: ExtractionSettings | None = None,
    workers: int = 1,
    *,
    resume: bool = False,
    overwrite: bool = False,
    metadata: str | Path | None = None,
    part: Part | None = None,
    progress: bool = True,
    make_detector: Callable[[], Any] | None = None,
    first: Worker | None = None,
) -> list[dict[str, Any]]:
    """Extract `jobs` to a folder of `out_root` for each stream, and return their records in the order of the jobs.

    A record has `video_id`, `video` and `status` ("ok", or "failed" with `reason`); if the clip is ok, also `frames`,
    `fps`, `duration`, `sources` and more (docs/video.md). All records are kept in `metadata`
    (`out_root`/metadata.jsonl). A video that cannot be used is a failed record, never an exception.

    With `resume`, clips that are complete on disk and were made with these settings from these files stay as they are,
    and their records are returned. With `overwrite`, all are made again. With neither, clips on disk are a UserError.
    Of several machines, each makes a `part` of the jobs and keeps its own record (`machines.merge_records`).
    `workers` processes are spawned, so the caller's module needs `if __name__ == "__main__"`; 0 works in this process.
    `first` is one that is there already (`pool.started`).
    """
    settings, out_root, jobs = settings or ExtractionSettings(), Path(out_root), own_jobs(check_jobs(jobs), part)
    if workers < 0:
        raise UserError(f"--workers {workers}: must be 0 or more")
    _make_folders(out_root)
    check_file("--metadata" if metadata else "--output", metadata or out_root / "metadata.jsonl")
    whole = Path(metadata or out_root / "metadata.jsonl")
    with _alone(out_root, part.record(whole) if part else whole, part):
        check_parts(whole, part)
        record = ExtractionRecord(part.record(whole) if part else whole)
        files = files_on_disk(out_root, [job.video_id for job in jobs])
        if not (resume or overwrite):
            _refuse_clips_there(jobs, files, out_root)
        merged = ExtractionRecord(whole).clips if part and resume else {}  # what earlier parts became
        known = merged | record.clips if resume else {}
        todo = [job for job in jobs if not is_done(known.get(job.video_id), job.key(settings), files[job.video_id])]
        if workers > 1:  # the longest first, so that no worker is left alone with a long one at the end
            todo.sort(key=_size, reverse=True)
        with _Progress(todo, len(jobs), progress) as shown:
            _make(todo, out_root, settings, workers, record, files, shown, make_detector, first,
                  keep_empty=part is not None)  # fmt: skip
    return [(known | record.clips)[printable(job.video_id)] for job in jobs]


@contextlib.contextmanager
def _alone(out_root: Path, record: Path, part: Part | None) -> Iterator[None]:
    """Raise UserError where another process writes the same record, and so the same clips."""
    lock = out_root / WORKING / f"{record.name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            lock.parent.mkdir(exist_ok=True)
            held = stack.enter_context(holding(lock))
        except OSError as error:
            raise UserError(f"--output {out_root}: cannot be written ({error.strerror})") from None
        if not held:
            same, advice = "these clips", "wait for it, or give each --shard I/N"
            if part:
                same, advice = f"part {part.index} of {part.count}", "give each process another I of --shard I/N"
            raise UserError(f"--output {out_root}: another process is extracting {same}; {advice}")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            _remove_if_empty(lock.parent)


def _make(
    todo: Sequence[Job],
    out_root: Path,
    settings: ExtractionSettings,
    workers: int,
    record: ExtractionRecord,
    files: dict[str, dict[str, list[str]]],
    shown: "_Progress",
    make_detector: Callable[[], Any] | None,
    first: Worker | None,
    *,
    keep_empty: bool,
) -> None:
    """Extract `todo`, each clip complete or not at all. Raises UserError where the disk refuses."""
    working = _working_folder(out_root)
    make_detector = make_detector or partial(Detector, settings.min_confidence)
    work = partial(_extract_clip, working, settings)
    try:
        # mediapipe's news would come between the bars; workers have no standard error.
        with contextlib.nullcontext() if workers else without_news():
            unnamed = [(job, {"status": "failed", "reason": job.problem}) for job in todo if job.problem]
            named = [job for job in todo if not job.problem]
            for job, outcome in chain(unnamed, run_jobs(named, make_detector, work, workers, shown.frames, first)):
                # A clip is complete on disk before its record says so; until then, another run would make it again.
                if refused := outcome.get(REFUSED):
                    raise OSError(refused, outcome["reason"], str(out_root))
                if outcome["status"] == "ok":
                    _put_in_place(working / job.video_id, out_root, files[job.video_id])
                facts = {"video_id": printable(job.video_id), "video": printable(job.video)}
                outcome = facts | {"key": job.key(settings)} | outcome
                record.add(outcome)
                shown.done(job, outcome)
    except OSError as error:
        place = f"--metadata {record.path}" if error.filename == str(record.path) else f"--output {out_root}"
        raise UserError(f"{place}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(working, ignore_errors=True)
        _remove_if_empty(out_root / WORKING)
        record.close(empty=keep_empty)


def _refuse_clips_there(jobs: Sequence[Job], files: dict[str, dict[str, list[str]]], out_root: Path) -> None:
    """Raise UserError if any of the clips is on disk."""
    if there := [job.video_id for job in jobs if any(files[job.video_id].values())]:
        raise UserError(
            f"--output {out_root}: holds {len(there)} of these clips already ({there[0]}); "
            "--resume keeps those that are complete, --overwrite makes all of them again"
        )


def _size(job: Job) -> float:
    """Seconds of a part, or bytes of a whole video."""
    if job.start is not None and job.end is not None:
        return job.end - job.start
    return os.path.getsize(job.video) if os.path.exists(job.video) else 0


def _extract_clip(working: Path, settings: ExtractionSettings, detector, job: Job, progress) -> dict[str, Any]:
    """Extract one clip into a folder of its own. Anything wrong with the video becomes part of the record."""
    folder = working / job.video_id
    try:
        outcome = extract(
            job.video, job.video_id, folder, settings, detector, start=job.start, end=job.end, member=job.member,
            rate=job.rate, signer_box=job.signer_box, progress=progress,
        )  # fmt: skip
    except UserError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return {"status": "failed", "reason": printable(str(error))}
    except BrokenPipeError:  # nobody listens to this process any longer
        raise
    except Exception as error:  # the other videos continue, whatever a decoder or model does with this one
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in DISK:  # no other video would fare better
            return {"status": "failed", "reason": error.strerror, REFUSED: error.errno}
        return {"status": "failed", "reason": printable(f"{type(error).__name__}: {' '.join(str(error).split())}")}
    counts = {stream.name: len(os.listdir(folder / stream.name)) for stream in STREAMS}
    return {"status": "ok"} | outcome | {"files": counts}


def _put_in_place(folder: Path, out_root: Path, old: dict[str, list[str]]) -> None:
    """Move a complete clip to its place. Files of an earlier extraction go first, and the pose file comes last."""
    for stream in (POSE, *IMAGES):
        for name in old[stream.name]:
            (out_root / stream.name / name).unlink(missing_ok=True)
    for stream in (*IMAGES, POSE):
        for name in os.listdir(folder / stream.name):
            os.replace(folder / stream.name / name, out_root / stream.name / name)
    shutil.rmtree(folder)


def _working_folder(out_root: Path) -> Path:
    """A folder for this process alone. Folders of dead processes of this machine are removed."""
    host = socket.gethostname()
    for left in (out_root / WORKING).glob(f"{host}-*"):
        number = left.name.removeprefix(f"{host}-")
        if number.isdigit() and (int(number) == os.getpid() or not is_running(int(number))):
            shutil.rmtree(left, ignore_errors=True)
    return out_root / WORKING / f"{host}-{os.getpid()}"


def _make_folders(out_root: Path) -> None:
    check_folder("--output", out_root)
    try:
        for stream in STREAMS:
            (out_root / stream.name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {out_root}: cannot be made ({error.strerror})") from None


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another run may be working there
        folder.rmdir()


class _Progress:
    """Two bars on a terminal, for videos and frames; elsewhere one line per video."""

    def __init__(self, todo: Sequence[Job], total: int, wanted: bool):
        self._shown, self._left, self._total = wanted, len(todo), total
        self._said = time.monotonic()
        self._frames: dict[str, tuple[int, int]] = {}
        bars = wanted and sys.stderr.isatty() and bool(todo)
        skipped = total - len(todo)
        if wanted and skipped:
            say(f"{skipped} of {total} clips are there already")
        self._videos = tqdm(total=total, initial=skipped, desc="videos", unit="video") if bars else None
        self._bar = tqdm(desc="frames", unit="frame") if bars else None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_) -> None:
        for bar in (self._bar, self._videos):
            if bar is not None:
                bar.close()

    def frames(self, job: Job, done: int, expected: int) -> None:
        before = self._frames.get(job.video_id, (0, 0))[0]
        self._frames[job.video_id] = done, expected
        if self._bar is not None:
            self._bar.total = sum(known for _, known in self._frames.values())
            self._bar.update(done - before)
        elif self._shown and time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            say(f"{job.video_id}: frame {done} of about {expected}")

    def done(self, job: Job, outcome: dict[str, Any]) -> None:
        frames = outcome.get("frames", self._frames.get(job.video_id, (0, 0))[0])
        self.frames(job, frames, frames)
        self._left -= 1
        if self._videos is not None:
            self._videos.update()
        if self._shown and (outcome["status"] != "ok" or self._videos is None):
            place = f"{self._total - self._left}/{self._total}"
            say(f"{place} {outcome['video_id']}: {outcome.get('reason') or summary(outcome)}")


def summary(outcome: dict[str, Any]) -> str:
    """Describe an extracted clip in a few words."""
    parts = [f"{outcome['frames']} frames in {outcome['duration']:.1f} s"]
    for hand in HANDS:
        seen = sum(count for source, count in outcome["sources"][hand.name].items() if source != "none")
        parts.append(f"{hand.title} {100 * seen / outcome['frames']:.0f} %")
    return ", ".join(parts)
