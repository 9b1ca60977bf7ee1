"""Batches of crops: shuffled by epoch, split by process, read ahead, resumable at any batch.

A batch is computed from (seed, epoch, what was taken, its number) alone, whoever computes it.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from slt_jax.data import workers
from slt_jax.errors import UserError
from slt_jax.pretraining.crops import Crops
from slt_jax.pretraining.settings import DatasetSettings

KEPT_BYTES = 1 << 30  # decoded crops that take less are decoded once and stay in memory
Taken = Sequence[Sequence[int]]  # (batch size, batches): what was taken from an epoch, from its beginning on


@dataclass(frozen=True)
class CropBatch:
    """A batch. `arrays` has `images`, uint8 (rows of this process, S, S, 3)."""

    arrays: dict[str, np.ndarray]
    names: list[str]

    @property
    def count(self) -> int:
        """The crops in it."""
        return len(self.names)


class CropBatches:
    """The batches of all epochs. Close it after use."""

    def __init__(
        self,
        crops: Crops,
        settings: DatasetSettings,
        image_size: int,
        seed: int,
        *,
        shard_index: int = 0,
        shard_count: int = 1,
        kept_bytes: int = KEPT_BYTES,
    ):
        """Crops are read as `image_size` pixels square, by process `shard_index` of `shard_count` its rows.

        Raises UserError if a batch does not divide into the processes or is larger than all crops.
        """
        size = settings.batch_size
        if size < 1 or size % shard_count:
            raise UserError(f"--batch-size {size} does not divide into {shard_count} processes")
        if size > len(crops):
            raise UserError(f"--batch-size {size} is larger than the data: there are {len(crops)} crops")
        shape = (image_size, image_size, 3)
        kept = _Kept(len(crops), shape) if len(crops) * int(np.prod(shape)) < kept_bytes else None
        # What is kept in memory is not worth another process, nor a second copy there.
        self._workers = 0 if kept else settings.num_workers
        self._source = _Source(
            crops, shape, size, size // shard_count, shard_index, seed if settings.shuffle else None,
            threads=1 if self._workers else workers.readers(), kept=kept,
        )  # fmt: skip
        self._idle: tuple[int, workers.Ahead] | None = None  # the next epoch, and what reads it already
        if self._workers:
            workers.close_at_exit(self)

    def batches_left(self, epoch: int, taken: Taken = ()) -> int:
        """How many `batches` there are."""
        return self._starting(epoch, taken).left

    def batches(self, epoch: int, taken: Taken = ()) -> Iterator[CropBatch]:
        """The whole batches of an epoch (counted from 0) that are left after `taken`, whatever their size now.

        Those of the next epoch are read ahead until `close`. Raises UserError for a picture that cannot be read.
        """
        batches = self._batches(epoch, taken)
        if self._workers:
            workers.close_at_exit(batches)
        return batches

    def _batches(self, epoch: int, taken: Taken) -> Iterator[CropBatch]:
        source = self._starting(epoch, taken)
        if not source.left:
            return
        if self._idle is not None and self._idle[0] == epoch and not source.taken:
            ahead, self._idle = self._idle[1], None
        else:
            self.close()
            ahead = workers.Ahead(source, 0, self._workers, source.batch_bytes)
        try:
            for _ in range(source.left):
                element = next(ahead)
                yield CropBatch(element["arrays"], [source.crops.name(crop) for crop in element["crops"]])
        except BaseException:
            ahead.close()
            raise
        self.close()
        self._idle = (epoch + 1, ahead)

    def _starting(self, epoch: int, taken: Taken) -> "_Source":
        return dataclasses.replace(self._source, epoch=epoch, taken=tuple(map(tuple, taken)))

    def close(self) -> None:
        """End the workers that wait for the next epoch."""
        if self._idle is not None:
            self._idle[1].close()
            self._idle = None


class _Kept:
    """Decoded crops: memory is taken as they come."""

    def __init__(self, count: int, shape: tuple[int, ...]):
        self._pixels = np.empty((count, *shape), np.uint8)
        self._there = np.zeros(count, bool)

    def holds(self, numbers: Sequence[int]) -> bool:
        """Whether none of these crops has to be read any more."""
        return bool(self._there[numbers].all())

    def read(self, crops: Crops, number: int, out: np.ndarray) -> None:
        """As `crops.decode`."""
        if not self._there[number]:
            crops.decode(number, self._pixels[number])
            self._there[number] = True
        out[:] = self._pixels[number]


@dataclass(frozen=True)
class _Source:
    """All batches of all epochs by number, from `epoch` on, and there after `taken`. It is sent to the workers."""

    crops: Crops
    shape: tuple[int, ...]
    batch_size: int
    rows: int  # of this process
    shard_index: int
    seed: int | None  # None reads in the order of the crops
    threads: int = 1
    kept: _Kept | None = None
    epoch: int = 0
    taken: tuple[tuple[int, ...], ...] = ()

    @property
    def batch_bytes(self) -> int:
        return self.rows * int(np.prod(self.shape)) + workers.ALIGNMENT

    @property
    def gone(self) -> int:
        return sum(size * count for size, count in self.taken)

    @property
    def left(self) -> int:
        return max(0, len(self.crops) - self.gone) // self.batch_size

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, number, gone = self.epoch, int(index), self.gone
        if number >= self.left:
            later, number = divmod(number - self.left, len(self.crops) // self.batch_size)
            epoch, gone = epoch + 1 + later, 0
        start = gone + number * self.batch_size + self.shard_index * self.rows
        chosen = _order(self.seed, epoch, len(self.crops))[start : start + self.rows].tolist()
        images = workers.allocate((self.rows, *self.shape), np.uint8)
        read = self.crops.decode if self.kept is None else partial(self.kept.read, self.crops)
        nothing_to_read = self.kept is not None and self.kept.holds(chosen)
        workers.each(read, 1 if nothing_to_read else self.threads, chosen, images)
        return {"arrays": {"images": images}, "crops": chosen}


@lru_cache(2)  # the epoch under way, and the next
def _order(seed: int | None, epoch: int, count: int) -> np.ndarray:
    return np.arange(count) if seed is None else np.random.default_rng((seed, epoch)).permutation(count)
