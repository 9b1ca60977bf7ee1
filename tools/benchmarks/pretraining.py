"""Pre-training on labelled pictures of hands, judged by k-NN on unseen signers; the speed of views."""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slt_jax.errors import UserError

HELD_OUT = 5  # every fifth signer is unseen


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--images", metavar="DIR", default=None, help="folder of the pictures")
    top.add_argument("--index", metavar="CSV", default=None, help="which picture shows what, signed by whom")
    top.add_argument("--label", metavar="COLUMN", default="digit", help="what a picture shows (default: digit)")
    top.add_argument("--group", metavar="COLUMN", default="signer", help="who signs, a number (default: signer)")
    top.add_argument("--config", metavar="FILE", default="configs/pretrain_hands.yml", help="of slt-pretrain")
    top.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="changes it; repeats")
    top.add_argument("--seeds", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    top.add_argument("--views", action="store_true", default=False, help="only measure the speed of views")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.views:
        from tools.benchmarks.views import views_speed

        speeds = views_speed()
        for name, found in speeds.items():
            rates = ", ".join(f"{who} {rate:.0f}" for who, rate in found.items())
            print(f"{name}: crops per second of processor time: {rates}")
        return {"views": speeds}
    if not (arguments.images and arguments.index):
        raise UserError("--images and --index are needed, or --views")
    with tempfile.TemporaryDirectory() as scratch:
        return {"knn": accuracies(arguments, Path(scratch))}


def accuracies(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """k-NN accuracy on unseen signers: raw pixels, random weights, and a pre-trained backbone of each seed."""
    from slt_jax.cli.pretrain import main

    seen, index = split(arguments, scratch)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        output = scratch / f"seed-{seed}"
        changes = [word for setting in arguments.set for word in ("--set", setting)]
        words = ["--config", arguments.config, "--train-dir", str(seen), "--output-dir", str(output)]
        words += ["--knn-index", str(index), "--knn-images", str(Path(arguments.images).resolve()), "--seed", str(seed)]
        start = time.monotonic()
        if main([*words, *changes]):
            raise UserError(f"the run of seed {seed} failed")
        seconds = time.monotonic() - start
        last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
        rows.append({"seed": seed, "knn": last["knn_accuracy"], "rank": last["feature_rank"], "seconds": seconds})
    rows = [*compared(arguments, index, output), *rows]
    for row in rows:
        name = row.get("name") or f"pre-trained, seed {row['seed']} ({row['seconds'] / 60:.1f} min)"
        print(f"{name:40s} {row['knn']:6.1%}  rank {row['rank']:.1f}")
    return rows


def compared(arguments: argparse.Namespace, index: Path, output: Path) -> list[dict[str, Any]]:
    """The same judgement of raw pixels, and of random weights of the backbone's sizes."""
    from slt_jax.models.vit import ViTConfig
    from slt_jax.pretraining.judge import untrained
    from slt_jax.pretraining.knn import effective_rank, knn_accuracy, read_labelled

    params = json.loads((output / "params.json").read_text())
    side = params["augmentation"]["image_size"]
    labelled = read_labelled(index, arguments.images, side)
    features = untrained(ViTConfig(**params["vit"], image_size=side), labelled.images, batch_size=64)
    k = params["run"]["knn_k"]
    return [
        {"name": name, "knn": knn_accuracy(found, labelled, k), "rank": effective_rank(found)}
        for name, found in features.items()
    ]


def split(arguments: argparse.Namespace, scratch: Path) -> tuple[Path, Path]:
    """A folder of links to the pictures of seen signers, and the index of all: label, group, split."""
    images, seen = Path(arguments.images).resolve(), scratch / "seen"
    seen.mkdir()
    with open(arguments.index, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    _check_columns(arguments, rows)
    lines = ["file,label,group,split"]
    for row in rows:
        unseen = int(row[arguments.group]) % HELD_OUT == 0
        lines.append(f"{row['file']},{row[arguments.label]},{row[arguments.group]},{'test' if unseen else 'train'}")
        if not unseen:
            (seen / Path(row["file"]).name).symlink_to(images / row["file"])
    index = scratch / "index.csv"
    index.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return seen, index


def _check_columns(arguments: argparse.Namespace, rows: Sequence[dict[str, str]]) -> None:
    known = list(rows[0]) if rows else []
    for column in ("file", arguments.label, arguments.group):
        if column not in known:
            raise UserError(
                f"--index {arguments.index}: has no column {column}; it has {', '.join(known) or 'no rows'}"
            )
    if not all(row[arguments.group].isdigit() for row in rows):
        raise UserError(f"--index {arguments.index}: --group {arguments.group} must hold numbers")
