"""Decoded frames and poses of a split in memory, which are read when they are first asked for.

A frame is decoded once, in whichever process that is; poses, which are small, are kept by each process for itself.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from slt_jax.data.clip_files import ClipFiles
from slt_jax.data.packs import PackedClips
from slt_jax.data.workers import SharedMemory

Pose = tuple[np.ndarray, Mapping[str, np.ndarray]]  # what `clip_files.read_pose` returns


@dataclass(frozen=True)
class KeptClips:
    """Room for all frames of a split. Worker processes that get it when they start share it."""

    shape: tuple[int, int, int]  # of a frame, uint8
    starts: Mapping[str, np.ndarray]  # of each stream: the place of each clip's first frame among all, int64 (N,)
    counts: Mapping[str, np.ndarray]  # and how many frames it has (N,)
    total: int  # frames
    memory: SharedMemory  # the frames, then a byte each that says whether the frame is there
    bytes: int  # what all frames and poses take
    poses: dict[int, Pose] = field(default_factory=dict)

    @classmethod
    def within(
        cls, limit: int, files: Sequence[ClipFiles], streams: Sequence[str], image_size: int, pose_bytes: int
    ) -> "KeptClips | None":
        """Room for the frames of these clips as `image_size` pixels square; None if it takes more than `limit` bytes.

        `pose_bytes` are those of a frame's pose in all processes. The system gives the memory as frames come.
        """
        if limit <= 0 or not hasattr(os, "memfd_create"):  # else what is shared lies on a disk, which may be full
            return None
        shape = (image_size, image_size, 3)
        counts = frame_counts(files, streams)
        ends = np.cumsum(np.concatenate([*counts.values()], dtype=np.int64))
        total = int(ends[-1])
        needed = total * (math.prod(shape) + 1)
        poses = int(np.max([*counts.values()], axis=0).sum()) * pose_bytes
        if not 0 < needed <= limit - poses:
            return None
        first = np.split(ends - np.concatenate([*counts.values()]), len(counts))
        starts, memory = dict(zip(counts, first, strict=True)), SharedMemory(needed, 1)
        return cls(shape, starts, counts, total, memory, memory.slot_bytes + poses)

    def holds(self, clips: Iterable[int]) -> bool:
        """Whether nothing of these clips of the split has to be read any more."""
        return all(
            clip in self.poses and all(self.frames(clip, name)[1].all() for name in self.starts) for clip in clips
        )

    def frames(self, clip: int, stream: str) -> tuple[np.ndarray, np.ndarray]:
        """The frames of a clip, uint8 (n, H, W, 3), and which of them are there, bool (n,): to be filled.

        A frame counts as being there only once it is whole.
        """
        start, count = int(self.starts[stream][clip]), int(self.counts[stream][clip])
        block, size = self.memory.slot(0), math.prod(self.shape)
        there = block[self.total * size + start :][:count].view(bool)
        return block[start * size :][: count * size].reshape(count, *self.shape), there


@dataclass(frozen=True)
class KeptClip:
    """A clip of them, by its number in the split."""

    kept: KeptClips
    number: int

    def frames(self, stream: str) -> tuple[np.ndarray, np.ndarray]:
        """See `KeptClips.frames`."""
        return self.kept.frames(self.number, stream)

    def pose(self, read: Callable[[], Pose]) -> Pose:
        """The pose, which `read` reads if it is not kept yet. Not to be written to."""
        known = self.kept.poses.get(self.number)
        if known is None:
            known = self.kept.poses[self.number] = read()
        return known


def frame_counts(files: Sequence[ClipFiles], streams: Sequence[str]) -> dict[str, np.ndarray]:
    """How many images each clip has in each of these streams, int64 (N,)."""
    if isinstance(files, PackedClips):  # whose index knows, where a million clips take seconds one by one
        seen = files.counts().seen
        return {name: np.asarray(seen[name], np.int64) for name in streams}
    return {name: np.array([len(clip.frames[name].numbers) for clip in files], np.int64) for name in streams}
