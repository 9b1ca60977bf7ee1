"""Time of a step of pre-training on made-up crops, and of a plain DINO step in torch on the same views."""

import argparse
import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from slt_jax.errors import UserError
from slt_jax.pretraining.configuration import load
from slt_jax.pretraining.settings import PretrainConfig
from tools.benchmarks import dino_torch
from tools.benchmarks.processes import Side
from tools.benchmarks.step import add_turn_flags, race
from tools.benchmarks.timing import as_text, ratios


def add_flags(top: argparse.ArgumentParser) -> None:
    """The flags of `--only step`."""
    top.add_argument(
        "--against", choices=("torch", "torch.compile"), nargs="+", default=[], help="a plain DINO step in torch, too"
    )
    add_turn_flags(top, rounds=5)


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
                sides[name] = Side(name, make, config, vit, *files, cores=arguments.threads, foreign=True)
            losses, results = race(sides, facts, arguments)
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
