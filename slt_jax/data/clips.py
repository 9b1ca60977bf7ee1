"""One clip on disk becomes arrays of fixed shape.

Frames are matched by the number in their file name, never by their place in a listing: where a crop is missing, that
one frame is missing and no other moves. Images stay uint8; normalisation and flips happen on the device (augment.py).
"""

import io
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from slt_jax.data.schema import CLIP_ARRAYS, BatchSizes, Features, shapes
from slt_jax.errors import UserError

if TYPE_CHECKING:
    from slt_jax.data.packs import PackedClip

STREAMS = ("face", "hand_l", "hand_r")
MIN_CONFIDENCE = 0.25

FRAME = re.compile(r"(.+)_f(\d+)(\.(?:jpe?g|png))", re.IGNORECASE | re.DOTALL)
# (stream, positions among its frames or -1, arrays of the clip): puts these frames into the arrays.
ReadFrames = Callable[[str, np.ndarray, Mapping[str, np.ndarray]], None]
POSE_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class BadClip(UserError):
    """A clip whose files cannot be used; `--skip-bad-clips` lets training go on without it."""


@dataclass(frozen=True)
class StreamDirs:
    face: str | Path
    hand_left: str | Path
    hand_right: str | Path
    pose: str | Path

    def checked(self) -> "StreamDirs":
        for stream in fields(self):
            path, flag = getattr(self, stream.name), "--" + stream.name.replace("_", "-") + "-dir"
            if not path:
                raise UserError(f"{flag} is not given")
            if not os.path.isdir(path):
                raise UserError(f"{flag} {path}: no such directory")
        return self


@dataclass(frozen=True)
class Frames:
    """The frames of one stream of one clip: sorted numbers, and names only where they are not the usual ones.

    `data` is what the files hold, where that was read already: there may be no such files then.
    """

    directory: str
    numbers: np.ndarray
    names: tuple[str, ...] | None = None
    data: tuple[memoryview, ...] | None = None

    def path(self, video_id: str, position: int) -> str:
        usual = self.names is None
        name = f"{video_id}_f{self.numbers[position]:06d}.jpg" if usual else self.names[position]
        return os.path.join(self.directory, name)

    def decode(self, video_id: str, position: int, out: np.ndarray) -> None:
        """Decode one frame into `out`, see `decode_image`."""
        decode_image(self.path(video_id, position), out, None if self.data is None else self.data[position])


@dataclass(frozen=True)
class ClipFiles:
    """The files of a clip; of a packed one (`record`) `loaded` has them, before that nothing can be opened."""

    video_id: str
    face: Frames
    hand_l: Frames
    hand_r: Frames
    pose: str | None
    pose_data: memoryview | None = None
    record: "PackedClip | None" = None

    def loaded(self) -> "ClipFiles":
        """Itself, or all files of a packed clip in memory. Raises BadClip where the pack is damaged."""
        return self if self.record is None else self.record.load(self)

    def open_pose(self) -> BinaryIO:
        return open(self.pose, "rb") if self.pose_data is None else io.BytesIO(self.pose_data)

    def last_frame(self) -> int:
        """The highest frame number of the image streams, -1 without any image."""
        return max(int(s.numbers[-1]) if len(s.numbers) else -1 for s in (self.face, self.hand_l, self.hand_r))


def scan(dirs: StreamDirs, video_ids: Iterable[str]) -> dict[str, ClipFiles]:
    """The files of every clip, from one listing of each directory."""
    dirs = dirs.checked()
    wanted = dict.fromkeys(video_ids)
    face, hand_l, hand_r = (_list_frames(str(d), wanted) for d in (dirs.face, dirs.hand_left, dirs.hand_right))
    with os.scandir(dirs.pose) as entries:
        poses = {entry.name for entry in entries if entry.name.endswith(".npz")}
    return {
        video_id: ClipFiles(
            video_id,
            face[video_id],
            hand_l[video_id],
            hand_r[video_id],
            os.path.join(dirs.pose, f"{video_id}.npz") if f"{video_id}.npz" in poses else None,
        )
        for video_id in wanted
    }


def _list_frames(directory: str, wanted: dict[str, None]) -> dict[str, Frames]:
    found: dict[str, dict[int, str]] = {video_id: {} for video_id in wanted}
    with os.scandir(directory) as entries:
        for entry in entries:
            match = FRAME.fullmatch(entry.name)
            if match and match[1] in found:
                names, number = found[match[1]], int(match[2])
                names[number] = min(names.get(number, entry.name), entry.name)  # of two files always the same one
    return {video_id: _frames(directory, video_id, names) for video_id, names in found.items()}


def _frames(directory: str, video_id: str, names: dict[int, str]) -> Frames:
    numbers = sorted(names)
    usual = all(names[n] == f"{video_id}_f{n:06d}.jpg" for n in numbers)
    return Frames(directory, np.array(numbers, np.int64), None if usual else tuple(names[n] for n in numbers))


