"""Packs: the clips of a data set in a few big files (shards), with one record per clip, in place of the folders.

The index says where each clip is and what a run looks at before it begins: frame numbers, the pose's shape, what cannot
be read. docs/packs.md has the layouts, packing.py writes them. Nothing is open before a clip is read, so that workers
can be passed all of it and open shards for themselves.
"""

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles, FrameCounts, Frames, read_pose
from slt_jax.data.pack_index import INDEX, Columns, joined, read_index, unreadable
from slt_jax.data.pose_layout import numbers_a_landmark
from slt_jax.data.shards import PACK_AGAIN, Shard, Store, array_record, open_store, read_record
from slt_jax.errors import UserError
from slt_jax.streams import POSE, chosen

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
class PackedClips(Sequence[ClipFiles]):
    """The files of packed clips, made when one is asked for. With `posed` False, they are without their poses."""

    store: Store
    shards: tuple[Shard, ...]
    ids: Sequence[str] = field(repr=False)
    columns: Columns = field(repr=False)
    posed: bool = True

    @overload
    def __getitem__(self, place: int) -> ClipFiles: ...
    @overload
    def __getitem__(self, place: slice) -> list[ClipFiles]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        root, columns, video_id = self.store.path, self.columns, self.ids[place]
        frames = {name: Frames(f"{root}/{name}", from_runs(runs.of(place))) for name, runs in columns.runs.items()}
        if place in columns.bad:
            return ClipFiles(video_id, frames, None, record=PackedClip(self.store, bad=columns.bad[place]))
        shape = tuple(columns.pose[place].tolist()) if columns.pose[place, 0] >= 0 else ()
        record = PackedClip(
            self.store,
            self.shards[columns.shard[place]],
            int(columns.record[place]),
            int(columns.size[place]),
            columns.sha256[place].tobytes().hex(),
            shape,
        )
        pose = f"{root}/pose/{video_id}.npz" if shape and self.posed else None
        return ClipFiles(video_id, frames, pose, record=record)

    def __len__(self) -> int:
        return len(self.ids)

    def counts(self) -> "FrameCounts":
        """How many frames the clips have."""
        runs, pose = self.columns.runs, self.columns.pose[:, 0].astype(int)
        images = np.max([np.zeros(len(self), int), *(of.lasts + 1 for of in runs.values())], axis=0)
        posed = pose if self.posed else np.full(len(self), -1)
        return FrameCounts(posed, images, {name: of.counts for name, of in runs.items()})

    def sure(self, num_landmarks: int) -> np.ndarray:
        """Which clips (N,) can be read and have these landmarks, or no pose."""
        pose = self.columns.pose
        widths = [width for width in np.unique(pose[:, 1]).tolist() if width >= 0]
        fitting = [width for width in widths if numbers_a_landmark(width, num_landmarks) is not None]
        sure = np.isin(pose[:, 1], fitting) | (pose[:, 0] < 0) | (not self.posed)
        sure[list(self.columns.bad)] = False
        return sure


class PackedFiles(Mapping[str, ClipFiles]):
    """`PackedClips` by their ids."""

    def __init__(self, clips: PackedClips):
        self._clips = clips
        self._places = {video_id: place for place, video_id in enumerate(clips.ids)}

    def __getitem__(self, video_id: str) -> ClipFiles:
        return self._clips[self._places[video_id]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def values(self) -> PackedClips:  # type: ignore[override]  # which can be counted at once
        """The files of all clips."""
        return self._clips

    def listed(self, video_ids: Sequence[str]) -> PackedClips:
        """The files of these clips, in their order."""
        places = np.fromiter(map(self._places.__getitem__, video_ids), int, len(video_ids))
        return replace(self._clips, ids=list(video_ids), columns=self._clips.columns.take(places))

    def only(self, streams: Collection[str]) -> "PackedFiles":
        """The files of the streams of these names alone."""
        columns = self._clips.columns.only(streams)
        return PackedFiles(replace(self._clips, columns=columns, posed=self._clips.posed and POSE.name in streams))


def listed(files: Mapping[str, ClipFiles], video_ids: Sequence[str]) -> Sequence[ClipFiles]:
    """The files of these clips, in their order: made when they are asked for, if they are packed."""
    return files.listed(video_ids) if isinstance(files, PackedFiles) else [files[video_id] for video_id in video_ids]


@dataclass(frozen=True)
class Pack:
    """An open pack of these streams: `places` has the place of each id in the columns of its index."""

    store: Store
    shards: tuple[Shard, ...]
    streams: tuple[str, ...]
    places: dict[str, int] = field(repr=False)
    columns: Columns = field(repr=False)

    @property
    def clips(self) -> "Entries":
        """What the index says of each clip, by id."""
        return Entries(self.places, self.columns)

    def files(self, video_ids: Iterable[str]) -> PackedFiles:
        """The files of clips, as `scan` gives them for folders. A clip that is not in the pack cannot be read."""
        ids = list(dict.fromkeys(video_ids))
        columns, unknown = self.columns, [video_id for video_id in ids if video_id not in self.places]
        places = self.places
        if unknown:
            root = self.store.path
            absent = unreadable([f"{root}: the pack has no clip {video_id}" for video_id in unknown])
            columns = joined([columns, absent])
            places = places | {video_id: len(self.columns) + place for place, video_id in enumerate(unknown)}
        chosen = columns.take(np.fromiter(map(places.__getitem__, ids), int, len(ids)))
        return PackedFiles(PackedClips(self.store, self.shards, ids, chosen))


class Entries(Mapping[str, dict[str, Any]]):
    """The entries of an index by id, each made when it is asked for."""

    def __init__(self, places: Mapping[str, int], columns: Columns):
        self._places, self._columns = places, columns

    def __getitem__(self, video_id: str) -> dict[str, Any]:
        return self._columns.entry(self._places[video_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def open_pack(path: str, streams: Sequence[str] | None = None) -> Pack:
    """Open the pack in a folder or behind a URL (gs://, s3://, ...) to read these `streams` (None: all).

    Only its index is read. Raises UserError if there is none, if it lacks a stream, or if a shard of a local pack is
    missing or cut short.
    """
    array_record()
    store, raw = open_store(path, INDEX)
    shards, held, places, columns = read_index(raw, f"--packs {path}")
    lacking = [stream for stream in chosen(streams) if stream.name not in held]
    if lacking and len(columns) > len(columns.bad):
        without = ", ".join(stream.name for stream in lacking)
        others = ", ".join(stream.name for stream in chosen(held))
        raise UserError(f"--packs {path}: was written without {without}, of {others} alone; write the pack again")
    for shard in shards:
        store.check(shard)
    return Pack(store, shards, tuple(stream.name for stream in chosen(held)), places, columns)


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


def from_runs(runs: Iterable[Sequence[int]]) -> np.ndarray:
    """The sorted numbers (N,) of `[first, count]` runs; undoes `to_runs`."""
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(first, first + count) for first, count in runs)])
