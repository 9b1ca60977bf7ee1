"""The index of a pack: what a run looks at before it begins, as columns, so that a million clips take little room."""

import base64
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from slt_jax.base.heap import no_collection
from slt_jax.data.ids import are_plain, check_id
from slt_jax.data.npz import MAX_LENGTH
from slt_jax.data.shards import Shard
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES, POSE

INDEX, FORMAT, VERSION = "index.json", "slt_jax pack", 2
LINES = 1  # the version that had a line for each clip in place of columns
CHUNK = 1 << 22  # bytes of such an index parsed at once
CLIPS, END = b'], "clips": [\n', b"\n]}\n"  # what stands around its clips
DIGEST = 32  # bytes of a checksum
ARRAYS = {"shard": ("<i8", ()), "record": ("<i8", ()), "size": ("<i8", ()), "sha256": ("u1", (DIGEST,)),
          "pose": ("<i4", (2,))}  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """The frame numbers of N clips: `values` (R, 2) are [first, count], those of clip n from `ends[n - 1]` on."""

    values: np.ndarray
    ends: np.ndarray

    def of(self, clip: int) -> np.ndarray:
        """The runs (R, 2) of a clip."""
        return self.values[self.ends[clip - 1] if clip else 0 : self.ends[clip]]

    @property
    def lasts(self) -> np.ndarray:
        """The highest frame number of each clip (N,); -1 without frames."""
        sums = np.concatenate([[-1], self.values.sum(axis=1) - 1])
        filled = np.diff(self.ends, prepend=0) > 0
        return np.where(filled, sums[self.ends], -1)

    @property
    def counts(self) -> np.ndarray:
        """The frames of each clip (N,)."""
        return np.diff(np.concatenate([[0], np.cumsum(self.values[:, 1])])[self.ends], prepend=0)

    def take(self, clips: np.ndarray) -> "Runs":
        """The runs of these clips, in their order."""
        sizes = np.diff(self.ends, prepend=0)[clips]
        ends = np.cumsum(sizes)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(self.ends[clips] - ends, sizes)
        return Runs(self.values[places], ends)


@dataclass(frozen=True)
class Columns:
    """What the index says of N clips. A clip that cannot be read has a reason in `bad`, and nothing else."""

    shard: np.ndarray  # (N,)
    record: np.ndarray  # (N,)
    size: np.ndarray  # (N,), bytes
    sha256: np.ndarray  # (N, 32), uint8
    pose: np.ndarray  # (N, 2), its shape; -1 without one
    runs: Mapping[str, Runs]  # of the streams in the pack
    bad: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.shard)

    def take(self, clips: np.ndarray) -> "Columns":
        """What it says of these clips, in their order."""
        if np.array_equal(clips, np.arange(len(self))):
            return self
        arrays = {name: getattr(self, name)[clips] for name in ARRAYS}
        bad = (
            {place: self.bad[clip] for place, clip in enumerate(clips.tolist()) if clip in self.bad} if self.bad else {}
        )
        return Columns(**arrays, runs={name: runs.take(clips) for name, runs in self.runs.items()}, bad=bad)

    def only(self, streams: Collection[str]) -> "Columns":
        """The same without the images of other streams."""
        return replace(self, runs={name: runs for name, runs in self.runs.items() if name in streams})

    def entry(self, clip: int) -> dict[str, Any]:
        """What stands in the index of a clip, without its id."""
        if clip in self.bad:
            return {"bad": self.bad[clip]}
        pose = self.pose[clip].tolist()
        return {
            "shard": int(self.shard[clip]),
            "record": int(self.record[clip]),
            "size": int(self.size[clip]),
            "sha256": self.sha256[clip].tobytes().hex(),
            "pose": None if pose[0] < 0 else pose,
        } | {name: runs.of(clip).tolist() for name, runs in self.runs.items()}


def unreadable(reasons: Sequence[str]) -> Columns:
    """The columns of clips that cannot be read, for these reasons."""
    return columns_of([{"bad": reason} for reason in reasons])


