"""Frames that come a few at a time, checked and completed: all arrays that a model reads, in its types."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from slt_jax.config import ModelConfig
from slt_jax.data.clips import sure_landmarks
from slt_jax.data.schema import CLIP_ARRAYS, BatchArray, BatchSizes
from slt_jax.errors import UserError, nearest, shown
from slt_jax.streams import POSE, chosen

ARRAYS = {array.name: array for array in CLIP_ARRAYS if array.stream is not None}


def checked_frames(frames: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """The arrays of `frames` (n, ...) that a model with this `config` reads, and the pose if there is one.

    Masks that are not given hide nothing. Raises UserError that names the array.
    """
    if not isinstance(frames, Mapping):
        raise UserError(f"frames: {shown(frames)} is no mapping of arrays such as {', '.join(list(ARRAYS)[:3])}")
    if unknown := [name for name in frames if name not in ARRAYS]:
        raise UserError(f"frames: there is no array {shown(unknown[0])}{nearest(str(unknown[0]), ARRAYS)}")
    streams = chosen(config.streams)
    if missing := [stream.name for stream in streams if stream.name not in frames]:
        raise UserError(f"frames: the array '{missing[0]}' is not given, which this model reads")
    first = streams[0].name
    counted = np.shape(frames[first])[:1]
    if not counted or not counted[0]:
        raise UserError(f"frames: '{first}' has the shape {np.shape(frames[first])}; give one frame or more (n, ...)")
    read = {}
    for name, array in ARRAYS.items():
        if name in frames:
            read[name] = _array(array, frames[name], counted[0], config)
        elif array.stream in streams:  # a mask
            read[name] = _unmasked(array, counted[0], config)
    if POSE.name in read:
        _settle_pose(read)
    return {name: array for name, array in read.items() if ARRAYS[name].stream in (*streams, POSE)}


def _unmasked(array: BatchArray, count: int, config: ModelConfig) -> np.ndarray:
    return np.full(array.shape(BatchSizes(1, count, 0, config.pose_landmarks))[1:], array.stream == POSE)


def _array(array: BatchArray, given: Any, count: int, config: ModelConfig) -> np.ndarray:
    value = np.asarray(given)
    size = config.image_size
    wanted = array.shape(BatchSizes(1, count, size, config.pose_landmarks))[1:]
    normalised = array.images and value.dtype != np.uint8 and value.dtype.kind == "f"
    if normalised:  # as in a batch: channels first
        wanted = (count, 3, size, size)
    kinds = "f" if array.dtype.kind == "f" else "b" if array.dtype == bool else "u"
    right = value.dtype.kind in (kinds + "ui" if kinds in "bf" else kinds) and (kinds != "u" or value.dtype == np.uint8)
    if value.shape != wanted or not (right or normalised):
        raise UserError(
            f"frames: '{array.name}' is {value.dtype} {value.shape}; this model reads {array.dtype} {wanted}"
        )
    if normalised:
        return value.astype(np.float32).transpose(0, 2, 3, 1)
    return value.astype(array.dtype)


def _settle_pose(read: dict[str, np.ndarray]) -> None:
    """Coordinates that are no numbers are hidden, as the loader hides them."""
    points = read[POSE.name].reshape(len(read[POSE.name]), -1, 3)
    if not np.isfinite(points).all():
        finite = sure_landmarks(points, -np.inf)
        read[POSE.name] = np.where(finite[..., None], points, 0).reshape(len(points), -1)
        read[POSE.mask] = read.get(POSE.mask, True) & finite
