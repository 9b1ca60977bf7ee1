"""Time of an optimiser step on made-up clips, and of the same step in torch."""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from slt_jax.config import Config
from slt_jax.errors import UserError
from tools.benchmarks import torch_baseline
from tools.benchmarks.problem import add_config_flags, positive, problem
from tools.benchmarks.processes import OutOfMemory, Side
from tools.benchmarks.timing import alternate, as_text, ratios, summary

TOLERANCE = 1e-4  # of float32 losses, relative
CHECKED = 2  # clips whose loss is compared


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument(
        "--against",
        choices=("torch", "torch.compile"),
        nargs="+",
        default=[],
        help="also the same model in torch: as it is, by torch.compile, or both",
    )
    add_turn_flags(top, rounds=7)
    add_config_flags(top)


def add_turn_flags(top: argparse.ArgumentParser, *, rounds: int) -> None:
    """How often sides take turns, and what a turn is."""
    top.add_argument(
        "--rounds", type=positive, default=rounds, metavar="N", help=f"turns of each side (default: {rounds})"
    )
    top.add_argument("--steps", type=positive, default=3, metavar="N", help="steps timed in a turn (default: 3)")
    top.add_argument(
        "--warm-up",
        type=positive,
        default=2,
        metavar="N",
        help="steps before the first turn of a process, which are not timed (default: 2)",
    )


def ours(config: Config):
    from tools.benchmarks.ours import Training

    return Training(config)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    config, cores = problem(arguments), arguments.threads
    clips = config.data.batch_size * config.training.grad_accum_steps
    sides = {"ours": Side("ours", ours, config, cores=cores)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            facts = sides["ours"].call("facts")
            weights = str(Path(folder, "weights.pt"))
            architecture = sides["ours"].call("save", weights)
            for name in arguments.against:
                compiled = name == "torch.compile"
                make = partial(torch_baseline.Training, compiled=compiled)
                sides[name] = Side(name, make, config, architecture, weights, cores=cores, foreign=True)
            facts["matmul_peak"] = sides["ours"].call("matmul_peak")
            losses, results = race(sides, facts, arguments, CHECKED)
    finally:
        for side in sides.values():
            side.close()
    operations = facts["flops"]["total"] * clips
    for name, result in results.items():
        if "seconds" in result:
            seconds = result["seconds"]["median"]
            result |= {"clips_per_second": clips / seconds, "flops_per_second": operations / seconds}
            result["share_of_matmul_peak"] = result["flops_per_second"] / facts["matmul_peak"]
            if name != "ours" and "seconds" in results["ours"]:
                result["times_ours"] = ratios(results["ours"]["seconds"], result["seconds"])
    report(config, facts, losses, results)
    return {"facts": facts, "losses": losses, "results": results}


def race(
    sides: Mapping[str, Side], facts: dict[str, Any], arguments: argparse.Namespace, *checked: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """The float32 losses of all sides, which must agree, and what their turns took; `facts` get their versions.

    `checked` is passed to each side's `loss`.
    """
    # A CPU has room for all sides at once; the memory of an accelerator is one side's at a time.
    at_once = facts["platform"] == "cpu"
    losses = {}
    for name, side in sides.items():
        losses[name] = side.call("loss", *checked)
        print(f"{name}: float32 loss {losses[name]:.6f}", file=sys.stderr, flush=True)
        facts["versions"] |= side.call("facts")["versions"]
        if not at_once:
            side.close()
    check_same(losses)
    turns = {name: partial(turn, side, arguments, at_once) for name, side in sides.items()}
    return losses, {name: of_turns(taken) for name, taken in alternate(turns, arguments.rounds).items()}


def check_same(losses: dict[str, float]) -> None:
    """Raise UserError unless all sides had the same float32 loss before their first step."""
    for name, loss in losses.items():
        if not abs(loss - losses["ours"]) <= TOLERANCE * abs(losses["ours"]):
            raise UserError(f"{name} computes something else: its loss is {loss}, ours {losses['ours']}")


def turn(side: Side, arguments: argparse.Namespace, at_once: bool) -> dict[str, Any] | OutOfMemory:
    """Times and losses of steps; where the side has the device to itself also `peak`, its bytes at most."""
    try:
        taken = side.call("turn", arguments.steps, arguments.warm_up)
        print(f"{side.name}: {1e3 * taken['seconds'].wall:,.1f} ms a step", file=sys.stderr, flush=True)
        return taken if at_once else taken | {"peak": side.call("bytes_in_use")["peak"]}
    except OutOfMemory as error:
        return error
    finally:
        if not at_once:
            side.close()


def of_turns(taken: list[dict[str, Any] | OutOfMemory]) -> dict[str, Any]:
    """The times of a side's steps and the losses of its first ones, or why it has none."""
    if failure := next((one for one in taken if isinstance(one, OutOfMemory)), None):
        return {"error": str(failure)}
    turns = [one for one in taken if isinstance(one, dict)]
    peaks = [one["peak"] for one in turns if "peak" in one]
    return {"seconds": summary([one["seconds"] for one in turns]), "losses": turns[0]["losses"]} | (
        {"peak": max(peaks)} if peaks else {}
    )


def report(config: Config, facts: dict[str, Any], losses: dict[str, float], results: dict[str, dict]) -> None:
    data, model = config.data, config.model
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(f"{facts['device']}; {versions}")
    print(
        f"B {data.batch_size} x {config.training.grad_accum_steps}, T {model.sequence_length}, {model.image_size} px, "
        f"S {data.max_target_length}, {data.precision}; {facts['parameters'] / 1e6:,.1f}M parameters"
    )
    print(
        f"{facts['flops']['total'] / 1e9:,.1f} GFLOP a clip (forward and backward); matmul peak "
        f"{facts['matmul_peak'] / 1e12:,.2f} TFLOP/s; float32 losses "
        + ", ".join(f"{name} {loss:.6f}" for name, loss in losses.items())
    )
    for name, result in results.items():
        if "error" in result:
            print(result["error"])
            continue
        print(
            f"{name}: {as_text(result['seconds'])} a step; {result['clips_per_second']:,.2f} clips/s, "
            f"{result['flops_per_second'] / 1e12:,.3f} TFLOP/s, {result['share_of_matmul_peak']:.1%} of the peak"
            + (f"; at most {result['peak'] / 2**30:,.1f} GiB" if "peak" in result else "")
        )
        if times := result.get("times_ours"):
            print(f"  {name} / ours: " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in times.items()))
