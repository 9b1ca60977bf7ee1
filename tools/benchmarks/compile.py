"""Time to the first training step of a new process, without and with the programs that an earlier one kept."""

import argparse
import os
import tempfile
import time
from typing import Any

import numpy as np

from slt_jax.config import Config
from tools.benchmarks.problem import add_config_flags, positive, problem
from tools.benchmarks.processes import Side
from tools.benchmarks.timing import now

PARTS = ("import", "state and batch", "trace", "compile", "first step")


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument(
        "--rounds",
        type=positive,
        default=3,
        metavar="N",
        help="pairs of processes, each with a cache of its own (default: 3)",
    )
    add_config_flags(top)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    config = problem(arguments)
    taken: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for one in taken.values():
                environment = {"JAX_COMPILATION_CACHE_DIR": cache}
                with Side("ours", FirstStep, config, cores=arguments.threads, environment=environment) as side:
                    start = time.perf_counter()
                    facts, seconds = side.call("run")
                    one.append(seconds | {"total": time.perf_counter() - start})
                facts["programs_kept"] = sum(name.endswith("-cache") for name in os.listdir(cache))
    results = {
        name: {part: float(np.median([seconds[part] for seconds in rows])) for part in (*PARTS, "total")}
        for name, rows in taken.items()
    }
    report(config, facts, results)
    return {"facts": facts, "results": results}


def report(config: Config, facts: dict[str, Any], results: dict[str, dict[str, float]]) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(f"{facts['device']}; {versions}")
    print(
        f"B {config.data.batch_size}, T {config.model.sequence_length}, {config.model.image_size} px, "
        f"{config.data.precision}; seconds, medians"
    )
    for name, seconds in results.items():
        parts = ", ".join(f"{part} {seconds[part]:.1f}" for part in PARTS)
        print(f"{name}: {seconds['total']:.1f} to the end of the first step: {parts}")


class FirstStep:
    """A new process from its first import to its first step."""

    def __init__(self, config: Config):
        self.config = config

    def run(self) -> tuple[dict[str, Any], dict[str, float]]:
        """The device, and the seconds of each part."""
        times = [now()]
        from tools.benchmarks import ours

        times.append(now())
        training = ours.Training(self.config)
        times.append(now())
        lowered = training.lower()
        times.append(now())
        step = lowered.compile()
        times.append(now())
        training.run_compiled(step)
        times.append(now())
        parts = zip(PARTS, times[:-1], times[1:], strict=True)
        return ours.device_facts(), {part: (end - start).wall for part, start, end in parts}
