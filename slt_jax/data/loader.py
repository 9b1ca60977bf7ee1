"""Batches of clips: shuffled by epoch, split by process, read by workers, resumable at any batch.

A batch is computed from (seed, epoch, batch number) alone. So it does not matter how many workers compute it, and an
epoch can be resumed at any of its batches. Clips are decoded straight into the batch's arrays.
"""

import dataclasses
import functools
import hashlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slt_jax.data import workers
from slt_jax.data.clip_files import BadClip, ClipFiles
from slt_jax.data.clips import MIN_CONFIDENCE, cannot_flip, empty, read_clip
from slt_jax.data.feature_cache import Features
from slt_jax.data.glosses import BLANK
from slt_jax.data.kept_clips import KeptClip, KeptClips
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packs import listed
from slt_jax.data.schema import CLIP_ARRAYS, PAD_MASK, ROW_ARRAYS, BatchSizes, shapes
from slt_jax.data.text import IGNORE
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES, MASKED, chosen

logger = logging.getLogger(__name__)
OF_ROWS = {array.name for array in ROW_ARRAYS}  # arrays that no file of a clip fills


@dataclass(frozen=True)
class Batch:
    """A batch. `arrays` go to the device; rows with `arrays["valid"]` False only fill the batch up."""

    arrays: dict[str, np.ndarray]
    video_ids: list[str]
    texts: list[str]
    langs: Sequence[str] = ()  # of each row, see ClipRow.lang

    @property
    def names(self) -> list[str]:
        """What each row is called: the id of its clip."""
        return self.video_ids

    @property
    def count(self) -> int:
        """Clips that are no filling."""
        return int(self.arrays["valid"].sum())


@dataclass(frozen=True)
class LoaderSettings:
    """How clips become batches. Raises UserError if the batch does not divide into the processes."""

    batch_size: int  # rows, counting all processes
    sequence_length: int
    image_size: int
    num_landmarks: int
    seed: int = 1234
    train: bool = False  # shuffled and flipped, and sampled at random
    num_workers: int = 0
    shard_index: int = 0  # of this process
    shard_count: int = 1
    skip_bad_clips: bool = False
    flip_probability: float = 0.2
    min_confidence: float = MIN_CONFIDENCE
    v9_inputs: bool = False  # frames, masks and padding as v9's data set, see shown.py
    streams: tuple[str, ...] | None = None  # by name; None for all

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.shard_count:
            raise UserError(f"--batch-size {self.batch_size} does not divide into {self.shard_count} processes")

    @property
    def rows(self) -> int:
        """The rows of a batch in this process."""
        return self.batch_size // self.shard_count

    def sizes(self, frames: int) -> BatchSizes:
        """The sizes of a batch of this process."""
        return BatchSizes(self.rows, frames, self.image_size, self.num_landmarks, streams=self.streams)


Taken = Sequence[Sequence[int]]  # (batch size, batches): what was taken from an epoch, from its beginning on


