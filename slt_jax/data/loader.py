"""Batches of clips: shuffled by epoch, split by process, read by workers, resumable at any batch.

A batch is one element of a Grain `MapDataset`, computed from (seed, epoch, batch number) alone. So it does not matter
how many workers compute it, and resuming in the middle of an epoch is a slice. Clips are decoded straight into the
batch's arrays.
"""

import functools
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from slt_jax.data.clips import MIN_CONFIDENCE, BadClip, ClipFiles, empty, flip_permutation, read_clip
from slt_jax.data.metadata import Clip
from slt_jax.data.text import IGNORE
from slt_jax.errors import UserError

logger = logging.getLogger(__name__)

PREFETCH = 2  # batches decoded ahead of the training step


@dataclass(frozen=True)
class Batch:
    """`arrays` goes to the device; rows with `arrays["valid"]` False only fill the batch up."""

    arrays: dict[str, np.ndarray]
    video_ids: list[str]
    texts: list[str]


@dataclass(frozen=True)
class _Batches:
    """The batches of one epoch by number, as a Grain data source. Everything here travels to the workers."""

    files: Sequence[ClipFiles]
    labels: np.ndarray
    batch_size: int  # over all processes
    sequence_length: int
    image_size: int
    num_landmarks: int
    seed: int
    train: bool
    shard_index: int
    shard_count: int
    skip_bad_clips: bool
    flip_probability: float
    min_confidence: float
    threads: int = 1
    epoch: int = 0
    order: np.ndarray = field(default_factory=lambda: np.arange(0))

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch_size)

    def at(self, epoch: int) -> "_Batches":
        """The batches of an epoch, in its order."""
        clips = len(self.files)
        order = _generator(self.seed, epoch, 0).permutation(clips) if self.train else np.arange(clips)
        return replace(self, epoch=epoch, order=order)

    def __getitem__(self, number: int) -> dict[str, Any]:
        start = int(number) * self.batch_size
        size = self.batch_size // self.shard_count
        places = start + self.shard_index * size + np.arange(size)  # this process's rows of the global batch
        real = places < len(self.order)
        clips = self.order[np.where(real, places, start)]  # rows past the end show the batch's first clip
        arrays = empty(size, self.sequence_length, self.image_size, self.num_landmarks)
        arrays |= {"flip": np.zeros(size, bool), "valid": real.copy(), "labels": self.labels[clips].copy()}

        rows = [row for row in range(size) if real[row]] or [0]
        read = functools.partial(self._read, arrays, clips)
        if self.threads > 1:
            with ThreadPoolExecutor(min(self.threads, len(rows)), "slt-decode") as pool:
                problems = list(pool.map(read, rows))
        else:
            problems = [read(row) for row in rows]
        for row in range(rows[-1] + 1, size):
            for array in arrays.values():
                array[row] = array[rows[0]]
        arrays["valid"][~real] = False
        arrays["labels"][~arrays["valid"]] = IGNORE
        return {"arrays": arrays, "clips": clips, "bad": [p for p in problems if p is not None]}

    def _read(self, arrays: dict[str, np.ndarray], clips: np.ndarray, row: int) -> tuple[int, str] | None:
        """Fill one row; the clip and what is wrong with it, where bad clips are skipped."""
        clip = int(clips[row])
        rng = _generator(self.seed, self.epoch, clip + 1) if self.train else None
        out = {name: array[row] for name, array in arrays.items()}
        arrays["flip"][row] = rng is not None and rng.random() < self.flip_probability
        try:
            read_clip(
                self.files[clip], sequence_length=self.sequence_length, image_size=self.image_size,
                num_landmarks=self.num_landmarks, rng=rng, min_confidence=self.min_confidence, out=out,
            )
        except BadClip as error:
            if not self.skip_bad_clips:
                raise
            for array in out.values():
                array[...] = 0
            for mask in ("pad_mask", "miss_mask_hl", "miss_mask_hr"):  # attention needs a frame to look at
                out[mask][...] = True
            arrays["valid"][row] = arrays["flip"][row] = False
            return clip, str(error)
        return None


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.default_rng(entropy)