def sample(frames: int, length: int, rng: np.random.Generator | None) -> np.ndarray:
    """The frame numbers a clip of `frames` frames shows, at most `length`, evenly spaced.

    Training starts at a random offset within the stride; without `rng` the sample is centred.
    """
    stride = -(-frames // length)
    offset = (frames - 1) % stride // 2 if rng is None else int(rng.integers(stride))
    return np.arange(offset, frames, stride)


def padded_lengths(frames: Sequence[int], sequence_length: int, buckets: Sequence[int]) -> np.ndarray:
    """To how many frames each clip is padded, (N,): the first of `buckets` that holds all it may show.

    The last bucket is always `sequence_length`, of which no clip shows more.
    """
    frames, lengths = np.asarray(frames), np.array(sorted({*buckets, sequence_length}))
    stride = -(-frames // sequence_length)
    return lengths[np.searchsorted(lengths, -(-frames // stride))]


def read_clip(
    files: ClipFiles,
    *,
    sequence_length: int,
    image_size: int,
    num_landmarks: int,
    rng: np.random.Generator | None = None,
    min_confidence: float = MIN_CONFIDENCE,
    out: dict[str, np.ndarray] | None = None,
    read_frames: ReadFrames | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of one clip, at most `sequence_length` frames of it, in `out` (a row of a batch) where it is given.

    T is `sequence_length`, or the length of the arrays in `out`, which may be shorter for a clip that fits there.

    face, hand_l, hand_r uint8 (T, H, W, 3); pose float32 (T, 3L); pad_mask bool (T,), True = real frame; miss_mask_hl,
    miss_mask_hr bool (T,), True = hand missing; pose_conf_mask bool (T, L), True = keep the landmark.
    """
    if out is None:
        sizes = BatchSizes(1, sequence_length, image_size, num_landmarks)
        out = {name: array[0] for name, array in empty(sizes).items()}
    files = files.loaded()
    pose, missing = read_pose(files, num_landmarks)
    total = max(len(pose), files.last_frame() + 1)
    if total == 0:
        raise BadClip(f"{files.video_id}: no frame in any stream and no pose")
    read_frames = read_frames or partial(_read_images, files)
    real, length = sample(total, sequence_length, rng), len(out["pad_mask"])
    if len(real) > length:
        raise BadClip(f"{files.video_id}: has {total} frames, more than when the folders were listed")
    shown = np.concatenate([real, np.full(length - len(real), real[-1])])  # the last frame is repeated
    out["pad_mask"][:] = np.arange(length) < len(real)

    read_frames("face", _nearest(files.face.numbers, shown), out)
    for stream, mask, hand in (("hand_l", "miss_mask_hl", files.hand_l), ("hand_r", "miss_mask_hr", files.hand_r)):
        position = _exact(hand.numbers, shown)
        said = missing[stream]
        if said is not None:  # the pose file may know that a crop shows no hand
            position[(shown < len(said)) & said[np.minimum(shown, len(said) - 1)]] = -1
        read_frames(stream, position, out)
        out[mask][:] = position < 0

    _sample_pose(pose, shown, min_confidence, out)
    return out


def empty(sizes: BatchSizes, *, features: Features | None = None, allocate=np.empty) -> dict[str, np.ndarray]:
    """Room for the files of clips, not initialised; `features` stand in place of images."""
    arrays = shapes(sizes, CLIP_ARRAYS, features)
    return {name: allocate(shape, dtype) for name, (shape, dtype) in arrays.items()}


def read_pose(files: ClipFiles, num_landmarks: int) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    """Pose (frames, 3L), no frames without a file, and what the file says about missing hands."""
    if files.pose is None:
        return np.zeros((0, 3 * num_landmarks), np.float32), {"hand_l": None, "hand_r": None}
    pose, missing = load_pose(files)
    check_landmarks(files.pose, pose.shape[1], num_landmarks)
    return pose, missing


def load_pose(files: ClipFiles) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    """`read_pose` of a clip that has a file, with however many landmarks."""
    missing: dict[str, np.ndarray | None] = {"hand_l": None, "hand_r": None}
    try:
        # Opened here: np.load does not close what it opens and then cannot read.
        with files.open_pose() as file, np.load(file, allow_pickle=False) as archive:
            pose = np.asarray(archive["pose"], np.float32)
            for hand in missing:
                if f"miss_{hand}" in archive.files and archive[f"miss_{hand}"].size:
                    missing[hand] = archive[f"miss_{hand}"].reshape(-1).astype(bool)
    except POSE_ERRORS as error:
        raise BadClip(f"{files.pose}: cannot be read as an npz file with a key pose ({_one_line(error)})") from None
    if pose.ndim != 2:
        raise BadClip(f"{files.pose}: pose has the shape {pose.shape}, expected (frames, 3 x landmarks)")
    if pose.shape[1] % 3:
        raise BadClip(f"{files.pose}: pose has {pose.shape[1]} columns, which are not x, y and confidence of landmarks")
    return pose, missing


def check_landmarks(path: str, columns: int, num_landmarks: int) -> None:
    if columns != 3 * num_landmarks:
        found = f"{columns / 3:g} landmarks ({columns} columns)"
        raise UserError(f"{path}: {found}, expected {num_landmarks}; set --pose-landmarks to what the files hold")


def sure_landmarks(points: np.ndarray, min_confidence: float = MIN_CONFIDENCE) -> np.ndarray:
    """Which landmarks (..., L, 3) the model is shown, bool (..., L): all numbers, and confident."""
    return np.isfinite(points).all(axis=-1) & (points[..., 2] >= min_confidence)


def _sample_pose(pose: np.ndarray, shown: np.ndarray, min_confidence: float, out: dict[str, np.ndarray]) -> None:
    out["pose"][:] = 0
    out["pose_conf_mask"][:] = False
    known = np.flatnonzero(shown < len(pose))
    if len(known):
        rows = pose[shown[known]].reshape(len(known), -1, 3)
        keep = sure_landmarks(rows, min_confidence)
        rows[~np.isfinite(rows)] = 0  # a NaN would survive the mask: 0 * NaN
        out["pose"][known] = rows.reshape(len(known), -1)
        out["pose_conf_mask"][known] = keep


def _exact(numbers: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Position in `numbers` of every shown frame, -1 where it is missing."""
    if not len(numbers):
        return np.full(len(shown), -1)
    position = np.minimum(np.searchsorted(numbers, shown), len(numbers) - 1)
    return np.where(numbers[position] == shown, position, -1)


def _nearest(numbers: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Position in `numbers` of the nearest frame (of two the earlier one), -1 where there is none at all."""
    if not len(numbers):
        return np.full(len(shown), -1)
    after = np.minimum(np.searchsorted(numbers, shown), len(numbers) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(abs(shown - numbers[before]) <= abs(numbers[after] - shown), before, after)


def _read_images(files: ClipFiles, stream: str, positions: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
    """Decode into (T, H, W, 3); black where the position is -1, a repeated position is copied."""
    frames, out, video_id = getattr(files, stream), arrays[stream], files.video_id
    for t, position in enumerate(positions):
        if position < 0:
            out[t] = 0
        elif t and position == positions[t - 1]:
            out[t] = out[t - 1]
        else:
            frames.decode(video_id, int(position), out[t])


def decode_image(path: str, out: np.ndarray, data: memoryview | None = None) -> None:
    """Decode an image, or `data` that was read from it, into `out` (H, W, 3) uint8, resized to it.

    Pillow's bicubic (its own default for resize, antialiased, and what DINOv2 was prepared with) resizes; it only runs
    for crops that were not stored at the model's size, or are no plain JPEG.
    """
    import simplejpeg  # here: who only prepares batches on the device needs no decoder

    try:
        if data is None:
            with open(path, "rb") as file:
                data = file.read()
        try:
            height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
            if (height, width, 3) == out.shape and colour in ("YCbCr", "RGB", "Gray"):
                simplejpeg.decode_jpeg(data, "RGB", buffer=out)
                return
        except ValueError:
            pass  # a PNG, a CMYK or a slightly damaged JPEG; Pillow decides
        with Image.open(io.BytesIO(data)) as image:
            image = image.convert("RGB")
            if image.size != (out.shape[1], out.shape[0]):
                image = image.resize((out.shape[1], out.shape[0]), Image.Resampling.BICUBIC)
            out[:] = np.asarray(image)
    except UnidentifiedImageError:  # whose own message has an address in it
        raise BadClip(f"{path}: cannot be read as an image (no jpg or png)") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadClip(f"{path}: cannot be read as an image ({_one_line(error)})") from None


def _one_line(error: BaseException) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def flip_permutation(num_landmarks: int) -> tuple[int, ...] | None:
    """Which landmark takes each one's place in a mirror; `None` where the numbering is not known.

    13 landmarks are BlazePose's 0 and 11-22 (nose, then left/right pairs from the shoulders to the thumbs); 14 have the
    neck after them; 17 are the nose and eight pairs (`upper17`, COCO); 33 are all of BlazePose, where the eyes (1-3 and
    4-6) come as two threes and everything from 7 on in pairs. slt_jax/data/landmarks.py names them.
    """
    pairs = tuple(n + 1 if n % 2 else n - 1 for n in range(1, num_landmarks))
    if num_landmarks in (13, 17):
        return (0, *pairs)
    if num_landmarks == 14:
        return (0, *pairs[:-1], 13)
    if num_landmarks == 33:
        return (0, 4, 5, 6, 1, 2, 3, *pairs[6:])
    return None