def index_text(shards: Sequence[Shard], streams: Sequence[str], ids: Sequence[str], columns: Columns) -> str:
    """The index of a pack of these streams as JSON; numbers as little-endian arrays in base64, since they are many."""

    def encoded(array: np.ndarray, dtype: str) -> str:
        return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()

    clips: dict[str, Any] = {"id": list(ids), "bad": {str(place): reason for place, reason in columns.bad.items()}}
    clips |= {name: encoded(getattr(columns, name), dtype) for name, (dtype, _) in ARRAYS.items()}
    for name, runs in columns.runs.items():
        clips[name] = {"runs": encoded(runs.values, "<i4"), "ends": encoded(runs.ends, "<i8")}
    head = {"format": FORMAT, "version": VERSION, "streams": list(streams)}
    head |= {"shards": [asdict(shard) for shard in shards], "clips": clips}
    return json.dumps(head, ensure_ascii=False, indent=0) + "\n"


def read_index(raw: bytes, flag: str) -> tuple[tuple[Shard, ...], list[str], dict[str, int], Columns]:
    """The shards, the names of the streams, the place of each id, and the columns of an index.

    `flag`, with the path, stands before errors. Raises UserError for an index of another version, and for one that
    claims what no pack can have.
    """
    try:
        head, chunks = _parsed(raw)
        if head["format"] != FORMAT or head["version"] not in (LINES, VERSION):
            raise UserError(f"{flag}: {INDEX} is of another version; write the pack again")
        shards = tuple(Shard(**shard) for shard in head["shards"])
        for shard in shards:
            check_id(shard.name, f"{flag}: {INDEX}", what="shard")
        ids, columns = _of_lines(chunks) if head["version"] == LINES else _of_columns(head["clips"])
        for video_id in () if are_plain(ids) else ids:
            check_id(video_id, f"{flag}: {INDEX}")
        _check(columns, len(shards))
        streams = list(head["streams"]) if head["version"] == VERSION else [*columns.runs, POSE.name]
        if not {*columns.runs} <= {*streams}:
            raise ValueError
        return shards, streams, dict(zip(ids, range(len(ids)), strict=True)), columns
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError):
        raise UserError(f"{flag}: {INDEX} is damaged; write the pack again") from None


def _check(columns: Columns, shards: int) -> None:
    """Raise ValueError if a clip claims more than one can have, or runs are out of order or overlap."""
    good = np.ones(len(columns), bool)
    good[list(columns.bad)] = False
    shard, pose = columns.shard[good], columns.pose
    sound = [shard >= 0, shard < shards, columns.record >= 0, columns.size >= 0, pose <= MAX_LENGTH,
             (pose >= 0).all(axis=1) | (pose == -1).all(axis=1)]  # fmt: skip
    for runs in columns.runs.values():
        first, count = runs.values.astype(np.int64).T
        sizes = np.diff(runs.ends, prepend=0)
        new = np.zeros(len(first) + 1, bool)  # the first run of a clip
        sound += [sizes >= 0, good | (sizes == 0), runs.ends[-1:] == len(first)]
        if not all(one.all() for one in sound):
            break
        new[runs.ends] = True
        sound += [first >= 0, count > 0, first + count <= MAX_LENGTH]
        sound += [new[1:-1] | (first[1:] >= (first + count)[:-1])]
    if not all(one.all() for one in sound):
        raise ValueError


# --- columns ------------------------------------------------------------------------------------------------------


def _of_columns(clips: Mapping[str, Any]) -> tuple[list[str], Columns]:
    """The ids and columns as `index_text` wrote them. Raises what `read_index` knows."""
    ids, size = list(clips["id"]), len(clips["id"])
    arrays = {name: _array(clips[name], dtype, size, *shape) for name, (dtype, shape) in ARRAYS.items()}
    bad = {int(place): reason for place, reason in clips["bad"].items()}
    if not all(isinstance(reason, str) and 0 <= place < size for place, reason in bad.items()):
        raise ValueError
    runs = {}
    for name in (stream.name for stream in IMAGES if stream.name in clips):
        runs[name] = Runs(_array(clips[name]["runs"], "<i4", -1, 2), _array(clips[name]["ends"], "<i8", size))
    return ids, Columns(**arrays, runs=runs, bad=bad)


def _array(text: str, dtype: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype).reshape(shape)


# --- lines --------------------------------------------------------------------------------------------------------


