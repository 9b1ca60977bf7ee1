"""The training step as it is and with kernels in its backbones, all in one process, in turns."""

import argparse
import math
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from slt_jax.config import Config
from tools.benchmarks.kernels.choice import Choice
from tools.benchmarks.kernels.halves import swapped
from tools.benchmarks.ours import Training
from tools.benchmarks.timing import Seconds, alternate, as_text, summary, timed

TOLERANCE = 2e-2  # of the first step's loss, and of its gradient's norm, relative
GROUPS = {
    "attention": ("attention",),
    "GELU": ("norm_gelu", "gelu_gradient"),
    "norm": ("norm", "norm_gelu", "norm_gradient"),
    "residual": ("add",),
}


def race(
    config: Config, won: dict[str, Any], best: dict[str, Any], arguments: argparse.Namespace, end: float
) -> dict[str, Any]:
    """Times of a step as it is, with all that `won`, and with the `best` of each kind alone, while there is time."""
    choices: dict[str, Choice | None] = {"today": None}
    if won:
        choices["all that won"] = Choice(**won, interpret=arguments.interpret)
    for name, fields in GROUPS.items():
        some = {field: best[field] for field in fields if field in best}
        if some and some != won:
            choices[name] = Choice(**some, interpret=arguments.interpret)
    choices["gradients written out, no kernel"] = Choice(interpret=arguments.interpret)
    training = Steps(config)
    left_out, last, wrong = [], 0.0, {}
    for name, choice in choices.items():
        began = time.monotonic()
        if name != "today" and began + 1.5 * last > end:
            left_out.append(name)
            continue
        try:
            training.add(name, choice)
        except jax.errors.JaxRuntimeError as error:
            if choice is None:
                raise
            wrong[name] = " ".join(str(error).split())[:160]
            continue
        last = time.monotonic() - began
        print(f"step, {name}: compiled and run in {last:.0f} s", flush=True)
        if off := training.off(name):
            wrong[name] = off
    right = [name for name in training.first if name not in wrong]
    taken = alternate({name: partial(training.turn, name, arguments.steps) for name in right}, arguments.rounds)
    results = {name: summary(seconds) for name, seconds in taken.items()}
    _report(results, training.first, wrong, left_out)
    choices_text = {name: repr(choice) for name, choice in choices.items() if choice}
    return {"seconds": results, "first": training.first, "wrong": wrong, "left_out": left_out, "choices": choices_text}


class Steps:
    """Compiled steps of one training, from the same weights on."""

    def __init__(self, config: Config):
        self.training = Training(config)
        self.begin = jax.device_get(self.training.state)
        self.places = jax.tree.map(lambda array: array.sharding, self.training.state)
        self.lr = jnp.float32(config.optim.lr)
        self.steps: dict[str, jax.stages.Compiled] = {}
        self.first: dict[str, dict[str, float]] = {}

    def add(self, name: str, choice: Choice | None) -> None:
        """Compile a step and take the first one with it."""
        jax.clear_caches()  # blocks that were traced without the kernels
        if choice is None:
            lowered = self.training.lower()
        else:
            with swapped(choice):
                lowered = self.training.lower()
        self.steps[name] = lowered.compile()
        self.training.state = jax.device_put(self.begin, self.places)
        results = self.take(name)
        numbers = {key: float(results[key]) for key in ("loss", "grad_norm")}
        analysis: Any = self.steps[name].memory_analysis()
        self.first[name] = numbers | {"temporaries": analysis.temp_size_in_bytes}

    def off(self, name: str) -> str:
        """What the first step gives otherwise than today's, if it does."""
        for key in ("loss", "grad_norm"):
            here, today = self.first[name][key], self.first["today"][key]
            if not math.isclose(here, today, rel_tol=TOLERANCE):
                return f"its {key} is {here}, today's {today}"
        return ""

    def take(self, name: str) -> dict[str, Any]:
        """One step."""
        self.training.state, results = self.steps[name](self.training.state, self.training.batch, self.lr)
        return results

    def turn(self, name: str, count: int) -> Seconds:
        """Seconds of a step, of `count` after one that is not timed."""
        jax.block_until_ready(self.take(name))

        def run() -> None:
            for _ in range(count):
                results = self.take(name)
            jax.block_until_ready((self.training.state, results))

        return timed(run) / count


def _report(results: dict[str, Any], first: dict[str, Any], wrong: dict[str, str], left_out: list[str]) -> None:
    today = results["today"]["median"]
    for name, times in results.items():
        print(
            f"step, {name}: {as_text(times)}; {today / times['median']:.3f} x; "
            f"temporaries {first[name]['temporaries'] / 2**30:.1f} GiB; loss {first[name]['loss']:.4f}, "
            f"gradient {first[name]['grad_norm']:.4f}"
        )
    for name, reason in wrong.items():
        print(f"step, {name}: not timed: {reason}")
    for name in left_out:
        print(f"step, {name}: no time left")
