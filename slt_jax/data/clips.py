"""Turn one clip into arrays of fixed shape.

Images stay uint8; normalisation and flips happen on the device (augment.py).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles, read_pose
from slt_jax.data.kept_clips import KeptClip, Pose
from slt_jax.data.pose_layout import MIN_CONFIDENCE
from slt_jax.data.schema import CLIP_ARRAYS, PAD_MASK, BatchSizes, FeatureKinds, shapes
from slt_jax.data.shown import as_v9, by_number
from slt_jax.streams import BY_NAME, IMAGES, POSE, chosen

# (stream, positions among its frames or -1, arrays of the clip): puts these frames into the arrays.
ReadFrames = Callable[[str, np.ndarray, Mapping[str, np.ndarray]], None]


def padded_lengths(
    frames: Sequence[int], sequence_length: int, buckets: Sequence[int], *, v9_inputs: bool = False
) -> np.ndarray:
    """The frames to which each clip is padded, (N,): the first of `buckets` that holds all frames it may show.

    The last bucket is always `sequence_length`, and no clip shows more than that. v9 called frames real that it did not
    show, as many as `sequence_length`.
    """
    counts, lengths = np.asarray(frames), np.array(sorted({*buckets, sequence_length}))
    stride = -(-counts // sequence_length)
    shown = np.minimum(counts, sequence_length) if v9_inputs else -(-counts // stride)
    return lengths[np.searchsorted(lengths, shown)]


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
    kept: KeptClip | None = None,
    v9_inputs: bool = False,
    streams: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of at most `sequence_length` frames of a clip, written into `out` (a row of a batch) if given.

    `streams` are those to be read into new arrays (None: all). T is `sequence_length`, or the length of the arrays in
    `out`, which may be shorter if the clip fits. `v9_inputs` hands over what v9's data set did (see shown.py).
    What is read goes to `kept`, if there is one, and is taken from there.

    Names and types are those of schema.CLIP_ARRAYS: images uint8 (T, H, W, 3), their masks bool (T,), True = missing;
    pose float32 (T, 3L), pose_conf_mask bool (T, L), True = keep the landmark; pad_mask bool (T,), True = real frame.
    """
    if out is None:
        names = None if streams is None else tuple(streams)
        sizes = BatchSizes(1, sequence_length, image_size, num_landmarks, streams=names)
        out = {name: array[0] for name, array in empty(sizes).items()}
    loaded = cache(files.loaded)  # which reads a packed clip

    def read() -> Pose:
        return read_pose(loaded(), num_landmarks)

    pose, missing = kept.pose(read) if kept else read()
    if not len(pose) and files.last_frame() < 0:
        raise BadClip(f"{files.video_id}: no frame in any stream and no pose")
    read_frames, length = read_frames or partial(_read_images, loaded, kept), len(out[PAD_MASK])
    if v9_inputs:
        shown = as_v9(files, len(pose), sequence_length, length, rng)
    else:
        shown = by_number(files, len(pose), missing, sequence_length, length, rng)
    out[PAD_MASK][:] = np.arange(length) < shown.real
    for stream in IMAGES:
        if stream.name not in out:
            continue
        read_frames(stream.name, shown.positions[stream.name], out)
        if stream.mask:
            out[stream.mask][:] = shown.masks[stream.name]
    if POSE.name in out:
        _fill_pose(pose, shown.pose, min_confidence, out)
    return out


def empty(sizes: BatchSizes, *, features: FeatureKinds | None = None, allocate=np.empty) -> dict[str, np.ndarray]:
    """Uninitialised arrays for the files of clips. `features` replace images."""
    arrays = shapes(sizes, CLIP_ARRAYS, features)
    return {name: allocate(shape, dtype) for name, (shape, dtype) in arrays.items()}


def sure_landmarks(points: np.ndarray, min_confidence: float = MIN_CONFIDENCE) -> np.ndarray:
    """Which landmarks (..., L, 3) the model is shown, bool (..., L): those that are finite and confident."""
    return np.isfinite(points).all(axis=-1) & (points[..., 2] >= min_confidence)


def _fill_pose(pose: np.ndarray, numbers: np.ndarray, min_confidence: float, out: dict[str, np.ndarray]) -> None:
    out[POSE.name][:] = 0
    out[POSE.mask][:] = False
    known = np.flatnonzero(numbers >= 0)
    if len(known):
        rows = pose[numbers[known]].reshape(len(known), -1, 3)
        keep = sure_landmarks(rows, min_confidence)
        rows[~np.isfinite(rows)] = 0  # a NaN would survive the mask, as 0 * NaN
        out[POSE.name][known] = rows.reshape(len(known), -1)
        out[POSE.mask][known] = keep


def _read_images(
    loaded: Callable[[], ClipFiles],
    kept: KeptClip | None,
    stream: str,
    positions: np.ndarray,
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Decode into (T, H, W, 3): black if the position is -1, copied if it repeats."""
    out = arrays[stream]
    if kept:
        pixels, there = kept.frames(stream)
        black = positions < 0
        wanted = positions[~black]
        for position in dict.fromkeys(wanted[~there[wanted]].tolist()):
            files, frame = loaded(), np.empty_like(pixels[position])  # decoders may try twice, and another may look
            files.frames[stream].decode(files.video_id, position, frame)
            pixels[position], there[position] = frame, True
        if not black.all():
            np.take(pixels, np.where(black, 0, positions), axis=0, out=out, mode="clip")
        out[black] = 0
        return
    files = loaded()
    frames = files.frames[stream]
    for t, position in enumerate(positions):
        if position < 0:
            out[t] = 0
        elif t and position == positions[t - 1]:
            out[t] = out[t - 1]
        else:
            frames.decode(files.video_id, int(position), out[t])


def flip_permutation(num_landmarks: int) -> tuple[int, ...] | None:
    """Which landmark takes each one's place in a mirror; `None` if the numbering is unknown.

    13 landmarks are BlazePose's 0 and 11-22 (nose, then left/right pairs from the shoulders to the thumbs); 14 have the
    neck after them; 17 are the nose and eight pairs (`upper17`, COCO); 33 are all of BlazePose, where the eyes (1-3 and
    4-6) come as two threes and everything from 7 on in pairs; 55 are the 13 and then the joints of the left and of the
    right hand. slt_jax/data/landmarks.py names them.
    """
    pairs = tuple(n + 1 if n % 2 else n - 1 for n in range(1, num_landmarks))
    if num_landmarks in (13, 17):
        return (0, *pairs)
    if num_landmarks == 14:
        return (0, *pairs[:-1], 13)
    if num_landmarks == 55:  # upper13+hands: the joints of one hand stand where the other's did
        return (0, *pairs[:12], *range(34, 55), *range(13, 34))
    if num_landmarks == 33:
        return (0, 4, 5, 6, 1, 2, 3, *pairs[6:])
    return None


def cannot_flip(streams: Sequence[str] | None, num_landmarks: int) -> str:
    """Why clips of these streams (None: all) cannot be mirrored; empty if they can."""
    there = chosen(streams)
    if POSE in there and flip_permutation(num_landmarks) is None:
        known = "which landmarks are left and right is known for 13, 14, 17, 33 and 55"
        return f"--pose-landmarks {num_landmarks}: {known}"
    lone = [stream for stream in there if BY_NAME[stream.mirror] not in there]
    if not lone:
        return ""
    return f"--streams: a mirrored {lone[0].title} is the {BY_NAME[lone[0].mirror].title}, which is left out"
