"""Time of a step of pre-training on made-up crops, and of a plain DINO step in torch on the same views."""

import argparse
import dataclasses
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from slt_jax.errors import UserError
from slt_jax.pretraining.configuration import load
from slt_jax.pretraining.settings import PretrainConfig
from tools.benchmarks import dino_torch
from tools.benchmarks.problem import positive
from tools.benchmarks.processes import Side
from tools.benchmarks.step import check_same, of_turns, turn
from tools.benchmarks.timing import alternate, as_text, ratios


def add_flags(top: argparse.ArgumentParser) -> None:
    """The flags of `--only step`."""
    top.add_argument(
        "--against", choices=("torch", "torch.compile"), nargs="+", default=[], help="a plain DINO step in torch, too"
    )
    top.add_argument("--rounds", type=positive, default=5, metavar="N", help="turns of each side (default: 5)")
    top.add_argument("--steps", type=positive, default=3, metavar="N", help="steps timed in a turn (default: 3)")
    top.add_argument("--warm-up", type=positive, default=2, metavar="N", help="steps before them (default: 2)")


def ours(config: PretrainConfig):
    """Our side, made in its own process."""
    from tools.benchmarks.dino_ours import Training

    return Training(config)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step, ours with the making of views and torch's without; float32 losses are compared first."""
    config, _ = load(arguments.config, {"train_dir": ["made-up crops"]}, arguments.set)
    if config.loss.algorithm != "dino" or config.loss.centering != "centering":
        raise UserError("--only step: torch's side is DINO with a centre; set algorithm=dino, centering=centering")
    # A plain step leaves no branches out.
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, drop_path_rate=0.0))
    sides = {"ours": Side("ours", ours, config, cores=arguments.threads)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            facts = sides["ours"].call("facts")
            files = str(Path(folder, "weights.pt")), str(Path(folder, "views.npz"))
            vit = sides["ours"].call("save", *files)
            for name in arguments.against:
                make = partial(dino_torch.Training, compiled=name == "torch.compile")
                sides[name] = Side(name, make, config, vit, *files, cores=arguments.threads)
            at_once = facts["platform"] == "cpu"
            losses = {}
            for name, side in sides.items():
                losses[name] = side.call("loss")
                print(f"{name}: float32 loss {losses[name]:.6f}", file=sys.stderr, flush=True)
                facts["versions"] |= side.call("facts")["versions"]
                if not at_once:
                    side.close()
            check_same(losses)
            turns = {name: partial(turn, side, arguments, at_once) for name, side in sides.items()}
            results = {name: of_turns(taken) for name, taken in alternate(turns, arguments.rounds).items()}
    finally:
        for side in sides.values():
            side.close()
    return {"facts": facts, "losses": losses, "results": reported(config, facts, results)}


def reported(config: PretrainConfig, facts: dict[str, Any], results: dict[str, dict]) -> dict[str, dict]:
    """The results with crops a second and torch's times over ours, printed."""
    sizes, crops = config.augmentation, config.dataset.batch_size
    print(f"{facts['device']}; {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}")
    print(
        f"batch {crops}, 2 x {sizes.image_size} + {sizes.num_local_crops} x {sizes.local_crop_size} px, "
        f"{config.run.precision}"
    )
    for name, result in results.items():
        if "error" in result:
            print(result["error"])
            continue
        result["crops_per_second"] = crops / result["seconds"]["median"]
        print(f"{name}: {as_text(result['seconds'])} a step; {result['crops_per_second']:,.1f} crops/s")
        if name != "ours" and "seconds" in results["ours"]:
            result["times_ours"] = ratios(results["ours"]["seconds"], result["seconds"])
            print(
                f"  {name} / ours: " + ", ".join(f"{what} {ratio:.2f}" for what, ratio in result["times_ours"].items())
            )
    return results
