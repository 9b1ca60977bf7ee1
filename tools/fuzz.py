"""Damaged and hostile files for every reader: python tools/fuzz.py --inputs 1000000 --state fuzz.json.

Each input is a small valid file, changed at random, read in a process of its own with 5 seconds and 1 GB. A reader may
refuse it with its documented error in one line; anything else fails. The same command continues where it was stopped.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from slt_jax.base.places import check_file
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.errors import UserError, nearest
from tools.fuzzing.readers import READERS
from tools.fuzzing.run import Progress, fuzz, keep


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 an input failed, 2 a mistake in the flags, 130 stopped by Ctrl-C."""
    return run("fuzz", _fuzz, argv)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser("fuzz", (__doc__ or "").partition("\n")[0])
    top.add_argument("--inputs", type=int, default=10_000, metavar="N", help="inputs in all (default: 10000)")
    top.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="stop after so long")
    top.add_argument("--seed", type=int, default=0, metavar="N", help="the same inputs for the same seed (default: 0)")
    top.add_argument("--readers", nargs="+", default=list(READERS), metavar="NAME", help=f"of {', '.join(READERS)}")
    top.add_argument("--state", type=Path, default=None, metavar="FILE", help="continue from this file, and keep it")
    top.add_argument("--corpus", type=Path, default=None, metavar="DIR", help="keep the inputs that fail there")
    return flags.parse(top, argv)


def _fuzz(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    if unknown := [name for name in arguments.readers if name not in READERS]:
        raise UserError(f"--readers {unknown[0]}: is unknown{nearest(unknown[0], READERS)}")
    check_file("--state", arguments.state)
    progress = Progress(arguments.state, arguments.seed)
    each = -(-arguments.inputs // len(arguments.readers))
    start, before = time.monotonic(), sum(progress.done.values())
    turn = max(min(arguments.seconds / len(arguments.readers) / 2, 20.0), 0.5)  # each reader has its turn soon
    while left := [name for name in arguments.readers if progress.done[name] < each]:
        for name in left:
            if time.monotonic() - start > arguments.seconds:
                return report(progress, arguments, before, start)
            progress.add(name, *fuzz(name, arguments.seed, progress.done[name], each, turn))
    return report(progress, arguments, before, start)


def report(progress: Progress, arguments: argparse.Namespace, before: int, start: float) -> int:
    """Print inputs and failures by reader."""
    seconds = max(time.monotonic() - start, 1e-9)
    failed = [failure for failure in progress.failures if failure["reader"] in arguments.readers]
    for name in arguments.readers:
        found = [failure for failure in failed if failure["reader"] == name]
        print(f"{name:12s} {progress.done[name]:9d} inputs {len(found):6d} failed")
    total = sum(progress.done[name] for name in arguments.readers)
    print(f"{total} inputs, {len(failed)} failed; {(sum(progress.done.values()) - before) / seconds:.0f} a second")
    for failure in failed[:20]:
        print(f"  {failure['reader']} {failure['number']}: {failure['error']}")
        if arguments.corpus:
            keep(failure, arguments.corpus)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
