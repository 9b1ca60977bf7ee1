"""How the pose stream starts if no weights are given."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles, read_pose
from slt_jax.data.clips import sure_landmarks

NORM = "encoder.pose_projector.layers.0"  # the projector's LayerNorm, whose input has as many columns as a pose
CLIPS = 256  # whose poses are read
LEAST = 0.05  # standard deviation below which a column is noise; after the LayerNorm all columns together have 1


def standardised_poses(files: Sequence[ClipFiles], landmarks: int) -> dict[str, Any]:
    """The scale and bias of the pose projector's LayerNorm that standardise each column over the clips.

    People differ little from the average, and a sign moves a few landmarks a little. After a plain LayerNorm, most of a
    pose is the same in every frame, and a model learns from the rest hundreds of steps later. Empty without poses.
    """
    poses = [pose for clip in spread(files) if len(pose := seen_pose(clip, landmarks))]
    if not poses:
        return {}
    rows = np.concatenate(poses).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-6)  # as the LayerNorm does
    scale = 1 / np.maximum(rows.std(axis=0), LEAST)
    return {f"{NORM}.scale": np.float32(scale), f"{NORM}.bias": np.float32(-rows.mean(axis=0) * scale)}


def knows_poses(state: Collection[str]) -> bool:
    """Whether a checkpoint with these torch keys brings its own."""
    return f"{NORM}.weight" in state


def spread(files: Sequence[ClipFiles]) -> list[ClipFiles]:
    """At most `CLIPS` clips, spread evenly over the split, as an index may be sorted by signer."""
    chosen = np.linspace(0, len(files) - 1, min(len(files), CLIPS)).round().astype(int)
    return [files[number] for number in chosen]


def seen_pose(files: ClipFiles, landmarks: int) -> np.ndarray:
    """The pose (frames, 3L) as the model sees it, with unsure landmarks 0; no frames if the clip cannot be read."""
    try:
        pose, _ = read_pose(files.loaded(), landmarks)
    except BadClip:  # training will say so, or skip it
        return np.zeros((0, 3 * landmarks), np.float32)
    points = pose.reshape(len(pose), landmarks, 3)
    return np.where(sure_landmarks(points)[..., None], points, 0).reshape(pose.shape)
