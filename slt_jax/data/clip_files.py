"""The files of clips: which there are, and how to read them.

Frames are known by the number in their file name, never by their place in a listing: where a crop is missing, that one
frame is missing and no other moves.
"""

import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np

from slt_jax.base.spellings import Spellings
from slt_jax.data.corpus_folder import StreamFolders, check_folders
from slt_jax.data.decode import IMAGE_ERRORS, decode_into
from slt_jax.data.npz import NPZ_ERRORS, read_arrays
from slt_jax.data.pose_layout import SHAPES, into_landmarks, is_pose, other_landmarks, with_confidence
from slt_jax.data.regular import open_regular, read_regular
from slt_jax.errors import UserError, shortened, shown
from slt_jax.streams import MASKED, POSE, chosen

FRAME = re.compile(r"(.+)_f(\d+)(\.(?:jpe?g|png))", re.IGNORECASE | re.DOTALL)
LONGEST = 10**8  # frames of a clip, or a name has another number than a frame's: a date, say


class BadClip(UserError):
    """A clip whose files cannot be used. With `--skip-bad-clips`, training continues without it."""


@dataclass(frozen=True)
class Frames:
    """The frames of one stream of a clip: sorted numbers, and names only if they are not the usual ones.

    `data` is what the files hold, where that was read already: there may be no such files then.
    """

    directory: str
    numbers: np.ndarray
    names: tuple[str, ...] | None = None
    data: tuple[memoryview, ...] | None = None

    def path(self, video_id: str, position: int) -> str:
        """The file of the frame at `position` in `numbers`."""
        name = f"{video_id}_f{self.numbers[position]:06d}.jpg" if self.names is None else self.names[position]
        return os.path.join(self.directory, name)

    def decode(self, video_id: str, position: int, out: np.ndarray) -> None:
        """Decode one frame into `out`, see `decode_image`."""
        decode_image(self.path(video_id, position), out, None if self.data is None else self.data[position])


class PackedRecord(Protocol):
    """A clip in a pack: its files are one record, read at once (packs.py)."""

    @property
    def bad(self) -> str | None:
        """Why the clip cannot be read, or None if it can."""

    @property
    def sha256(self) -> str:
        """The checksum of the record, in hexadecimal."""

    @property
    def pose_frames(self) -> int:
        """Frames of the pose; 0 without one."""
        ...

    def check(self, files: "ClipFiles", num_landmarks: int) -> None:
        """Raise BadClip if the clip cannot be read, or UserError if it has other landmarks."""

    def read(self, video_id: str) -> memoryview:
        """The bytes of the record. Raises BadClip."""

    def load(self, files: "ClipFiles") -> "ClipFiles":
        """`files` with their contents. Raises BadClip."""


@dataclass(frozen=True)
class ClipFiles:
    """The files of a clip; of a packed one (`record`) `loaded` has them, before that nothing can be opened."""

    video_id: str
    frames: Mapping[str, Frames]  # of each stream of images, by its name
    pose: str | None
    pose_data: memoryview | None = None
    record: PackedRecord | None = None

    def loaded(self) -> "ClipFiles":
        """Itself, or all files of a packed clip in memory. Raises BadClip if the pack is damaged."""
        return self if self.record is None else self.record.load(self)

    def open_pose(self) -> BinaryIO:
        """Open the pose file, which the clip must have. Raises OSError."""
        if self.pose_data is not None:
            return io.BytesIO(self.pose_data)
        return open_regular(str(self.pose))

    def last_frame(self) -> int:
        """The highest frame number of the image streams; -1 without images."""
        lasts = (int(frames.numbers[-1]) if len(frames.numbers) else -1 for frames in self.frames.values())
        return max(lasts, default=-1)


@dataclass(frozen=True)
class FrameCounts:
    """How many frames N clips have: of the pose (-1 without one), up to the last image, and images of each stream."""

    pose: np.ndarray
    images: np.ndarray
    seen: Mapping[str, np.ndarray]

    @property
    def longest(self) -> np.ndarray:
        """The frames of each clip (N,)."""
        return np.maximum(self.pose, self.images)


