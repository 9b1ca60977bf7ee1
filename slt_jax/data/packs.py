"""Packs: the clips of a data set in a few big files (shards), with one record per clip, in place of the folders.

The index says where each clip is and what a run looks at before it begins: frame numbers, the pose's shape, what cannot
be read. docs/packs.md has the layouts, packing.py writes them. Nothing is open before a clip is read, so that workers
can be passed all of it and open shards for themselves.
"""

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles, Frames, read_pose
from slt_jax.data.ids import check_id
from slt_jax.data.npz import MAX_LENGTH
from slt_jax.data.pose_layout import numbers_a_landmark
from slt_jax.data.shards import PACK_AGAIN, Shard, Store, array_record, open_store, read_record
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES

INDEX, FORMAT, VERSION = "index.json", "slt_jax pack", 1
PREFIX = 4  # bytes at the start of a record, with the length of its header


@dataclass(frozen=True)
class PackedClip:
    """A packed clip. `pose` is the shape of its pose, empty without one; `bad` says why it cannot be read."""

    store: Store
    shard: Shard | None = None
    number: int = 0
    size: int = 0
    sha256: str = ""
    pose: tuple[int, ...] = ()
    bad: str | None = None

    @property
    def pose_frames(self) -> int:
        """Frames of the pose; 0 without one."""
        return self.pose[0] if self.pose else 0

    def check(self, files: ClipFiles, num_landmarks: int) -> None:
        """Check it as `read_pose` and a look at the images would. Raises BadClip, or UserError for other landmarks."""
        if self.bad:
            raise BadClip(self.bad)
        if self.pose and files.pose and numbers_a_landmark(self.pose[1], num_landmarks) is None:
            read_pose(self.load(files), num_landmarks)  # says what the pose holds

    def read(self, video_id: str) -> memoryview:
        """The bytes of the record. Raises BadClip if they cannot be read."""
        if self.bad or self.shard is None:
            raise BadClip(self.bad)
        path = self.store.local(self.shard)
        try:
            data = memoryview(read_record(path, self.number))
        except RuntimeError as error:
            raise BadClip(f"{path}: clip {video_id} cannot be read ({' '.join(str(error).split())})") from None
        if len(data) != self.size:
            raise BadClip(f"{path}: clip {video_id} has {len(data)} bytes, the index says {self.size}; {PACK_AGAIN}")
        return data

    def load(self, files: ClipFiles) -> ClipFiles:
        """`files` with the bytes of all its files."""
        record = self.read(files.video_id)
        try:
            header, parts = unpack(record)
            found = header["id"]
            frames = {}
            for name, listed in files.frames.items():  # which may be some of the record's streams
                names = header[name].get("names")
                frames[name] = replace(listed, names=names and tuple(names), data=parts[name])
                if found == files.video_id and header[name]["numbers"] != listed.numbers.tolist():
                    raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadClip(f"{self.store.path}: the record of clip {files.video_id} is damaged; {PACK_AGAIN}") from None
        if found != files.video_id:
            raise BadClip(f"{self.store.path}: where clip {files.video_id} should be is {found!r:.60}; {PACK_AGAIN}")
        return ClipFiles(files.video_id, frames, files.pose, pose_data=parts["pose"] if files.pose else None)


@dataclass(frozen=True)
class Pack:
    """An open pack. `clips` are the entries of its index, by id."""

    store: Store
    shards: tuple[Shard, ...]
    clips: dict[str, dict[str, Any]] = field(repr=False)

    def files(self, video_ids: Iterable[str]) -> dict[str, ClipFiles]:
        """The files of clips, as `scan` gives them for folders. A clip that is not in the pack cannot be read."""
        return {video_id: self._files(video_id) for video_id in video_ids}

    def _files(self, video_id: str) -> ClipFiles:
        root = self.store.path
        entry = self.clips.get(video_id, {"bad": f"{root}: the pack has no clip {video_id}"})
        frames = {s.name: Frames(f"{root}/{s.name}", from_runs(entry.get(s.name, []))) for s in IMAGES}
        if "bad" in entry:
            return ClipFiles(video_id, frames, None, record=PackedClip(self.store, bad=entry["bad"]))
        shape, shard = tuple(entry["pose"] or ()), self.shards[entry["shard"]]
        record = PackedClip(self.store, shard, entry["record"], entry["size"], entry["sha256"], shape)
        return ClipFiles(video_id, frames, f"{root}/pose/{video_id}.npz" if shape else None, record=record)


