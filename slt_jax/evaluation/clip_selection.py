"""The clips of an evaluation: which, how long, and in batches of similar length."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slt_jax.config import DataConfig, ModelConfig
from slt_jax.data.clip_files import ClipFiles
from slt_jax.data.corpus_folder import FOLDERS, folder_keys
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow, read_index, read_metadata, select
from slt_jax.data.splits import find_files, tell_doubts, usable
from slt_jax.data.text import IGNORE
from slt_jax.errors import UserError, nearest

SOURCES = (*FOLDERS, "packs", "metadata_csv")
NO_GROUP = "(empty)"


@dataclass(frozen=True)
class EvaluationClips:
    """The clips of the index that can be read, in its order. `frames` and `skipped` (reasons) are by id."""

    clips: list[ClipRow]
    files: Mapping[str, ClipFiles]
    frames: dict[str, int]
    skipped: dict[str, str]

    def groups(self, column: str) -> dict[str, str]:
        """Every clip's value in a column of the metadata. Raises UserError if there is no such column."""
        name = column.strip().lower()
        rows = {clip.video_id: clip.columns() for clip in self.clips}
        known = dict.fromkeys(key for row in rows.values() for key in row)
        if name not in known:
            has = nearest(name, known) if known else "; it has only ids and texts"
            raise UserError(f"--split-by {column}: the metadata has no such column{has}")
        return {video_id: row.get(name) or NO_GROUP for video_id, row in rows.items()}


def open_clips(
    index: str | Path, data: DataConfig, landmarks: int, streams: Sequence[str] | None = None
) -> EvaluationClips:
    """Read the CSVs, list the folders of these `streams` (None: all) and check every file. Nothing is decoded.

    Raises UserError that names the flag or file. Without `skip_bad_clips`, clips that cannot be read are errors.
    """
    given = {key: getattr(data, key) for key in (*(() if data.packs else folder_keys(streams)), "metadata_csv")}
    for key, path in given.items():
        if not path:
            raise UserError(f"--{key.replace('_', '-')} is not given, and the checkpoint does not know it")
    metadata = read_metadata(given["metadata_csv"])
    listed = select(read_index(index), metadata, f"--eval-index {index}")
    files = find_files(data, [clip.video_id for clip in listed], streams)
    split = usable(listed, files, landmarks, f"--eval-index {index}", skip_bad_clips=data.skip_bad_clips)
    tell_doubts((split,), files, landmarks, strict=data.strict_quality)
    return EvaluationClips(split.clips, files, split.frames, split.skipped)


def length_buckets(frames: Mapping[str, int], sequence_length: int, batch_size: int) -> dict[int, list[str]]:
    """The ids of the clips to show in each number of frames: a quarter, a half, or all of `sequence_length`.

    A clip is in the shortest bucket that shows all its frames, and is sampled in the longest if it fits in none. Clips
    that would not fill a batch join the next longer bucket, because another program costs more than their padding.
    """
    lengths = sorted({math.ceil(sequence_length / part) for part in (4, 2, 1)})
    buckets: dict[int, list[str]] = {length: [] for length in lengths}
    for video_id, count in frames.items():
        buckets[next((length for length in lengths if count <= length), lengths[-1])].append(video_id)
    for shorter, longer in itertools.pairwise(lengths):
        if len(buckets[shorter]) < batch_size:
            buckets[longer] += buckets.pop(shorter)
    return {length: ids for length, ids in buckets.items() if ids}


def batch_rows(clips: int, batch_size: int, devices: int) -> int:
    """Rows per batch: no more batches than `batch_size` needs, with as few filler rows as possible."""
    batches = math.ceil(clips / batch_size)
    return math.ceil(math.ceil(clips / batches) / devices) * devices


def bucket_loader(
    clips: Sequence[ClipRow],
    files: Mapping[str, ClipFiles],
    data: DataConfig,
    model: ModelConfig,
    *,
    length: int,
    rows: int,
) -> Loader:
    """Batches of `rows` clips in `length` frames: no flips, sampled in the middle, with references instead of labels.

    The last batch is filled up with rows that are not `valid`.
    """
    settings = LoaderSettings(
        batch_size=rows,
        sequence_length=length,
        image_size=model.image_size,
        num_landmarks=model.pose_landmarks,
        num_workers=data.num_workers,
        skip_bad_clips=data.skip_bad_clips,
        v9_inputs=bool(data.v9_hand_masks),
        streams=None if model.streams is None else tuple(model.streams),
    )
    return Loader(clips, files, np.full((len(clips), 1), IGNORE, np.int32), settings)