def scan(
    folders: StreamFolders, video_ids: Iterable[str], streams: Sequence[str] | None = None
) -> dict[str, ClipFiles]:
    """The files of every clip, from one listing of each folder: of these `streams`, or of all.

    Ids and names may write their accents in different ways (NFC, or NFD as macOS does). Raises UserError as
    `check_folders` does.
    """
    check_folders(folders, streams)
    wanted, poses = Spellings(video_ids), {}
    named = [stream.name for stream in chosen(streams)]
    listed = {name: _list_frames(str(folders[name]), wanted) for name in named if name != POSE.name}
    if POSE.name in named:
        with os.scandir(folders[POSE.name]) as entries:
            for entry in entries:
                stem, ending = os.path.splitext(entry.name)
                clip = wanted.meant(stem) if ending == ".npz" else None
                if clip is not None and (stem == clip or clip not in poses):
                    poses[clip] = entry.path
    return {
        video_id: ClipFiles(video_id, {name: frames[video_id] for name, frames in listed.items()}, poses.get(video_id))
        for video_id in wanted.ids
    }


def _list_frames(directory: str, wanted: Spellings) -> dict[str, Frames]:
    files: dict[str, dict[int, str]] = {video_id: {} for video_id in wanted.ids}
    with os.scandir(directory) as entries:
        for entry in entries:
            match = FRAME.fullmatch(entry.name)
            if match and (clip := wanted.meant(match[1])) is not None:
                names, number = files[clip], frame_number(directory, match)
                names[number] = min(names.get(number, entry.name), entry.name)  # of two files, always the same one
    return {video_id: _frames(directory, video_id, names) for video_id, names in files.items()}


def frame_number(directory: str, name: re.Match[str]) -> int:
    """The number of a file that `FRAME` matches. Raises UserError if no clip is so long."""
    if len(name[2].lstrip("0")) < len(str(LONGEST)):
        return int(name[2])
    raise UserError(
        f"{directory}: {shown(name[0])} would be frame {shortened(name[2])} of its clip; frames are counted from 0, "
        f"as in <id>_f000000.jpg: rename the file, or take it away"
    )


def _frames(directory: str, video_id: str, names: dict[int, str]) -> Frames:
    numbers = sorted(names)
    usual = all(names[n] == f"{video_id}_f{n:06d}.jpg" for n in numbers)
    return Frames(directory, np.array(numbers, np.int64), None if usual else tuple(names[n] for n in numbers))


def read_pose(files: ClipFiles, num_landmarks: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The pose (frames, 3L) of a clip, and per stream in which frames its file calls it missing.

    Without a file there are no frames. Raises BadClip if the file cannot be used, UserError for other landmarks.
    """
    if files.pose is None:
        return np.zeros((0, 3 * num_landmarks), np.float32), {}
    pose, missing = load_pose(files)
    points = into_landmarks(pose, num_landmarks)
    if points is None:
        raise other_landmarks(files.pose, pose, num_landmarks)
    return with_confidence(points).reshape(len(pose), 3 * num_landmarks), missing


def load_pose(files: ClipFiles) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The pose of a clip as its file has it, see `pose_layout`, and per stream in which frames it calls it missing.

    Raises BadClip if the file cannot be used.
    """
    try:
        with files.open_pose() as file:
            arrays = read_arrays(file, (POSE.name, *(str(stream.missing_key) for stream in MASKED)))
    except NPZ_ERRORS as error:
        raise BadClip(f"{files.pose}: cannot be read as an npz file with a key pose ({_one_line(error)})") from None
    if POSE.name not in arrays:
        raise BadClip(f"{files.pose}: cannot be read as an npz file with a key pose (it has no such key)")
    pose = np.array(arrays[POSE.name], np.float32)  # a copy, as what was read cannot be written to
    missing = {
        stream.name: flags.reshape(-1).astype(bool)
        for stream in MASKED
        if (flags := arrays.get(str(stream.missing_key))) is not None and flags.size
    }
    if not is_pose(pose):
        raise BadClip(f"{files.pose}: pose has the shape {pose.shape}, expected {SHAPES}")
    return pose, missing


def decode_image(path: str, out: np.ndarray, data: memoryview | None = None) -> None:
    """Decode an image, or `data` read from it, into `out` (H, W, 3) uint8, resized to fit. Raises BadClip."""
    try:
        decode_into(read_regular(path) if data is None else data, out)
    except IMAGE_ERRORS as error:
        raise BadClip(f"{path}: cannot be read as an image ({_one_line(error)})") from None


def _one_line(error: BaseException) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