def open_pack(path: str) -> Pack:
    """Open the pack in a folder or behind a URL (gs://, s3://, ...). Only its index is read.

    Raises UserError if there is none, or if a shard of a local pack is missing or cut short.
    """
    array_record()
    store, raw = open_store(path, INDEX)
    try:
        index = json.loads(raw)
        if (index["format"], index["version"]) != (FORMAT, VERSION):
            raise UserError(f"--packs {path}: {INDEX} is of another version; write the pack again")
        shards = tuple(Shard(**shard) for shard in index["shards"])
        for shard in shards:
            check_id(shard.name, f"--packs {path}: {INDEX}", what="shard")
        pack = Pack(store, shards, {entry["id"]: entry for entry in index["clips"]})
        for entry in index["clips"]:
            check_id(entry["id"], f"--packs {path}: {INDEX}")
            _check_entry(entry, len(shards))
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise UserError(f"--packs {path}: {INDEX} is damaged; write the pack again") from None
    readable = next((entry for entry in pack.clips.values() if "bad" not in entry), {})
    if lacking := [stream.name for stream in IMAGES if readable and stream.name not in readable]:
        raise UserError(f"--packs {path}: was written without {', '.join(lacking)}; write the pack again")
    for shard in pack.shards:
        store.check(shard)
    return pack


def _check_entry(entry: Mapping[str, Any], shards: int) -> None:
    """Raise TypeError, KeyError or ValueError if an entry of the index is none, or claims more than a clip can have."""
    if "bad" in entry:
        if not isinstance(entry["bad"], str):
            raise TypeError
        return
    numbers = [entry["shard"], entry["record"], entry["size"], *(entry["pose"] or ())]
    if any(type(number) is not int for number in numbers):
        raise TypeError
    runs = [run for stream in IMAGES for run in entry.get(stream.name, [])]
    sound = (
        0 <= entry["shard"] < shards
        and min(entry["record"], entry["size"]) >= 0
        and len(bytes.fromhex(entry["sha256"])) == 32
        and (not entry["pose"] or (len(entry["pose"]) == 2 and min(entry["pose"]) >= 0))
        and max(entry["pose"] or (0,)) <= MAX_LENGTH
        and all(type(first) is type(count) is int for first, count in runs)
        and all(first >= 0 and count > 0 and first + count <= MAX_LENGTH for first, count in runs)
    )
    if not sound:
        raise ValueError


# --- layouts ------------------------------------------------------------------------------------------------------


def pack_record(
    video_id: str, text: str, streams: Mapping[str, tuple[Frames, list[bytes]]], pose: bytes | None
) -> bytes:
    """A record: the length of its JSON header, the header, then every file as it is, image streams first, pose last."""
    header: dict[str, Any] = {"id": video_id, "text": text}
    for stream, (frames, images) in streams.items():
        header[stream] = {"numbers": frames.numbers.tolist(), "sizes": [len(image) for image in images]}
        if frames.names:
            header[stream]["names"] = frames.names
    header["pose"] = None if pose is None else len(pose)
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    images = [image for _, images in streams.values() for image in images]
    return b"".join([len(encoded).to_bytes(PREFIX, "little"), encoded, *images, pose or b""])


def unpack(record: memoryview) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header, and by name the bytes of each stream's images (a tuple) and of `pose` (None without one)."""
    start = PREFIX + int.from_bytes(record[:PREFIX], "little")
    header: dict[str, Any] = json.loads(bytes(record[PREFIX:start]))
    parts: dict[str, Any] = {}
    for name in (name for name, facts in header.items() if isinstance(facts, dict)):  # as they lie in the record
        ends = (start + np.cumsum([0, *header[name]["sizes"]])).tolist()
        parts[name] = tuple(record[a:b] for a, b in itertools.pairwise(ends))
        start = ends[-1]
    parts["pose"] = None if header["pose"] is None else record[start : start + header["pose"]]
    return header, parts


def to_runs(numbers: np.ndarray) -> list[list[int]]:
    """Sorted numbers as [first, count] of every run without a gap."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    return np.stack([numbers[starts], np.diff(starts, append=len(numbers))], axis=1).tolist()


def from_runs(runs: list[list[int]]) -> np.ndarray:
    """The sorted numbers (N,) of `[first, count]` runs; undoes `to_runs`."""
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(first, first + count) for first, count in runs)])