class Loader:
    """The batches of a split; see `epoch`. Works the same for any number of workers."""

    def __init__(
        self, clips: Sequence[Clip], files: Mapping[str, ClipFiles], labels: np.ndarray, *,
        batch_size: int, sequence_length: int, image_size: int, num_landmarks: int, seed: int = 1234,
        train: bool = False, num_workers: int = 0, shard_index: int = 0, shard_count: int = 1,
        skip_bad_clips: bool = False, flip_probability: float = 0.2, min_confidence: float = MIN_CONFIDENCE,
    ):
        """`labels` int32 (N, S) belong to `clips` row by row; `batch_size` counts the rows of all processes."""
        if not clips:
            raise UserError("a split without clips cannot be loaded")
        if len(labels) != len(clips):
            raise ValueError(f"{len(labels)} rows of labels for {len(clips)} clips")
        if batch_size < 1 or batch_size % shard_count:
            raise UserError(f"--batch-size {batch_size} does not divide into {shard_count} processes")
        if train and flip_probability > 0 and flip_permutation(num_landmarks) is None:
            known = "which landmarks are left and right is known for 13 and 33"
            logger.warning("no horizontal flips with --pose-landmarks %d: %s", num_landmarks, known)
            flip_probability = 0.0
        self.clips = list(clips)
        self.num_workers = num_workers
        self.bad_clips: dict[str, str] = {}  # id: what is wrong, filled as batches are read
        self._source = _Batches(
            files=[files[clip.video_id] for clip in clips],
            labels=np.ascontiguousarray(labels, np.int32),
            batch_size=batch_size,
            sequence_length=sequence_length,
            image_size=image_size,
            num_landmarks=num_landmarks,
            seed=seed,
            train=train,
            shard_index=shard_index,
            shard_count=shard_count,
            skip_bad_clips=skip_bad_clips,
            flip_probability=flip_probability,
            min_confidence=min_confidence,
            threads=1 if num_workers else _cores(),
        )
        if num_workers:
            _check_shared_memory(num_workers, self.batch_bytes)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._source)

    @property
    def batch_bytes(self) -> int:
        """Host memory of one batch of this process."""
        source = self._source
        images = 9 * source.image_size**2  # three streams of three colours
        return source.batch_size // source.shard_count * source.sequence_length * (images + 13 * source.num_landmarks)

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Batch]:
        """The batches `start_batch`, `start_batch` + 1, ... of an epoch.

        Close the iterator (or let it be collected) to end it early; its workers end with it.
        """
        if start_batch >= len(self):
            return
        iterator = iter(self._dataset(epoch, start_batch))
        try:
            for element in iterator:
                yield self._batch(element)
        except RuntimeError as error:
            if "exit code" not in str(error):
                raise
            died = "a data worker died" + str(error).partition("terminated unexpectedly")[2].partition(".")[0]
            raise UserError(f"{died}; was memory short? Try a smaller --num-workers or --batch-size") from None
        finally:
            iterator.close()

    def _dataset(self, epoch: int, start_batch: int):
        import grain  # 1.7 s of import, for those who need it

        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1 if self.num_workers else PREFETCH)
        batches = grain.MapDataset.source(self._source.at(epoch))
        dataset = batches.slice(slice(start_batch, None)).to_iter_dataset(options)
        if self.num_workers:
            _parse_absl_flags()
            # Frames travel in shared memory; what is small is pickled.
            dataset = grain.experimental.WithOptionsIterDataset(
                dataset, grain.experimental.DatasetOptions(min_shm_size=1 << 16)
            )
            workers = min(self.num_workers, len(self) - start_batch)
            processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
            dataset = dataset.mp_prefetch(processes, worker_init_fn=_start_worker)
        return dataset

    def _batch(self, element: dict[str, Any]) -> Batch:
        clips = [self.clips[n] for n in element["clips"]]
        for position, problem in element["bad"]:
            video_id = self.clips[position].video_id
            if video_id not in self.bad_clips:
                self.bad_clips[video_id] = problem
                logger.warning("clip %s is skipped, %d so far: %s", video_id, len(self.bad_clips), problem)
        arrays = {name: np.asarray(array) for name, array in element["arrays"].items()}
        return Batch(arrays, [clip.video_id for clip in clips], [clip.text for clip in clips])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_shared_memory(num_workers: int, batch_bytes: int) -> None:
    """A full /dev/shm (64 MiB in a plain container) kills workers by a bus error; say it before."""
    needed = 3 * num_workers * batch_bytes  # in the making, in the queue, in the parent's buffer
    if os.path.isdir("/dev/shm") and (free := shutil.disk_usage("/dev/shm").free) < needed:
        sizes = f"{num_workers} workers need {needed / 2**20:.0f} MiB of shared memory, /dev/shm has {free / 2**20:.0f}"
        raise UserError(f"--num-workers {num_workers}: {sizes}; use fewer workers (0 needs none) or a larger /dev/shm")


def _parse_absl_flags() -> None:
    """Grain reads absl flags, which nobody parses outside an absl program."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(index: int, count: int) -> None:
    """In a new worker: leave the accelerator alone, leave Ctrl-C to the parent, and never outlive it."""
    import multiprocessing

    import jax

    jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
