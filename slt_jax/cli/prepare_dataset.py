"""`slt-prepare`, also `python tools/prepare_dataset.py`: turn a corpus of long videos and its CSV into a data set."""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.corpora.prepare import PreparationRequest, prepare
from slt_jax.corpora.prepared import Prepared
from slt_jax.errors import UserError

PROG = "slt-prepare"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser(
        PROG, "Read a corpus CSV, repair it, split it by video, cut and extract its clips. The same command continues "
        "where it was stopped.",
    )  # fmt: skip
    top.add_argument("--metadata", metavar="CSV", type=Path, help="id, text, video, start, end of every clip")
    top.add_argument(
        "--videos", metavar="DIR", type=Path, help="folder of the videos, named as in the CSV (subfolders too)"
    )
    top.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="folder for the streams, meta.csv, index, dropped.csv, repaired.csv, report.html",
    )
    top.add_argument(
        "--splits",
        metavar="TRAIN,VAL,TEST",
        dest="shares",
        type=_shares,
        help="shares of the clips (default: 0.8,0.1,0.1)",
    )
    top.add_argument("--seed", type=int, metavar="INT", help="seed of the splits (default: 1234)")
    top.add_argument("--keep-split", action="store_true", help="use the CSV's own column split")
    top.add_argument("--workers", type=int, metavar="INT", help="processes that extract (default: 1)")
    top.add_argument("--fps", type=float, metavar="FLOAT", help="frames per second to extract (default: 25)")
    top.add_argument(
        "--dry-run", action="store_true", help="cut nothing: only tables and report, or nothing at all without --output"
    )
    return flags.parse(top, argv)


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares, such as 0.8,0.1,0.1")
    return shares


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 some clips could not be extracted, 2 a mistake in the input, 130 stopped by Ctrl-C."""
    return run(PROG, _prepare, argv)


def _prepare(argv: Sequence[str] | None) -> int:
    given = vars(parse(argv))
    if "metadata" not in given:
        raise UserError("--metadata is not given")
    request = PreparationRequest(**given)
    try:
        prepared = prepare(request)
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted; finished clips are kept, and the same command continues", file=sys.stderr)
        return 128 + signal.SIGINT
    print("\n".join(summary(request, prepared)))
    return 1 if prepared.failed else 0


def summary(request: PreparationRequest, prepared: Prepared) -> list[str]:
    """Lines on what was kept, dropped and repaired, and on each split."""
    corpus = prepared.corpus
    lines = [f"{request.metadata}: {corpus.rows} rows, {len(corpus.clips)} kept, {len(corpus.drops)} dropped"]
    lines += [f"  dropped {count}: {reason}" for reason, count in Counter(d.reason for d in corpus.drops).most_common()]
    repairs = Counter((repair.column, repair.source) for repair in corpus.repairs)
    lines += [f"  repaired {count} {column}, from {source}" for (column, source), count in repairs.most_common()]
    for split, clips in prepared.splits.items():
        if clips:
            minutes = sum(clip.duration or 0.0 for clip in clips) / 60
            videos = len({clip.video for clip in clips})
            length = f", minutes {minutes:.4g}" if minutes else ""  # unknown if whole videos are clips
            lines.append(f"  {split}: clips {len(clips)}, videos {videos}{length}")
        else:
            lines.append(f"  {split}: empty, no index is written")
    for group in prepared.shared_footage:
        lines.append(f"  {len(group)} videos show parts of each other and stay together: {', '.join(group)}")
    if prepared.cut:
        lines.append(
            f"  {len(prepared.cut)} videos are in more than one split ({prepared.cut[0]}); "
            "without --keep-split none would be"
        )
    if prepared.written:
        lines.append(f"written: {', '.join(map(str, prepared.written))}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
