"""`slt-check-data`, also `python tools/ci_validate_data_contract.py`: does a data set follow docs/data.md?"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.config import DataConfig
from slt_jax.data.contract import ERROR, WARNING, Finding, Report, check_data_set
from slt_jax.data.corpus_folder import INDICES, PLACES
from slt_jax.data.text import load_tokenizer
from slt_jax.errors import UserError
from slt_jax.streams import HANDS, chosen, parse_streams
from slt_jax.synthetic.generator import generate

PROG = "slt-check-data"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser(PROG, "Check every file of a data set against docs/data.md. Exit code 1: it has errors.")
    flags.add_corpus_flags(top, PLACES)
    flags.add_streams_flag(top, "look at these only")
    top.add_argument(
        "--pose-landmarks", type=int, metavar="INT", help="landmarks per frame (default: as most clips have)"
    )
    top.add_argument("--tokenizer", metavar="DIR", help="check the texts' lengths and characters with this tokenizer")
    top.add_argument(
        "--max-target-length", type=int, metavar="INT",
        help=f"longest target in tokens (default: {DataConfig.max_target_length})",
    )  # fmt: skip
    top.add_argument(
        "--generate", action="store_true", help="generate a small corpus and check it (default if nothing is named)"
    )
    top.add_argument("--strict", action="store_true", help="warnings are errors")
    top.add_argument("--rows", type=int, metavar="INT", help="clips to list for each kind of finding (default: 20)")
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 in order, 1 the data set has errors, 2 a mistake in the input, 130 stopped by Ctrl-C."""
    return run(PROG, _validate, argv)


def _validate(argv: Sequence[str] | None) -> int:
    arguments = vars(parse(argv))
    try:
        named = {"root", *PLACES} & arguments.keys()
        if not named and "generate" not in arguments:
            print("nothing is named, so a generated corpus is checked (--root DIR checks yours)", flush=True)
            arguments["generate"] = True
        if not arguments.pop("generate", False):
            return _check(**arguments)
        if named:
            raise UserError("--generate makes its own data: leave out --root and the other folders and files")
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "corpus"
            generate(root, num_train=8, num_val=4, num_test=4, level="small", image_size=32, workers=0, progress=False)
            return _check(root=str(root), **arguments)
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130


def _check(
    *,
    streams: Sequence[str] | None = None,
    pose_landmarks: int | None = None,
    tokenizer: str | None = None,
    max_target_length: int = DataConfig.max_target_length,
    strict: bool = False,
    rows: int = 20,
    **given: str,
) -> int:
    if max_target_length < 1:
        raise UserError(f"--max-target-length {max_target_length}: must be at least 1")
    texts = {"tokenizer": load_tokenizer(tokenizer), "max_target_length": max_target_length} if tokenizer else {}
    names = parse_streams(streams) if streams else None
    folders = {stream.name: stream.folder_key for stream in chosen(names)}
    paths = flags.places_of(given, [*folders.values(), "metadata_csv"])
    splits = flags.places_of(given, [key for key in INDICES if key in given] or INDICES, needed=False)
    indices = {key.removesuffix("_index"): path for key, path in splits.items() if key in given or Path(path).is_file()}
    with tqdm(desc="clips", unit="clip", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = check_data_set(
            {name: paths[key] for name, key in folders.items()}, paths["metadata_csv"], indices,
            streams=names, landmarks=pose_landmarks, progress=progress, **texts,
        )  # fmt: skip
    print("\n".join(table(report, rows)))
    return 1 if report.count(ERROR) or (strict and report.count(WARNING)) else 0


def table(report: Report, rows: int) -> list[str]:
    """Every finding by clip, errors first, at most `rows` of a kind; then what was checked, and the verdict."""
    kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        kinds[finding.severity, finding.kind].append(finding)
    cells = []
    for kind in sorted(kinds, key=lambda kind: (kind[0] != ERROR, -len(kinds[kind]), kind[1])):
        cells += [(f.severity, f.clip, f.kind, f.detail) for f in kinds[kind][:rows]]
        if (more := len(kinds[kind]) - rows) > 0:
            cells.append((kind[0], f"... and {more} more", kind[1], ""))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:3]
    lines = ["  ".join([*map(str.ljust, row, widths), row[3]]).rstrip() for row in cells]
    clips = report.clips.values()
    frames, images = sum(one.frames for one in clips), sum(sum(one.images.values()) for one in clips)
    looked_at = [hand for hand in HANDS if any(hand.name in one.seen for one in clips)]
    hands = [f"{sum(one.seen[h.name] for one in clips) / max(frames, 1):.0%} ({h.label})" for h in looked_at]
    seen = f"; hands in {' and '.join(hands)} of the frames" if hands else ""
    lines.append(f"{len(clips)} clips, {frames} frames, {images} images{seen}")
    lines.append(f"{report.count(ERROR)} errors, {report.count(WARNING)} warnings")
    return lines


if __name__ == "__main__":
    sys.exit(main())
