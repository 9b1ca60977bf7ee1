"""`slt-pack write | verify`, also `python tools/pack_dataset.py`: a data set in a few big files (docs/packs.md)."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slt_jax.base.places import check_folder
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.data.clip_files import ClipFiles, scan
from slt_jax.data.corpus_folder import FOLDERS, by_stream, folder_keys
from slt_jax.data.metadata import ClipRow, read_index, read_metadata
from slt_jax.data.packing import verify_pack, write_pack
from slt_jax.data.packs import open_pack
from slt_jax.data.stream_folders import check_streams
from slt_jax.errors import UserError
from slt_jax.streams import parse_streams

PROG = "slt-pack"
SHARD_MB = 256
INPUTS = (*FOLDERS, "metadata_csv")
ROWS = 20  # listed clips of each kind


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read what to write or verify, and where the folders are."""
    top = flags.command_parser(PROG, "Pack a data set into a few big files, which --packs reads in place of folders.")
    commands = top.add_subparsers(dest="command", required=True, metavar="write|verify")
    options: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "allow_abbrev": False}
    write = commands.add_parser("write", help="write a pack from the folders", **options)
    write.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder of the pack")
    write.add_argument("--shard-mb", metavar="INT", type=int, help=f"megabytes of a file at most (default: {SHARD_MB})")
    verify = commands.add_parser("verify", help="compare a pack with its checksums, and with the folders", **options)
    verify.add_argument("pack", metavar="PACK", help="folder or URL of the pack")
    flags.add_streams_flag(write, "pack these only")
    for command in (write, verify):
        flags.add_corpus_flags(command, INPUTS)
        command.add_argument(
            "--index", metavar="CSV", nargs="+", help="pack only these clips (default: all of the metadata)"
        )
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done or in order, 1 the pack is damaged or differs, 2 a mistake in the input."""
    return run(PROG, _pack, argv)


def _pack(argv: Sequence[str] | None) -> int:
    arguments = vars(parse(argv))
    work: dict[str, Callable[..., int]] = {"write": _write, "verify": _verify}
    try:
        return work[arguments.pop("command")](**arguments)
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130


def _write(output: Path, shard_mb: int = SHARD_MB, streams: Sequence[str] | None = None, **given: Any) -> int:
    if shard_mb < 1:
        raise UserError(f"--shard-mb {shard_mb}: must be at least 1")
    check_folder("--output", output)
    names = parse_streams(streams) if streams else None
    clips, files = _source(names, **given)
    with tqdm(desc="clips", unit="clip", leave=False, disable=None) as bar:
        index = write_pack(output, clips, files, shard_bytes=shard_mb * 1_000_000, streams=names, progress=_shown(bar))
    bad = [entry["bad"] for entry in index["clips"] if "bad" in entry]
    for reason in bad[:ROWS]:
        print(f"not packed: {reason}")
    if bad:
        more = f", {len(bad) - ROWS} more than shown" if len(bad) > ROWS else ""
        print(f"{len(bad)} clips cannot be read{more}; the index says why, and --skip-bad-clips skips them")
    size = sum(shard["size"] for shard in index["shards"]) / 1e6
    print(f"written: {output}: {len(clips) - len(bad)} clips in {len(index['shards'])} files, {size:.1f} MB")
    return 0


def _verify(pack: str, **given: Any) -> int:
    opened, source = open_pack(pack, streams=()), None
    if given:
        clips, files = _source(opened.streams, **given)
        source = {clip.video_id: (clip, files[clip.video_id]) for clip in clips}
    with tqdm(desc="clips", unit="clip", leave=False, disable=None) as bar:
        problems = verify_pack(opened, source, progress=_shown(bar))
    for name, what in problems[:ROWS]:
        print(f"{name}: {what}")
    more = f" ({len(problems) - ROWS} more than shown)" if len(problems) > ROWS else ""
    print(f"{len(opened.clips)} clips in {len(opened.shards)} files, {len(problems)} problems{more}")
    return 1 if problems else 0


def _source(
    streams: Sequence[str] | None, index: Sequence[str] | None = None, **given: str
) -> tuple[list[ClipRow], dict[str, ClipFiles]]:
    """The clips of the metadata, or only those in the index files, and their files of these streams."""
    paths = flags.places_of(given, (*folder_keys(streams), "metadata_csv"))
    metadata = read_metadata(paths["metadata_csv"])
    ids = metadata if index is None else dict.fromkeys(video_id for path in index for video_id in read_index(path))
    if missing := [video_id for video_id in ids if video_id not in metadata]:
        raise UserError(f"--index: {len(missing)} of {len(ids)} clips have no row in the metadata: {missing[0]}")
    files = scan(by_stream(paths), ids, streams)
    check_streams(files.values())
    return [metadata[video_id] for video_id in ids], files


def _shown(bar: tqdm):
    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress


if __name__ == "__main__":
    sys.exit(main())
