"""`slt-plot RUN...`, also `python tools/plot_metrics.py`: plot the curves of runs as PNG and SVG."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slt_jax.base.places import check_file
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.errors import UserError
from slt_jax.pictures.curves import plot, read_runs

PROG = "slt-plot"
KINDS = (".png", ".svg")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read which runs to plot, and what to write."""
    top = flags.command_parser(PROG, "Plot the loss, scores, learning rate and throughput of runs by epoch.")
    top.add_argument("runs", metavar="RUN", nargs="+", help="a work-dir or its metrics.jsonl")
    top.add_argument("--output", metavar="FILE", help="FILE.png and FILE.svg are written (default: metrics.png, .svg)")
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 a mistake in the input."""
    return run(PROG, _plot, argv)


def _plot(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    output = Path(getattr(arguments, "output", "metrics.png"))
    if output.suffix.lower() not in KINDS:
        raise UserError(f"--output {output}: name a file that ends in .png or .svg; both are written")
    targets = [output.with_suffix(kind) for kind in KINDS]
    for target in targets:
        check_file("--output", target)
    runs = read_runs(arguments.runs)
    plot(runs, targets)
    print("\n".join(f"{label}: {len(records)} epoch{'s' * (len(records) > 1)}" for label, records in runs.items()))
    print(f"written: {', '.join(map(str, targets))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
