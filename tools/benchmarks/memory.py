"""Memory of a compiled training step by batch size, and what the same step takes in torch."""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from slt_jax.config import Config
from tools.benchmarks import torch_baseline
from tools.benchmarks.problem import add_config_flags, positive, problem
from tools.benchmarks.processes import OutOfMemory, Side


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument(
        "--against",
        choices=("torch",),
        default=None,
        help="also run two steps, and two of the same model in torch, and tell the peaks",
    )
    top.add_argument(
        "--batch-sizes",
        type=positive,
        nargs="+",
        default=[1, 2, 4],
        metavar="N",
        help="clips in a batch (default: 1 2 4)",
    )
    add_config_flags(top)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    config, cores = problem(arguments), arguments.threads
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, grad_accum_steps=1))
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder, "weights.pt"))
        for rows in arguments.batch_sizes:
            sized = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows))
            # A process each: what one has used at its peak says nothing of the next.
            with Side("ours", ours, sized, cores=cores) as side:
                facts = side.call("facts")
                result = results[str(rows)] = {"compiled": side.call("memory")}
                if arguments.against:
                    architecture = side.call("save", weights)
                    result["ours"] = peak(side)
            if arguments.against:
                with Side(
                    "torch", torch_baseline.Training, sized, architecture, weights, cores=cores, foreign=True
                ) as side:
                    facts["versions"] |= side.call("facts")["versions"]
                    result["torch"] = peak(side)
    report(config, facts, results)
    return {"facts": facts, "results": results}


def ours(config: Config):
    from tools.benchmarks.ours import Training

    return Training(config)


def peak(side: Side) -> dict[str, Any]:
    """Bytes in use before the first step and at most during two; on a CPU those of the whole process."""
    try:
        before = side.call("bytes_in_use")
        side.call("turn", 1, 1)
        return {"before": before["now"], "peak": side.call("bytes_in_use")["peak"]}
    except OutOfMemory as error:
        return {"error": str(error)}


def report(config: Config, facts: dict[str, Any], results: dict[str, dict]) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(f"{facts['device']}; {versions}")
    print(f"T {config.model.sequence_length}, {config.model.image_size} px, {config.data.precision}; MiB per device")
    for rows, result in results.items():
        compiled = result["compiled"]
        parts = ", ".join(f"{name} {_mib(compiled[name])}" for name in ("arguments", "temporaries", "total"))
        line = f"B {rows}: compiled step: {parts}{'' if compiled['fits'] else ', which does not fit'}"
        for name in [name for name in ("ours", "torch") if name in result]:
            used = result[name]
            memory_use = used.get("error") or f"{_mib(used['before'])} before, {_mib(used['peak'])} at the peak"
            line += f"; {name}: {memory_use}"
        print(line)


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"
