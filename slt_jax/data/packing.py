"""Write packs from the folders of docs/data.md, and compare the two."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slt_jax.base.files import replacing, sha256
from slt_jax.data.clip_files import BadClip, ClipFiles
from slt_jax.data.metadata import ClipRow
from slt_jax.data.pack_index import INDEX, columns_of, index_text
from slt_jax.data.packs import Pack, pack_record, to_runs, unpack
from slt_jax.data.quality import check_images, look_at_pose
from slt_jax.data.regular import read_regular
from slt_jax.data.shards import Shard, array_record
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES, chosen

SHARD = "clips-{:05d}.array_record"
OPTIONS = "group_size:1,uncompressed"  # each record by itself; compressing a jpg does not make it smaller
THREADS = 8  # threads; they mostly wait for the disk

Progress = Callable[[int, int], None]  # clips done, and all clips


def write_pack(
    folder: Path,
    clips: Sequence[ClipRow],
    files: Mapping[str, ClipFiles],
    *,
    shard_bytes: int,
    streams: Sequence[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Write the clips into shards of at most `shard_bytes` (a bigger clip gets its own) and return the index.

    `files` has these `streams` of them (None: all).
    A clip that cannot be read is only in the index, with the reason. Training stops at it or skips it, as with folders.
    The index comes last, so a folder that has one is a complete pack. Raises UserError if there is one already.
    """
    if (folder / INDEX).exists():
        raise UserError(f"--output {folder}: holds a pack; name another folder, or remove this one first")
    if not clips:
        raise UserError(f"--output {folder}: there are no clips to write")
    shards: list[Shard] = []
    try:
        return _write(folder, clips, files, shards, shard_bytes, [s.name for s in chosen(streams)], progress)
    except BaseException:
        for shard in shards:  # nobody could read them, and gigabytes of a full disk would stay taken
            (folder / shard.name).unlink(missing_ok=True)
        raise


