"""Which frames of a clip are shown, and where: as docs/data.md says, or as v9 did.

Here a frame is known by its number, so that a missing crop moves no other. v9 took crops by their place in a listing:
the n-th crop of a hand stands beside the n-th of the face, and the last is repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles
from slt_jax.streams import IMAGES, MASKED


@dataclass(frozen=True)
class Shown:
    """What stands in each of the T frames of a clip; `real` is how many of them count, from the first on."""

    positions: dict[str, np.ndarray]  # of each stream of images: the place among its files, -1 for a black picture
    masks: dict[str, np.ndarray]  # of each stream with a mask: bool, True where the model is not to see it
    pose: np.ndarray  # the row of the pose, -1 for none
    real: int


def sample(frames: int, length: int, rng: np.random.Generator | None) -> np.ndarray:
    """The frame numbers to show of a clip of `frames` frames: at most `length`, evenly spaced.

    Training starts at a random offset within the stride. Without `rng` the sample is centred.
    """
    stride = -(-frames // length)
    return np.arange(_centred(frames, stride) if rng is None else int(rng.integers(stride)), frames, stride)


def by_number(
    files: ClipFiles,
    pose_frames: int,
    missing: Mapping[str, np.ndarray],
    sequence_length: int,
    length: int,
    rng: np.random.Generator | None,
) -> Shown:
    """At most `sequence_length` frames by their numbers, in the `length` frames of an array. The last is repeated.

    `missing` says for each stream in which frames the pose file knows that a crop shows no hand. Raises BadClip where
    the frames are more than `length`.
    """
    total = max(pose_frames, files.last_frame() + 1)
    real = sample(total, sequence_length, rng)
    if len(real) > length:
        raise BadClip(f"{files.video_id}: has {total} frames, more than when the folders were listed")
    numbers = _padded(real, length)
    positions, masks = {}, {}
    for stream in (stream for stream in IMAGES if stream.name in files.frames):
        known = files.frames[stream.name].numbers
        if not stream.mask:
            positions[stream.name] = _nearest(known, numbers)
            continue
        place = _exact(known, numbers)
        if (gone := missing.get(stream.name)) is not None:
            place[(numbers < len(gone)) & gone[np.minimum(numbers, len(gone) - 1)]] = -1
        positions[stream.name], masks[stream.name] = place, place < 0
    return Shown(positions, masks, np.where(numbers < pose_frames, numbers, -1), len(real))


def as_v9(
    files: ClipFiles, pose_frames: int, sequence_length: int, length: int, rng: np.random.Generator | None
) -> Shown:
    """The frames, masks and padding that v9's data set handed over for the same files, in `length` frames.

    The masks hide a hand throughout if the clip has any crop of it. As many frames are real as the shortest stream has
    files or poses (a missing pose file is one pose), as the face has if another stream is empty. v9 drew an offset for
    the pose and another for the images; here they are the same fraction of the stride.
    """
    counts = {stream.name: len(files.frames[stream.name].numbers) for stream in IMAGES}
    lengths = [*counts.values(), max(pose_frames, 1)]
    face = next(stream.name for stream in IMAGES if not stream.mask)
    effective = min(lengths) or counts[face] or max(lengths)
    offset = None if rng is None else rng.random()

    def shown(frames: int) -> np.ndarray:
        stride = -(-frames // sequence_length)
        first = _centred(frames, stride) if offset is None else int(offset * stride)
        return _padded(np.arange(first, frames, stride), length)

    numbers = shown(max(lengths))
    positions = {name: np.minimum(numbers, count - 1) for name, count in counts.items()}
    masks = {stream.name: np.full(length, counts[stream.name] > 0) for stream in MASKED}
    pose = shown(pose_frames) if pose_frames else np.full(length, -1)
    return Shown(positions, masks, pose, min(effective, sequence_length))


def _centred(frames: int, stride: int) -> int:
    """The first number of a sample that leaves as much before it as after it."""
    return (frames - 1) % stride // 2


def _padded(numbers: np.ndarray, length: int) -> np.ndarray:
    """The first `length` numbers, the last of them repeated."""
    return np.concatenate([numbers, np.repeat(numbers[-1:], length)])[:length]


def _exact(numbers: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The position in `numbers` of every shown frame, -1 if it is missing."""
    if not len(numbers):
        return np.full(len(shown), -1)
    position = np.minimum(np.searchsorted(numbers, shown), len(numbers) - 1)
    return np.where(numbers[position] == shown, position, -1)


def _nearest(numbers: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The position in `numbers` of the nearest frame (of two, the earlier one), -1 if there is none."""
    if not len(numbers):
        return np.full(len(shown), -1)
    after = np.minimum(np.searchsorted(numbers, shown), len(numbers) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(abs(shown - numbers[before]) <= abs(numbers[after] - shown), before, after)