def _parsed(raw: bytes) -> tuple[dict[str, Any], Iterable[list[dict[str, Any]]]]:
    """The index, and its clips in lists where it has lines.

    A text with a line for each clip is parsed in pieces, since all of a million at once would take gigabytes. JSON has
    no line breaks in strings, so pieces that can be parsed are together what the whole is.
    """
    first = raw.find(CLIPS)
    if first >= 0 and raw.endswith(END):
        try:
            return json.loads(raw[:first] + b"]}"), _pieces(raw, first + len(CLIPS), len(raw) - len(END))
        except ValueError:
            pass
    whole = json.loads(raw)
    return whole, (whole[name] for name in ("clips",))  # later, as another version may have none


def _pieces(raw: bytes, start: int, end: int) -> Iterator[list[dict[str, Any]]]:
    while start < end:
        stop = raw.find(b",\n", start + CHUNK, end)
        stop = end if stop < 0 else stop
        yield json.loads(b"[%b]" % raw[start:stop])
        start = stop + 2


def _of_lines(chunks: Iterable[list[dict[str, Any]]]) -> tuple[list[str], Columns]:
    ids: list[str] = []
    parts = []
    with no_collection():
        for entries in chunks:
            ids += [entry["id"] for entry in entries]
            parts.append(columns_of(entries))
    return ids, joined(parts or [columns_of([])])


def columns_of(entries: Sequence[Mapping[str, Any]]) -> Columns:
    """The columns of clips from an entry for each. Raises TypeError, KeyError, ValueError or OverflowError."""
    bad = {place: entry["bad"] for place, entry in enumerate(entries) if "bad" in entry}
    if any(not isinstance(reason, str) for reason in bad.values()):
        raise TypeError
    good = [entry for entry in entries if "bad" not in entry] if bad else entries
    places = np.array([place for place in range(len(entries)) if place not in bad], int)

    def spread(values: np.ndarray, empty: int = 0) -> np.ndarray:
        """As many rows as there are entries: those that cannot be read are `empty`."""
        whole = np.full((len(entries), *values.shape[1:]), empty, values.dtype)
        whole[places] = values
        return whole

    numbers = {name: spread(_numbers([entry[name] for entry in good])) for name in ("shard", "record", "size")}
    digests = [entry["sha256"] for entry in good]
    if {*map(len, digests)} - {2 * DIGEST}:
        raise ValueError
    sha256 = np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(len(good), DIGEST)
    poses = [entry["pose"] or (-1, -1) for entry in good]
    if {*map(len, poses)} - {2} or any(-1 in entry["pose"] for entry in good if entry["pose"]):
        raise ValueError
    pose = _numbers([*itertools.chain.from_iterable(poses)]).reshape(-1, 2)
    held = [stream.name for stream in IMAGES if any(stream.name in entry for entry in good)]
    runs = {name: _runs([entry.get(name, ()) if "bad" not in entry else () for entry in entries]) for name in held}
    return Columns(**numbers, sha256=spread(sha256), pose=spread(pose, -1), runs=runs, bad=bad)


def _runs(listed: Sequence[Sequence[Sequence[int]]]) -> Runs:
    runs = list(itertools.chain.from_iterable(listed))
    if {*map(len, runs)} - {2}:
        raise ValueError
    values = _numbers([*itertools.chain.from_iterable(runs)]).reshape(-1, 2)
    if values.max(initial=0) > MAX_LENGTH:
        raise ValueError
    return Runs(values.astype(np.int32), np.cumsum([*map(len, listed)], dtype=np.int64))


def _numbers(values: list[int]) -> np.ndarray:
    """Whole numbers as int64 (N,). Raises TypeError or OverflowError for others."""
    if {*map(type, values)} - {int}:
        raise TypeError
    return np.fromiter(values, np.int64, len(values))


def joined(parts: Sequence[Columns]) -> Columns:
    """The columns of one index from those of its pieces."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part) for part in parts]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    runs = {}
    for name in (stream.name for stream in IMAGES if any(stream.name in part.runs for part in parts)):
        some = [part.runs.get(name) or _runs([()] * size) for part, size in zip(parts, sizes, strict=True)]
        before = np.cumsum([0, *(len(one.values) for one in some[:-1])]).tolist()
        ends = [one.ends + start for one, start in zip(some, before, strict=True)]
        runs[name] = Runs(np.concatenate([one.values for one in some]), np.concatenate(ends))
    bad = {start + place: why for part, start in zip(parts, starts, strict=True) for place, why in part.bad.items()}
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
    return Columns(**arrays, runs=runs, bad=bad)