def _write(
    folder: Path,
    clips: Sequence[ClipRow],
    files: Mapping[str, ClipFiles],
    shards: list[Shard],
    shard_bytes: int,
    streams: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """`write_pack`; each shard is added to `shards` once it is written."""
    entries: list[dict[str, Any]] = []

    def readable() -> Iterator[tuple[dict[str, Any], bytes]]:
        for entry, record in _packed(clips, files):
            entries.append(entry)
            progress(len(entries), len(clips))
            if record is not None:
                yield entry, record

    waiting = readable()
    entry, record = next(waiting, ({}, None))
    while record is not None:
        name, records, size = SHARD.format(len(shards)), 0, 0
        with replacing(folder / name) as file:
            writer = array_record().ArrayRecordWriter(str(file.name), OPTIONS)
            while record is not None and (not size or size + len(record) <= shard_bytes):
                writer.write(record)
                entry |= {"shard": len(shards), "record": records}
                records, size = records + 1, size + len(record)
                entry, record = next(waiting, ({}, None))
            writer.close()
            shards.append(Shard(name, Path(file.name).stat().st_size, records, sha256(file.name)))
    if not shards:
        raise UserError(f"--output {folder}: no clip can be read; the first: {entries[0]['bad']}")
    for path in folder.glob(SHARD.replace("{:05d}", "*")):  # from a writer that was killed
        if path.name not in {shard.name for shard in shards}:
            path.unlink()
    ids = [entry["id"] for entry in entries]
    with replacing(folder / INDEX) as file:
        file.write(index_text(shards, streams, ids, columns_of(entries)).encode())
    return {"shards": [asdict(shard) for shard in shards], "clips": entries}


def _packed(clips: Sequence[ClipRow], files: Mapping[str, ClipFiles]) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    """The index entry of every clip, without its place, and its record, or None if it cannot be read."""
    with ThreadPoolExecutor(THREADS, "slt-pack") as pool:
        for start in range(0, len(clips), THREADS):  # keep no more of them in memory
            group = clips[start : start + THREADS]
            yield from pool.map(lambda clip: _pack_clip(clip, files[clip.video_id]), group)


def _pack_clip(clip: ClipRow, files: ClipFiles) -> tuple[dict[str, Any], bytes | None]:
    try:
        shape = look_at_pose(files) if files.pose else None
        if not (shape and shape[0]) and files.last_frame() < 0:
            raise BadClip(f"clip {files.video_id} has neither frames nor pose in the data folders")
        check_images(files)
        streams = {}
        for name, frames in files.frames.items():
            paths = (frames.path(files.video_id, position) for position in range(len(frames.numbers)))
            streams[name] = frames, [_bytes(path) for path in paths]
        record = pack_record(files.video_id, clip.text, streams, _bytes(files.pose) if files.pose else None)
    except BadClip as error:
        return {"id": files.video_id, "bad": str(error)}, None
    entry = {"id": files.video_id, "size": len(record), "sha256": hashlib.sha256(record).hexdigest(), "pose": shape}
    return entry | {stream: to_runs(frames.numbers) for stream, (frames, _) in streams.items()}, record


def _bytes(path: str) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise BadClip(f"{path}: cannot be read ({error.strerror})") from None


# --- verifying ----------------------------------------------------------------------------------------------------


def verify_pack(
    pack: Pack,
    source: Mapping[str, tuple[ClipRow, ClipFiles]] | None = None,
    *,
    progress: Progress = lambda done, total: None,
) -> list[tuple[str, str]]:
    """Read everything again and return what is wrong, as (clip or shard, what).

    With `source`, the clips and files of the folders by id, every file is compared with the one that was packed.
    """
    problems = []
    for shard in pack.shards:
        if sha256(pack.store.local(shard)) != shard.sha256:
            problems.append((shard.name, "is not the file that was written (checksum)"))
    files = pack.files(pack.clips)
    for done, (video_id, entry) in enumerate(pack.clips.items(), 1):
        problems += [(video_id, what) for what in _check_clip(entry, files[video_id], source)]
        progress(done, len(pack.clips))
    problems += [(video_id, "is not in the pack") for video_id in source or () if video_id not in pack.clips]
    return problems


def _check_clip(
    entry: Mapping[str, Any], files: ClipFiles, source: Mapping[str, tuple[ClipRow, ClipFiles]] | None
) -> Iterator[str]:
    record = None
    if "bad" not in entry:
        assert files.record is not None
        try:
            record = files.record.read(files.video_id)
        except BadClip as error:
            yield str(error)
            return
        if hashlib.sha256(record).hexdigest() != entry["sha256"]:
            yield "is not the record that was written (checksum)"
            return
    if source is None:
        return
    if files.video_id not in source:
        yield "is in the pack only"
        return
    now, fresh = _pack_clip(*source[files.video_id])
    if fresh is None:
        if record is not None:
            yield f"cannot be read in the folders: {now['bad']}"
    elif record is None:
        yield f"can be read in the folders, but could not when the pack was written: {entry['bad']}"
    elif fresh != record:
        yield from _differences(record, memoryview(fresh))


def _differences(record: memoryview, fresh: memoryview) -> Iterator[str]:
    (header, parts), (new_header, new_parts) = unpack(record), unpack(fresh)
    if unicodedata.normalize("NFC", header["text"]) != new_header["text"]:  # earlier packs hold texts as they stood
        yield f"text is {header['text']!r} in the pack, {new_header['text']!r} in the metadata"
    for stream in (stream.name for stream in IMAGES if stream.name in header):
        ours = dict(zip(header[stream]["numbers"], parts[stream], strict=True))
        theirs = dict(zip(new_header[stream]["numbers"], new_parts[stream], strict=True))
        if other := sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)):
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            yield f"{stream}: frame {other[0]}{more} not as in the folder"
        elif header[stream] != new_header[stream]:
            yield f"{stream}: file names are not as in the folder"
    if parts["pose"] != new_parts["pose"]:
        yield "pose: not as in the folder"
