"""`slt-average RUN --output FILE`: the mean of the weights of several checkpoints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.average import average
from convert.source import open_source
from slt_jax.base.console import byte_bar
from slt_jax.base.json_text import read_json
from slt_jax.base.places import check_file
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.errors import UserError
from slt_jax.training.start import tokenizer_beside
from slt_jax.training.workdir import WorkDir

PROG = "slt-average"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser(
        PROG, "Average the weights of checkpoints of one model, such as those that training.keep_epochs keeps."
    )
    top.add_argument(
        "paths", metavar="PATH", nargs="+", help="a work-dir with epoch-N.pt files, or two or more checkpoints"
    )
    top.add_argument("--last", metavar="N", type=int, help="of a work-dir, only the last N epochs (default: all kept)")
    top.add_argument("--output", metavar="FILE", required=True, help="the .pt to write")
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in the input."""
    return run(PROG, _average, argv)


def _average(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    output = Path(arguments.output)
    check_file("--output", output)
    paths = chosen([Path(path) for path in arguments.paths], getattr(arguments, "last", None))
    if output.resolve() in {path.resolve() for path in paths}:
        raise UserError(f"--output {output}: is one of the checkpoints to average; name another file")
    check_one_vocabulary(paths)
    with byte_bar(output.name) as progress:
        average([open_source(path) for path in paths], output, progress=progress)
    print(f"{output}: the mean of {', '.join(path.name for path in paths)}")
    return 0


def chosen(paths: Sequence[Path], last: int | None) -> list[Path]:
    """The checkpoints to average. Raises UserError where there are fewer than two."""
    if len(paths) > 1:
        if last is not None:
            raise UserError(f"--last {last}: is about one work-dir, and {len(paths)} paths are given")
        return list(paths)
    kept = list(WorkDir(paths[0]).epoch_files().values())
    if last is not None and not 2 <= last <= len(kept):
        raise UserError(f"--last {last}: {paths[0]} keeps {len(kept)} epochs, and an average takes at least 2")
    if len(kept) < 2:
        raise UserError(f"{paths[0]}: keeps fewer than 2 epoch-N.pt files; train with --keep-epochs 5, or name files")
    return kept[-last:] if last else kept


def check_one_vocabulary(paths: Sequence[Path]) -> None:
    """Raise UserError if the tokenizers beside the checkpoints have other tokens: their rows mean other words."""
    beside: dict[Path, Path] = {}
    for path in paths:
        folder = tokenizer_beside(path)
        if folder and (folder / "tokenizer.json").is_file():
            beside.setdefault(folder.resolve(), path)
    if len(beside) < 2:
        return
    (first, known), *others = ((path, _vocabulary(folder)) for folder, path in beside.items())
    for path, vocabulary in others:
        if vocabulary != known:
            raise UserError(f"{first} and {path} have different tokenizers beside them; average checkpoints of one")


def _vocabulary(folder: Path) -> Any:
    read = read_json(folder / "tokenizer.json", "the tokenizer of a checkpoint")
    return read.get("model", {}).get("vocab") if isinstance(read, dict) else None


if __name__ == "__main__":
    sys.exit(main())
