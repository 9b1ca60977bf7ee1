"""Time of greedy and beam search, and of HuggingFace's in torch, from the same weights and encoder outputs."""

import argparse
import tempfile
from functools import partial
from typing import Any

import numpy as np

from slt_jax.config import Config
from slt_jax.errors import UserError
from tools.benchmarks import torch_baseline
from tools.benchmarks.problem import add_config_flags, positive, problem
from tools.benchmarks.processes import Side
from tools.benchmarks.timing import alternate, as_text, ratios, summary


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--against", choices=("torch",), default=None, help="also HuggingFace's generate in torch")
    top.add_argument(
        "--beams",
        type=positive,
        nargs="+",
        default=[1, 4],
        metavar="N",
        help="numbers of beams, 1 = greedy (default: 1 4)",
    )
    top.add_argument("--rounds", type=positive, default=7, metavar="N", help="turns of each side (default: 7)")
    add_config_flags(top)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    config, cores = problem(arguments), arguments.threads
    sides = {"ours": Side("ours", ours, config, cores=cores)}
    results = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            facts = sides["ours"].call("facts")
            architecture = sides["ours"].call("save", folder)
            if arguments.against:
                sides["torch"] = Side(
                    "torch", torch_baseline.Generation, config, architecture, folder, cores=cores, foreign=True
                )
                facts["versions"] |= sides["torch"].call("facts")["versions"]
            for beams in arguments.beams:
                tokens = {name: side.call("tokens", beams) for name, side in sides.items()}
                for name, theirs in tokens.items():
                    if not np.array_equal(theirs, tokens["ours"]):
                        raise UserError(f"{name} finds other texts than ours with {beams} beams")
                turns = {name: partial(side.call, "turn", beams) for name, side in sides.items()}
                taken = alternate(turns, arguments.rounds)
                results[str(beams)] = {"length": tokens["ours"].shape[1]} | {
                    name: {"seconds": summary(seconds)} for name, seconds in taken.items()
                }
                if arguments.against:
                    two = results[str(beams)]
                    two["torch"]["times_ours"] = ratios(two["ours"]["seconds"], two["torch"]["seconds"])
    finally:
        for side in sides.values():
            side.close()
    report(config, facts, results)
    return {"facts": facts, "results": results}


def ours(config: Config):
    from tools.benchmarks.ours import Generation

    return Generation(config)


def report(config: Config, facts: dict[str, Any], results: dict[str, dict]) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(f"{facts['device']}; {versions}")
    print(f"B {config.data.batch_size}, T {config.model.sequence_length}, float32, from encoded frames to token ids")
    for beams, result in results.items():
        tokens = config.data.batch_size * (result["length"] - 1)
        for name in [name for name in ("ours", "torch") if name in result]:
            seconds = result[name]["seconds"]
            print(
                f"{beams} beam{'s' if beams != '1' else ''}, {result['length']} tokens, {name}: {as_text(seconds)}; "
                f"{tokens / seconds['median']:,.0f} tokens/s"
            )
            if times := result[name].get("times_ours"):
                print(f"  {name} / ours: " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in times.items()))
