"""`slt-plan`: will a configuration fit these devices, or TPUs that are not at hand?"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slt_jax.base.files import write_json
from slt_jax.base.places import check_file
from slt_jax.cli import flags
from slt_jax.cli.command import choose_device, keep_compiled_programs, run
from slt_jax.data.text import VOCABULARY

if TYPE_CHECKING:
    from slt_jax.training.planning import Devices, Verdict

GIB = 2**30


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser(
        "slt-plan",
        "Compile the training step of a configuration, without data or weights, and say how much memory it takes, "
        f"whether it fits and the largest batch that does. model.vocab_size is {VOCABULARY} where it is not set.",
    )
    top.add_argument(
        "--topology",
        metavar="NAME",
        nargs="+",
        action="extend",
        help="devices to compile for, which need not be at hand: slices of TPUs (v5e:2x2 v5e:4x4 v5p:2x2x1 v6e:2x2), "
        "GPUs by their memory in GiB (gpu:24, or gpu:80x8 for eight; default: the devices of this machine)",
    )
    top.add_argument(
        "--pretraining", metavar="FILE", help="plan the pre-training that this configuration of slt-pretrain describes"
    )
    top.add_argument("--json", metavar="FILE", help="also write the results to this file")
    flags.add_config_flags(top)
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 it fits everywhere, 1 it does not, 2 a mistake in the input."""
    return run("slt-plan", _plan, argv)


def _plan(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    check_file("--json", getattr(arguments, "json", None))
    topologies = getattr(arguments, "topology", [])
    if topologies:
        os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(arguments, "pretraining"):
        planner, cost, facts = _of_pretraining(arguments, on_cpu=bool(topologies))
    else:
        planner, cost, facts = _of_translation(arguments, on_cpu=bool(topologies))
    print(
        f"{'topology':<12} {'devices':>7} {'usable':>10} {'batch':>6}  {'arguments':>10} {'temporaries':>11} "
        f"{'largest batch':>13}"
    )
    verdicts = []
    for verdict in map(planner.topology, topologies) if topologies else [planner.present()]:
        verdicts.append(verdict)
        print(row(verdict), flush=True)
    print(cost)
    if hasattr(arguments, "json"):
        write_json(arguments.json, {"plans": [verdict.to_dict() for verdict in verdicts], **facts})
    return 0 if all(verdict.fits for verdict in verdicts) else 1


def _of_translation(arguments: argparse.Namespace, *, on_cpu: bool) -> tuple["Devices", str, dict[str, Any]]:
    """The planner, the cost of a clip in words, and what else a report holds."""
    config, _ = flags.configure(arguments)
    choose_device("cpu" if on_cpu else config.data.device)
    keep_compiled_programs()
    from slt_jax.training.planning import Planner

    planner = Planner(config)
    print("\n".join(planner.table()), end="\n\n", flush=True)
    parts, total = planner.flops, planner.flops["total"]
    cost = f"a clip takes {flop(total.forward)} forward and {flop(total.training)} in training, counted from the model"
    counts = {part: dataclasses.asdict(flops) for part, flops in parts.items()}
    return planner, cost, {"flops_per_clip": counts, "config": planner.config.to_dict()}


def _of_pretraining(arguments: argparse.Namespace, *, on_cpu: bool) -> tuple["Devices", str, dict[str, Any]]:
    """The same of pre-training, whose settings are not those of these flags."""
    from slt_jax.pretraining.configuration import load

    config, _ = load(arguments.pretraining, {}, getattr(arguments, "set", []), planned=True)
    choose_device("cpu" if on_cpu else config.run.device)
    keep_compiled_programs()
    from slt_jax.pretraining.footprint import PretrainingPlanner

    planner = PretrainingPlanner(config)
    cost = f"a crop takes {flop(planner.flops)} in a step, counted from the model"
    return planner, cost, {"flops_per_crop": planner.flops, "config": dataclasses.asdict(config)}


def row(verdict: "Verdict") -> str:
    needs = verdict.needs
    largest = f"{'> ' if verdict.searched_to_end else ''}{verdict.largest_batch}"
    if needs.fits:
        sizes = f"{gib(needs.arguments)} {gib(needs.temporaries, 11)}"
    else:
        sizes = f"{gib(needs.total)} {'in all':>11}"
    outcome = f"{'fits' if verdict.fits else 'does not fit'} with {verdict.memory}"
    return (
        f"{verdict.name:<12} {verdict.devices:>7} {gib(verdict.usable)} {verdict.batch_size:>6}  {sizes} "
        f"{largest:>13}  {outcome}"
    )


def gib(size: int, width: int = 10) -> str:
    return f"{f'{size / GIB:.2f} GiB':>{width}}"


def flop(count: int) -> str:
    unit, size = ("T", 1e12) if count >= 1e12 else ("G", 1e9) if count >= 1e9 else ("M", 1e6)
    return f"{count / size:.3g} {unit}FLOP"


if __name__ == "__main__":
    sys.exit(main())