@dataclass(frozen=True)
class _Batches:
    """All batches of all epochs by number. All of this is sent to the workers.

    With `taken`, they begin within `epoch`: with the clips that those batches left.
    """

    settings: LoaderSettings
    files: Sequence[ClipFiles]
    labels: np.ndarray
    lengths: np.ndarray  # frames to which each clip is padded; all clips of a batch have the same
    threads: int = 1
    features: Features | None = None  # what is read instead of images
    epoch: int = 0
    taken: Taken = ()
    glosses: np.ndarray | None = None  # beside the labels, see data/glosses.py
    kept: KeptClips | None = None

    @functools.cached_property
    def batches(self) -> int:
        """Batches in a whole epoch."""
        return len(self._batched(np.arange(len(self.files)), self.settings.batch_size)[1])

    @functools.cached_property
    def left(self) -> int:
        """Batches in what is left of the epoch that these begin with."""
        return len(self.order(self.epoch, self.taken)[1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, taken = int(index), self.taken
        if number < self.left:
            epoch = self.epoch
        else:
            epoch, number = divmod(number - self.left, self.batches)
            epoch, taken = epoch + self.epoch + 1, ()
        clips, real = self._rows(epoch, number, taken)
        size = len(clips)
        arrays = empty(
            self.settings.sizes(int(self.lengths[clips[0]])),
            features=self.features.kinds if self.features else None,
            allocate=workers.allocate,
        )
        arrays |= {"flip": np.zeros(size, bool), "valid": real.copy(), "labels": self.labels[clips].copy()}
        if self.glosses is not None:
            arrays["glosses"] = np.where(real[:, None], self.glosses[clips], BLANK)
        rows = [row for row in range(size) if row == 0 or real[row - 1]]  # the real rows, and the first filler row
        read = functools.partial(self._read, epoch, arrays, clips)
        nothing_to_read = self.kept is not None and self.kept.holds(clips[rows].tolist())
        problems = workers.each(read, 1 if nothing_to_read else self.threads, rows)
        for row in range(rows[-1] + 1, size):
            for array in arrays.values():
                array[row] = array[rows[-1]]
        arrays["valid"][~real] = False
        arrays["labels"][~arrays["valid"]] = IGNORE
        return {"arrays": arrays, "clips": clips, "bad": [p for p in problems if p is not None]}

    def _rows(self, epoch: int, number: int, taken: Taken) -> tuple[np.ndarray, np.ndarray]:
        """The clips in this process's rows, and which rows are real. Filler rows have the batch's first clip."""
        order, spans = self.order(epoch, taken)
        start, end = spans[number]
        size = self.settings.rows
        places = start + self.settings.shard_index * size + np.arange(size)
        real = places < end
        return order[np.where(real, places, start)], real

    def order(self, epoch: int, taken: Taken = ()) -> tuple[np.ndarray, np.ndarray]:
        """The clips of an epoch that are left after `taken`, and the spans of their batches, see `_batched`."""
        key = epoch, tuple(map(tuple, taken))
        known = self._known_order.get("last")
        if known is None or known[0] != key:  # a million clips take half a second, and each batch asks
            known = self._known_order["last"] = key, self._order(epoch, taken)
        return known[1]

    @functools.cached_property
    def _known_order(self) -> dict[str, Any]:
        return {}

    def _order(self, epoch: int, taken: Taken) -> tuple[np.ndarray, np.ndarray]:
        order = np.arange(len(self.files))
        if self.settings.train:
            order = _generator(self.settings.seed, epoch, 0).permutation(len(order))
        for size, count in taken:
            clips, spans = self._batched(order, size)
            seen = [clips[start : min(start + size, end)] for start, end in spans[:count]]
            order = order[~np.isin(order, np.concatenate(seen))] if seen else order
        return self._batched(order, self.settings.batch_size)

    def _batched(self, order: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Clips in batches of `size`: those of one length side by side, and the spans (batches, 2) of the batches.

        A span is where a batch starts and where the clips of its length end. Batches come in the order of their first
        clips, which mixes the lengths evenly over the epoch.
        """
        places = np.argsort(self.lengths[order], kind="stable")
        _, counts = np.unique(self.lengths[order], return_counts=True)
        ends = np.cumsum(counts)
        groups = [np.arange(end - count, end, size) for end, count in zip(ends, counts, strict=True)]
        starts = np.concatenate([np.zeros(0, int), *groups])
        spans = np.stack([starts, np.repeat(ends, [len(group) for group in groups])], axis=1)
        return order[places], spans[np.argsort(places[starts])]

    def _read(self, epoch: int, arrays: dict[str, np.ndarray], clips: np.ndarray, row: int) -> tuple[int, str] | None:
        """Fill one row. Returns the clip and what is wrong with it, if bad clips are skipped."""
        clip, settings = int(clips[row]), self.settings
        rng = _generator(settings.seed, epoch, clip + 1) if settings.train else None
        out = {name: array[row] for name, array in arrays.items() if name not in OF_ROWS}
        arrays["flip"][row] = rng is not None and rng.random() < settings.flip_probability
        try:
            files, read_frames = self.files[clip], None
            if self.features:
                files, read_frames = self.features.of_clip(files, bool(arrays["flip"][row]))
            read_clip(
                files,
                sequence_length=settings.sequence_length,
                image_size=settings.image_size,
                num_landmarks=settings.num_landmarks,
                rng=rng,
                min_confidence=settings.min_confidence,
                out=out,
                read_frames=read_frames,
                kept=KeptClip(self.kept, clip) if self.kept else None,
                v9_inputs=settings.v9_inputs,
            )
        except BadClip as error:
            if not settings.skip_bad_clips:
                raise
            for array in out.values():
                array[...] = 0
            for mask in (PAD_MASK, *(stream.mask for stream in MASKED)):  # attention needs at least one frame
                if mask in out:
                    out[mask][...] = True
            arrays["valid"][row] = arrays["flip"][row] = False
            return clip, str(error)
        return None


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.default_rng(entropy)


class Loader:
    """The batches of a split; see `epoch`. The number of workers does not change them."""

    def __init__(
        self,
        clips: Sequence[ClipRow],
        files: Mapping[str, ClipFiles],
        labels: np.ndarray,
        settings: LoaderSettings,
        *,
        lengths: np.ndarray | None = None,
        glosses: np.ndarray | None = None,
    ):
        """`labels`, int32 (N, S), has a row for each of `clips`, and so have `glosses`, (N, G), where there are some.

        `lengths` (N,): frames to which each clip is padded, see `padded_lengths`; None is `sequence_length` for all.
        Raises UserError if there are no clips.
        """
        if not clips:
            raise UserError("a split without clips cannot be loaded")
        if len(labels) != len(clips):
            raise ValueError(f"{len(labels)} rows of labels for {len(clips)} clips")
        flips = settings.train and settings.flip_probability > 0
        if flips and (reason := cannot_flip(settings.streams, settings.num_landmarks)):
            logger.warning("no horizontal flips with %s", reason)
            settings = dataclasses.replace(settings, flip_probability=0.0)
        self.clips = list(clips)
        self.bad_clips: dict[str, str] = {}  # id: what is wrong, filled as batches are read
        self._source = _Batches(
            settings,
            files=listed(files, [clip.video_id for clip in clips]),
            labels=np.ascontiguousarray(labels, np.int32),
            lengths=np.full(len(clips), settings.sequence_length) if lengths is None else lengths,
            threads=1 if settings.num_workers else workers.readers(),
            glosses=glosses,
        )
        if settings.num_workers:
            workers.close_at_exit(self)
        self._idle: tuple[int, Any] | None = None  # the next epoch, and the iterator that waits for it

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._source.batches

    @property
    def settings(self) -> LoaderSettings:
        """The settings that it was made with."""
        return self._source.settings

    @property
    def lengths(self) -> dict[int, int]:
        """How many clips are padded to each number of frames."""
        lengths, counts = np.unique(self._source.lengths, return_counts=True)
        return dict(zip(lengths.tolist(), counts.tolist(), strict=True))

    @property
    def batch_bytes(self) -> int:
        """Bytes of host memory for one batch of this process, with the longest clips."""
        sizes = self.settings.sizes(self.settings.sequence_length)
        features = self._source.features
        arrays = shapes(sizes, CLIP_ARRAYS, features.kinds if features else None).values()
        return sum(math.prod(shape) * dtype.itemsize + workers.ALIGNMENT for shape, dtype in arrays)

    @property
    def files(self) -> Sequence[ClipFiles]:
        """The files of each of `clips`."""
        return self._source.files

    @property
    def flips(self) -> bool:
        """Whether clips are sometimes mirrored."""
        return self.settings.train and self.settings.flip_probability > 0

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """JSON that tells which clips these are, in their order: what is left of an epoch depends on it."""
        ids = "\n".join(clip.video_id for clip in self.clips)
        return {"count": len(self.clips), "sha256": hashlib.sha256(os.fsencode(ids)).hexdigest()}

    def read_features(self, features: Features) -> None:
        """From now on, batches hold features (B, T, width) instead of images; flipped rows those of mirrored ones."""
        self.close()
        self._source = dataclasses.replace(self._source, features=features, kept=None)

    def keep_frames(self, limit: int) -> int:
        """From now on, keep decoded frames and poses in memory if all of them take no more than `limit` bytes.

        Batches are the same. Returns the bytes that they will take; 0 if they are not kept.
        """
        self.close()
        settings = self.settings
        streams = [stream.name for stream in chosen(settings.streams) if stream in IMAGES]
        pose = 12 * settings.num_landmarks * max(settings.num_workers, 1)
        kept = KeptClips.within(limit, self.files, streams, settings.image_size, pose) if streams else None
        self._source = dataclasses.replace(self._source, kept=kept)
        return kept.bytes if kept else 0

    def left(self, epoch: int, taken: Taken = ()) -> int:
        """Batches of an epoch that are left after those `taken`."""
        return self._starting(epoch, taken).left

    def epoch(self, epoch: int = 0, taken: Taken = ()) -> Iterator[Batch]:
        """Yield the batches of an epoch that are left after those `taken`. Only training has different epochs.

        `taken` holds (batch size, batches), in the order in which they were taken from the epoch: what is left is
        every clip that none of them had, whatever the size of batches now.

        At the end of an epoch the workers stay and decode the first batches of the next one, until `close`. An iterator
        that is closed or dropped before its end takes its workers with it.
        """
        batches = self._epoch(epoch, taken)
        if self.settings.num_workers:
            workers.close_at_exit(batches)
        return batches

    def _epoch(self, epoch: int, taken: Taken) -> Iterator[Batch]:
        source = self._starting(epoch, taken)
        if not source.left:
            return
        iterator = self._iterator(source)
        try:
            for _ in range(source.left):
                yield self._batch(next(iterator))
        except BaseException:
            iterator.close()
            raise
        self.close()
        self._idle = (source.epoch + 1 if self.settings.train else 0, iterator)

    def _starting(self, epoch: int, taken: Taken) -> _Batches:
        epoch = epoch if self.settings.train else 0
        return dataclasses.replace(self._source, epoch=epoch, taken=tuple(taken))

    def close(self) -> None:
        """End the workers that are waiting for the next epoch."""
        if self._idle is not None:
            self._idle[1].close()
            self._idle = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _iterator(self, source: _Batches):
        """The batches of `source`, through all following epochs."""
        if self._idle is not None and not source.taken and self._idle[0] == source.epoch:
            iterator, self._idle = self._idle[1], None
            return iterator
        self.close()
        return workers.Ahead(source, 0, self.settings.num_workers, self.batch_bytes)

    def _batch(self, element: dict[str, Any]) -> Batch:
        clips = [self.clips[n] for n in element["clips"]]
        for position, problem in element["bad"]:
            video_id = self.clips[position].video_id
            if video_id not in self.bad_clips:
                self.bad_clips[video_id] = problem
                logger.warning("clip %s is skipped, %d so far: %s", video_id, len(self.bad_clips), problem)
        ids, texts = [clip.video_id for clip in clips], [clip.text for clip in clips]
        return Batch(element["arrays"], ids, texts, [clip.lang for clip in clips])
