"""Clips that are frames and no video: folders of pictures, and .tar shards of them, read where they lie.

A frame is shown for one part of their rate, which nothing but the user knows. Frames go by the numbers in their names.
"""

import functools
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from slt_jax.data.clip_files import FRAME
from slt_jax.errors import UserError
from slt_jax.media.video import BadVideo, Facts, Picture, at_rate

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TAR = ".tar"


@dataclass(frozen=True)
class Frame:
    """One picture: a file, or `size` bytes from `start` of a .tar."""

    path: str
    start: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Its bytes. Raises OSError."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read() if self.size is None else file.read(self.size)


def is_frames(path: str | Path) -> bool:
    """Whether a clip's source is a folder of frames or a .tar of them."""
    return os.path.isdir(path) or str(path).lower().endswith(TAR)


def frames_of(path: str | Path, member: str | None = None) -> list[Frame]:
    """The frames of a folder, or of the clip `member` of a .tar, in order. Raises BadVideo if there are none."""
    if member is not None:
        frames = dict(tar_clips(str(path), os.stat(path).st_mtime_ns)).get(member, [])
    else:
        names = (name for name in os.listdir(path) if _is_picture(name))
        frames = [Frame(os.path.join(path, name)) for name in sorted(names, key=numbered)]
    if not frames:
        raise BadVideo(f"{path}: holds no frames ({', '.join(SUFFIXES)}){f' of {member}' if member else ''}")
    return frames


@functools.lru_cache(maxsize=4)
def tar_clips(path: str, modified: int) -> tuple[tuple[str, list[Frame]], ...]:
    """The clips of a .tar, each with its frames. Only headers are read. Raises UserError if it is none.

    A clip's frames are `clip/000001.jpg`, `clip.000001.jpg` as WebDataset groups them, or `clip_f000001.jpg`.
    """
    found: dict[str, list[tuple[str, Frame]]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                if entry.isfile() and _is_picture(entry.name):
                    frame = Frame(path, entry.offset_data, entry.size)
                    found.setdefault(_clip_of(entry.name), []).append((entry.name, frame))
    except (tarfile.TarError, OSError, EOFError) as error:
        advice = "is it compressed, or cut short?"
        raise UserError(f"{path}: cannot be read as a .tar of frames ({error}); {advice}") from None
    ordered = ((clip, sorted(frames, key=lambda pair: numbered(pair[0]))) for clip, frames in found.items())
    return tuple((clip, [frame for _, frame in frames]) for clip, frames in ordered)


def facts(path: str | Path, member: str | None, rate: float) -> Facts:
    """Rate and duration of a clip of frames."""
    return Facts(rate, len(frames_of(path, member)) / rate)


def pictures(
    path: str | Path,
    member: str | None,
    rate: float,
    fps: float,
    *,
    start: float | None = None,
    end: float | None = None,
    mirrored: bool = False,
) -> Iterator[Picture]:
    """As `video.pictures`, of frames that come `rate` a second. Raises BadVideo for a damaged one."""
    frames, start = frames_of(path, member), start or 0.0
    timed = [(number / rate, 1 / rate, frame) for number, frame in enumerate(frames)]
    image, any_read = None, False
    for number, frame, fresh in at_rate(timed, fps, start, end):
        if fresh or image is None:
            image = _decoded(frame, mirrored)
        any_read = True
        yield Picture(number, image, fresh)
    if not any_read:
        raise BadVideo(f"{path}: no frame is in the part that is asked for")


def samples(
    path: str | Path, member: str | None, count: int, *, rate: float, start: float | None, end: float | None,
    mirrored: bool,
) -> Iterator[np.ndarray]:  # fmt: skip
    """About `count` images spread over the frames, in order."""
    frames = frames_of(path, member)
    first = round((start or 0.0) * rate)
    last = len(frames) if end is None else min(round(end * rate), len(frames))
    chosen: Sequence[int] = np.unique(np.linspace(first, max(last - 1, first), count).round().astype(int)).tolist()
    for number in chosen:
        if number < len(frames):
            yield _decoded(frames[number], mirrored)


def numbered(name: str) -> tuple:
    """What sorts names by the numbers in them: 2 before 10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def _is_picture(name: str) -> bool:
    base = os.path.basename(name)
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")


def _clip_of(name: str) -> str:
    folder, base = os.path.split(name)
    if match := FRAME.fullmatch(base):
        return match[1]
    stem, _, ending = base.partition(".")
    if "." in ending:  # WebDataset: everything from the first dot on is the kind of the file
        return stem
    return os.path.basename(folder) or stem


def _decoded(frame: Frame, mirrored: bool) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(frame.read())) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # whatever Pillow raises for damaged pictures
        raise BadVideo(f"{frame.path}: a frame cannot be read ({' '.join(str(error).split())})") from None
    return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)
