"""What the tests of packs share: clips, their pack and a loader of either."""

import numpy as np

from slt_jax.data.clip_files import scan
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packing import write_pack

IDS = ("whole", "gaps", "named", "poseless", "long")


def pack_of(folders, name="pack", **options) -> str:
    path = folders.root.parent / name
    clips = [ClipRow(video_id, f"text of {video_id}") for video_id in IDS]
    write_pack(path, clips, scan(folders.dirs, IDS), **{"shard_bytes": 30_000} | options)
    return str(path)


def loader(files, **options):
    clips = [ClipRow(video_id, f"text of {video_id}") for video_id in files]
    labels = np.repeat(np.arange(1, len(clips) + 1, dtype=np.int32)[:, None], 4, axis=1)
    given = {"batch_size": 2, "sequence_length": 8, "image_size": 16, "num_landmarks": 13}
    return Loader(clips, files, labels, LoaderSettings(**given | options))
