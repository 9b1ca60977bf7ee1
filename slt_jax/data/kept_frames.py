"""Decoded frames of a split in memory: each is decoded when it is first asked for, in whichever process that is."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slt_jax.data.clip_files import ClipFiles
from slt_jax.data.packs import PackedClips
from slt_jax.data.workers import SharedMemory


@dataclass(frozen=True)
class KeptFrames:
    """Room for all frames of a split. Worker processes that get it when they start share it."""

    shape: tuple[int, int, int]  # of a frame, uint8
    starts: Mapping[str, np.ndarray]  # of each stream: the place of each clip's first frame among all, int64 (N,)
    counts: Mapping[str, np.ndarray]  # and how many frames it has (N,)
    total: int  # frames
    memory: SharedMemory  # the frames, then a byte each that says whether the frame is there

    @classmethod
    def within(
        cls, limit: int, files: Sequence[ClipFiles], streams: Sequence[str], image_size: int
    ) -> "KeptFrames | None":
        """Room for the frames of these clips as `image_size` pixels square; None if it takes more than `limit` bytes.

        The system gives the memory as frames come.
        """
        if limit <= 0 or not hasattr(os, "memfd_create"):  # else what is shared lies on a disk, which may be full
            return None
        shape = (image_size, image_size, 3)
        counts = frame_counts(files, streams)
        ends = np.cumsum(np.concatenate([*counts.values()], dtype=np.int64))
        total = int(ends[-1])
        needed = total * (int(np.prod(shape)) + 1)
        if not 0 < needed <= limit:
            return None
        starts = np.split(ends - np.concatenate([*counts.values()]), len(counts))
        return cls(shape, dict(zip(counts, starts, strict=True)), counts, total, SharedMemory(needed, 1))

    @property
    def bytes(self) -> int:
        """What all frames take."""
        return self.memory.slot_bytes

    def of_clip(self, clip: int, stream: str) -> tuple[np.ndarray, np.ndarray]:
        """The frames of a clip of the split, uint8 (n, H, W, 3), and which of them are there, bool (n,): to be filled.

        A frame counts as being there only once it is whole.
        """
        start, count = int(self.starts[stream][clip]), int(self.counts[stream][clip])
        block, size = self.memory.slot(0), int(np.prod(self.shape))
        there = block[self.total * size + start :][:count].view(bool)
        return block[start * size :][: count * size].reshape(count, *self.shape), there


def frame_counts(files: Sequence[ClipFiles], streams: Sequence[str]) -> dict[str, np.ndarray]:
    """How many images each clip has in each of these streams, int64 (N,)."""
    if isinstance(files, PackedClips):  # whose index knows, where a million clips take seconds one by one
        seen = files.counts().seen
        return {name: np.asarray(seen[name], np.int64) for name in streams}
    return {name: np.array([len(clip.frames[name].numbers) for clip in files], np.int64) for name in streams}
