"""`slt-prepare`, also `python tools/prepare_dataset.py`: turn a corpus, or a table and its videos, into a data set."""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.corpora.audit import LOST
from slt_jax.corpora.known import CORPORA
from slt_jax.corpora.prepare import PreparationRequest, prepare
from slt_jax.corpora.prepared import Prepared
from slt_jax.corpora.table import LSA_T, ROLES, TABLE
from slt_jax.data.corpus_folder import SPLITS
from slt_jax.errors import UserError, nearest

PROG = "slt-prepare"
NAMES = (*CORPORA, LSA_T, TABLE)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser(
        PROG, "Turn a corpus into streams, splits and tables, and tell what is missing. The same command continues "
        "where it was stopped.",
    )  # fmt: skip
    top.add_argument("corpus", nargs="?", metavar="CORPUS", help=", ".join(NAMES))
    top.add_argument("--source", metavar="DIR", type=Path, help="folder of the corpus, as its authors give it")
    top.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="folder for the streams, meta.csv, index, dropped.csv, repaired.csv, report.html",
    )
    top.add_argument("--split", metavar="NAME", type=_split, help="prepare only train, val or test")
    top.add_argument("--limit", type=int, metavar="N", help="prepare only the first N clips of each split")
    top.add_argument(
        "--allow-missing", action="store_true", help="go on if more than 5 %% of the rows of CORPUS are lost"
    )
    top.add_argument("--workers", type=int, metavar="INT", help="processes that extract (default: 1)")
    top.add_argument("--fps", type=float, metavar="FLOAT", help="frames per second to extract (default: 25)")
    top.add_argument(
        "--dry-run", action="store_true", help="cut nothing: only tables and report, or nothing at all without --output"
    )
    own = top.add_argument_group("tables of your own, and lsa-t")
    own.add_argument(
        "--metadata",
        metavar="FILE",
        type=Path,
        help="id, text, video, start, end of every clip; CSV, TSV, JSON or JSONL",
    )
    own.add_argument(
        "--columns",
        metavar="ROLE=NAME,...",
        type=_columns,
        help=f"what the columns of a table are, such as id=SENTENCE_NAME,text=SENTENCE; roles: {', '.join(ROLES)}",
    )
    own.add_argument(
        "--videos", metavar="DIR", type=Path, help="folder of the videos, named as in the table (subfolders too)"
    )
    own.add_argument(
        "--splits",
        metavar="TRAIN,VAL,TEST",
        dest="shares",
        type=_shares,
        help="shares of the clips (default: 0.8,0.1,0.1)",
    )
    own.add_argument("--seed", type=int, metavar="INT", help="seed of the splits (default: 1234)")
    own.add_argument("--keep-split", action="store_true", help="use the table's own column split")
    return flags.parse(top, argv)


def _split(text: str) -> str:
    if text not in SPLITS:
        hint = "did you mean '--splits'?" if "," in text else f"known: {', '.join(SPLITS)}"
        raise argparse.ArgumentTypeError(f"{text!r} is no split; {hint}")
    return text


def _columns(text: str) -> dict[str, str]:
    columns = {}
    for part in text.split(","):
        role, sign, name = (side.strip() for side in part.partition("="))
        if not sign or not name or role not in ROLES:
            raise argparse.ArgumentTypeError(f"{part!r} is not ROLE=NAME with a role of {', '.join(ROLES)}")
        columns[role] = name
    return columns


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
    _check(given)
    request = PreparationRequest(**given)
    try:
        prepared = prepare(request)
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted; finished clips are kept, and the same command continues", file=sys.stderr)
        return 128 + signal.SIGINT
    print("\n".join(summary(request, prepared)))
    if request.corpus and not request.allow_missing and prepared.lost_share > LOST:
        share = f"{prepared.lost_share:.1%} of the rows are lost, more than {LOST:.0%}"
        print(f"{PROG}: {share}; {request.output}/dropped.csv names them", file=sys.stderr)
    return 1 if prepared.failed else 0


def _check(given: Mapping[str, Any]) -> None:
    """Refuse flags that say nothing about what is prepared."""
    corpus = given.get("corpus")
    if corpus is not None and corpus not in NAMES:
        raise UserError(f"CORPUS {corpus}: unknown{nearest(corpus, NAMES)}")
    if given.get("limit", 1) < 1:
        raise UserError(f"--limit {given['limit']}: must be 1 or more")
    if corpus is None:
        if "metadata" not in given:
            raise UserError(f"--metadata is not given, nor a corpus ({', '.join(NAMES)})")
        unused = [flag for flag in ("source", "columns") if flag in given]
        if unused:
            raise UserError(f"--{unused[0]} needs a corpus: {PROG} {TABLE} --metadata {given['metadata']} ...")
    elif "source" not in given and not (corpus == TABLE and "metadata" in given):
        raise UserError(f"--source is not given: the folder of {corpus}")
    elif corpus not in (LSA_T, TABLE):
        unused = [flag for flag in ("metadata", "columns", "videos", "shares", "seed", "keep_split") if flag in given]
        if unused:
            flag = {"shares": "splits", "keep_split": "keep-split"}.get(unused[0], unused[0])
            raise UserError(f"--{flag}: {corpus} has its own; leave the flag out")


def summary(request: PreparationRequest, prepared: Prepared) -> list[str]:
    """Lines on what was kept, dropped and repaired, and on each split."""
    corpus = prepared.corpus
    place = request.metadata or request.source
    lines = [f"{place}: {corpus.rows} rows, {len(corpus.clips)} kept, {len(corpus.drops)} dropped"]
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
    if prepared.cut and request.corpus not in CORPORA:  # whose splits stay as they are, and the audit tells
        lines.append(
            f"  {len(prepared.cut)} videos are in more than one split ({prepared.cut[0]}); "
            "without --keep-split none would be"
        )
    if prepared.written:
        lines.append(f"written: {', '.join(map(str, prepared.written))}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
