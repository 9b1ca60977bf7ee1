"""Kills, full disks and damage to real runs: python tools/fault_campaign.py --trials 200 --work DIR.

Each trial disturbs a run, resumes it and compares its weights and metrics with the run that nobody disturbed. They must
be equal, bit for bit, or the command says in one line what is wrong and loses nothing. The same command continues where
it was stopped.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from slt_jax.base.files import write_json_lines
from slt_jax.cli import flags
from slt_jax.cli.command import run


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a trial failed, 2 a mistake in the flags, 130 stopped by Ctrl-C."""
    return run("fault_campaign", _campaign, argv)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser("fault_campaign", (__doc__ or "").partition("\n")[0])
    top.add_argument("--trials", type=int, default=20, metavar="N", help="how many in all (default: 20)")
    top.add_argument("--real", type=int, default=10, metavar="N", help="every Nth trial disturbs slt-train (0: none)")
    top.add_argument("--two", type=int, default=6, metavar="N", help="every Nth trial is of two processes (0: none)")
    top.add_argument("--seed", type=int, default=0, metavar="N", help="the same trials for the same seed (default: 0)")
    top.add_argument("--work", type=Path, default=None, metavar="DIR", help="scratch folder; trials in it are kept")
    return flags.parse(top, argv)


def _campaign(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(arguments.work or temporary).resolve()
        work.mkdir(parents=True, exist_ok=True)
        prepare(work)
        results = carry_out(arguments, work)
    print("\n".join(table(results)))
    failed = [one for one in results if one["result"] not in ("equal", "told", "skipped")]
    for one in failed:
        print(f"  trial {one['number']}, {one['run']}, {one['kind']}, {one['what']}: {one['result']}")
    return 1 if failed else 0


def prepare(work: Path) -> None:
    """Before JAX starts: the CPU, quick compilation, and one cache of compiled programs for all runs."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(work / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def carry_out(arguments: argparse.Namespace, work: Path) -> list[dict]:
    """The trials that are not in WORK/trials.jsonl yet; returns all of them."""
    from tools.campaign.harm import SmallDisk
    from tools.campaign.runs import make_corpus
    from tools.campaign.trials import KINDS, Campaign

    kept = work / "trials.jsonl"
    results = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {one["number"] for one in results}
    campaign = Campaign(work, arguments.seed, SmallDisk.allowed(work))
    kinds = [kind for kind, share in KINDS.items() for _ in range(share)]
    Random(arguments.seed).shuffle(kinds)
    for number in range(arguments.trials):
        if number in done:
            continue
        kind = kinds[number % len(kinds)]
        real, two = (bool(share) and number % share == share - 1 for share in (arguments.real, arguments.two))
        if real:
            make_corpus(campaign.corpus)
        if kind == "full disk" and not campaign.disks:
            result = {"number": number, "run": "", "kind": kind, "what": "may not mount", "result": "skipped"}
        else:
            result = campaign.carry_out(number, "slt-train" if real else "small", kind, two=two)
        results.append(result)
        write_json_lines(kept, results)
        print(
            f"{number + 1}/{arguments.trials} {result['run']}, {result['kind']}, {result['what']}: {result['result']}",
            flush=True,
        )
    return results


def table(results: list[dict]) -> list[str]:
    """Trials by kind in Markdown."""
    lines = ["| kind | trials | equal | told | skipped | failed |", "| --- | --- | --- | --- | --- | --- |"]
    kinds = sorted({one["kind"] for one in results})
    for kind in [*kinds, "in all"]:
        found = Counter(one["result"] for one in results if kind in (one["kind"], "in all"))
        counts = [found[result] for result in ("equal", "told", "skipped")]
        cells = [kind, found.total(), *counts, found.total() - sum(counts)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
