"""What to extract, what an earlier run has already done, and the record of both."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slt_jax.base.files import write_json_lines
from slt_jax.base.json_text import parse_json
from slt_jax.base.places import naming
from slt_jax.data.clip_files import FRAME
from slt_jax.data.ids import id_problem, shown_id
from slt_jax.errors import UserError
from slt_jax.media.frames import SUFFIXES as PICTURES
from slt_jax.media.frames import TAR, tar_clips
from slt_jax.media.settings import ExtractionSettings
from slt_jax.media.video import SUFFIXES
from slt_jax.streams import POSE, STREAMS

LONGEST_PATH = 4096  # characters, as in most systems


@dataclass(frozen=True)
class Job:
    """One clip: a video, or its part from `start` to `end`, in seconds from the start of the video.

    Frames come `rate` a second, else as the settings say. `signer_box` tells where the signer is, in fractions.
    """

    video: str | Path
    video_id: str
    start: float | None = None
    end: float | None = None
    member: str | None = None  # of a .tar with the frames of several clips
    rate: float | None = None
    signer_box: tuple[float, float, float, float] | None = None

    def key(self, settings: ExtractionSettings) -> dict[str, Any]:
        """Everything that the files of this clip depend on; equal keys mean equal files."""
        try:
            stat = os.stat(self.video)
        except (OSError, ValueError):  # a NUL in the name
            return {}
        known = {"settings": settings.key(), "bytes": stat.st_size, "modified": stat.st_mtime_ns,
                 "start": self.start, "end": self.end}  # fmt: skip
        given = {"member": self.member, "rate": self.rate, "signer_box": self.signer_box and list(self.signer_box)}
        return known | {name: value for name, value in given.items() if value is not None}

    @property
    def problem(self) -> str | None:
        """Why no files can have this id, or None if they can."""
        if problem := id_problem(self.video_id):
            return f"{printable(self.video)}: id {shown_id(self.video_id)} {problem}; rename the video"
        return None


def find_videos(folder: str | Path, *, frames: bool = False, apart_from: str | Path | None = None) -> list[Job]:
    """A job for every video under `folder`, in the order of their paths. The ids are the file names without endings.

    With `frames`, also for every folder of pictures without videos (its name is the id) and every clip in a .tar.
    Links are followed, but no folder is entered twice, nor `apart_from`. Raises UserError if there is none, or if two
    have the same name, and OSError for a folder that may not be read.
    """
    folder = Path(folder)
    if folder.is_file():
        tar = frames and folder.suffix.lower() == TAR
        return check_jobs(_clips_in_tar(folder) if tar else [Job(folder, folder.stem)])
    if not folder.is_dir():
        raise UserError(f"--videos {folder}: no such folder or video")
    jobs: list[Job] = []
    for place, names in _folders_under(folder, apart_from):
        videos = sorted(path for name in names if (path := place / name).suffix.lower() in SUFFIXES and path.is_file())
        jobs += [Job(path, path.stem) for path in videos]
        if not frames:
            continue
        if not videos and any(name.lower().endswith(PICTURES) and not name.startswith(".") for name in names):
            jobs.append(Job(place, place.resolve().name))
        for name in sorted(name for name in names if name.lower().endswith(TAR)):
            jobs += _clips_in_tar(place / name)
    if not jobs:
        more = ", folder of frames or .tar" if frames else ""
        raise UserError(f"--videos {folder}: holds no video{more} ({', '.join(SUFFIXES)})")
    return check_jobs(sorted(jobs, key=lambda job: (Path(job.video), job.member or "")))


def _clips_in_tar(path: Path) -> list[Job]:
    return [Job(path, clip, member=clip) for clip, _ in tar_clips(str(path), os.stat(path).st_mtime_ns)]


def _folders_under(folder: Path, apart_from: str | Path | None) -> Iterator[tuple[Path, list[str]]]:
    """Every folder and the names of what is no folder in it. Those that may not be read are not passed over."""

    def refuse(error: OSError) -> None:
        raise error

    seen = set() if apart_from is None else {os.path.realpath(apart_from)}
    for place, inner, names in os.walk(folder, onerror=refuse, followlinks=True):
        if os.path.realpath(place) in seen:  # a loop, or a second way to the same clips
            inner.clear()
            continue
        seen.add(os.path.realpath(place))
        inner.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))  # the folder before its links
        yield Path(place), names


def printable(path: str | Path) -> str:
    """A path as text that can be written as UTF-8, and is not endless."""
    text = str(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return text if len(text) <= LONGEST_PATH else f"{text[:LONGEST_PATH]}... ({len(text)} characters)"


def check_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Raise UserError if an id is given twice."""
    known: dict[str, Job] = {}
    for job in jobs:
        if other := known.get(job.video_id):
            raise UserError(f"{other.video} and {job.video} would both be clip {job.video_id}; rename one")
        known[job.video_id] = job
    return list(jobs)


class ExtractionRecord:
    """`metadata.jsonl`: one line per clip, added as soon as the clip is done. The last line of a clip counts."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.clips: dict[str, dict[str, Any]] = {}
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--metadata {self.path}: cannot be read ({error})") from None
        for line in lines:
            try:
                clip = parse_json(line)
                self.clips[clip["video_id"]] = clip
            except (ValueError, TypeError, KeyError):
                continue  # a run was killed while it wrote this

    def add(self, clip: dict[str, Any]) -> None:
        """Add the line of a clip."""
        self.clips[clip["video_id"]] = clip
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(clip, ensure_ascii=False) + "\n")

    def close(self, *, empty: bool = False) -> None:
        """Rewrite the file with one line per clip, in the order of the ids; without any, only if it may be `empty`."""
        if self.clips or empty:
            write_json_lines(self.path, [self.clips[video_id] for video_id in sorted(self.clips)])


def files_on_disk(out_root: Path, video_ids: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """{video id: {stream: file names}} from one listing of each folder; `pose` has one name or none."""
    files: dict[str, dict[str, list[str]]] = {
        video_id: {stream.name: [] for stream in STREAMS} for video_id in video_ids
    }
    for stream in (stream.name for stream in STREAMS):
        if not (out_root / stream).is_dir():
            continue
        with os.scandir(out_root / stream) as entries:
            for entry in entries:
                match = FRAME.fullmatch(entry.name)
                video_id = entry.name.removesuffix(".npz") if stream == POSE.name else match and match[1]
                if video_id in files:
                    files[video_id][stream].append(entry.name)
    return files


def is_done(clip: Mapping[str, Any] | None, key: Mapping[str, Any], files: Mapping[str, list[str]]) -> bool:
    """Whether a clip's record still holds: it was written under this key, and all its files are there."""
    if not clip or clip.get("status") != "ok" or not key or clip.get("key") != dict(key):
        return False
    counts = clip.get("files", {})
    return all(len(names) == counts.get(stream) for stream, names in files.items())
