"""Pre-training on photos of hands: k-NN on unseen signers, photos to text, and the generated corpus; speeds."""

import argparse
import csv
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slt_jax.base.files import replacing_folder, write_json
from slt_jax.errors import UserError
from slt_jax.models.vit import ViTConfig
from slt_jax.pretraining.judge import untrained
from slt_jax.pretraining.knn import effective_rank, knn_accuracy, read_labelled
from tools.benchmarks import numbers, pretrained_signs, pretraining_step
from tools.benchmarks.on_backbones import pretrain
from tools.benchmarks.views import views_speed

Table = dict[str, dict[str, Any]]

HELD_OUT = 5  # every fifth signer is unseen
PARTS = {
    "knn": "k-NN on unseen signers",
    "numbers": "numbers that unseen signers spell, to text",
    "signs": "the generated corpus",
    "views": "crops per second of processor time, of which views are made",
    "step": "time of a step",
}


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--images", metavar="DIR", default=None, help="folder of the pictures")
    top.add_argument("--index", metavar="CSV", default=None, help="which picture shows what, signed by whom")
    top.add_argument("--label", metavar="COLUMN", default="digit", help="what a picture shows (default: digit)")
    top.add_argument("--group", metavar="COLUMN", default="signer", help="who signs, a number (default: signer)")
    top.add_argument("--config", metavar="FILE", default="configs/pretrain_hands.yml", help="of slt-pretrain")
    top.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="changes it; repeats")
    top.add_argument("--seeds", type=int, nargs="+", default=[1, 2], metavar="N", help="(default: 1 2)")
    top.add_argument(
        "--output",
        metavar="DIR",
        default="runs/pretraining",
        help="runs, corpora and results.json; what is there is not done again (default: runs/pretraining)",
    )
    pretraining_step.add_flags(top)
    parts = ", ".join(f"{name} ({text})" for name, text in PARTS.items())
    top.add_argument(
        "--only", metavar="PART", nargs="+", choices=PARTS, default=["knn", "numbers", "signs"], help=f"of {parts}"
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts that are asked for; training whose result is in `--output` is not done again."""
    if {"knn", "numbers"} & set(arguments.only) and not (arguments.images and arguments.index):
        raise UserError("--images and --index are needed (or choose --only signs, views, step)")
    found: dict[str, Any] = {}
    if "step" in arguments.only:
        found["step"] = pretraining_step.measure(arguments)
    if "views" in arguments.only:
        found["views"] = views_speed()
        print(table(PARTS["views"], found["views"]))
    folder = Path(arguments.output)
    file = folder / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for part, work in {"knn": knn, "numbers": photos_to_text, "signs": signs}.items():
        if part in arguments.only:
            if part not in results:
                results[part] = work(arguments, folder)
                write_json(file, results)
            found[part] = results[part]
            print(table(PARTS[part], found[part]))
    return found


def table(title: str, rows: Table) -> str:
    """A row a line under a title."""
    lines = [
        f"{name:28s} " + "  ".join(f"{key} {value:.1f}" for key, value in row.items()) for name, row in rows.items()
    ]
    return "\n".join([f"\n{title}", *lines])


def knn(arguments: argparse.Namespace, folder: Path) -> Table:
    """Raw pixels, random weights, and a backbone pre-trained with each seed, judged on the unseen signers."""
    photos = split(arguments, folder / "photos")
    rows: Table = {}
    for seed in arguments.seeds:
        output, started = folder / f"seed-{seed}", time.monotonic()
        words = ["--train-dir", str(photos / "seen"), "--knn-index", str(photos / "index.csv")]
        words += ["--knn-images", str(Path(arguments.images).resolve()), "--seed", str(seed)]
        words += [word for setting in arguments.set for word in ("--set", setting)]
        pretrain(output, ["--config", arguments.config, *words])
        last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
        found = {"k-NN": 100 * last["knn_accuracy"], "rank": last["feature_rank"]}
        rows[f"pre-trained, seed {seed}"] = found | {"minutes": (time.monotonic() - started) / 60}
    return compared(arguments, photos / "index.csv", output) | rows


def compared(arguments: argparse.Namespace, index: Path, output: Path) -> Table:
    """The same judgement of raw pixels, and of random weights of the backbone's sizes."""
    params = json.loads((output / "params.json").read_text())
    side = params["augmentation"]["image_size"]
    labelled = read_labelled(index, arguments.images, side)
    features = untrained(ViTConfig(**params["vit"], image_size=side), labelled.images, batch_size=64)
    k = params["run"]["knn_k"]
    return {
        name: {"k-NN": 100 * knn_accuracy(found, labelled, k), "rank": effective_rank(found)}
        for name, found in features.items()
    }


def photos_to_text(arguments: argparse.Namespace, folder: Path) -> Table:
    """Numbers of unseen signers on the first seed's backbone."""
    output = folder / f"seed-{arguments.seeds[0]}"
    if not (output / "backbone.pt").is_file():
        raise UserError(f"--only numbers: {output} holds no backbone; run --only knn first")
    photos: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for row in read_index(arguments):
        photos[row[arguments.group]][row[arguments.label]].append(Path(arguments.images) / row["file"])
    unseen = {signer for signer in photos if held_out(signer)}
    return numbers.measure(photos, unseen, output, folder / "numbers")


def signs(arguments: argparse.Namespace, folder: Path) -> Table:
    """The generated corpus."""
    return pretrained_signs.measure(folder / "signs")


# --- photos and signers -------------------------------------------------------------------------------------------


def split(arguments: argparse.Namespace, folder: Path) -> Path:
    """A folder with `seen/`, links to the pictures of seen signers, and `index.csv`: file, label, group, split."""
    if folder.is_dir():
        return folder
    lines = ["file,label,group,split"]
    with replacing_folder(folder) as partial:
        (partial / "seen").mkdir()
        for row in read_index(arguments):
            unseen = held_out(row[arguments.group])
            lines.append(f"{row['file']},{row[arguments.label]},{row[arguments.group]},{'test' if unseen else 'train'}")
            if not unseen:
                (partial / "seen" / Path(row["file"]).name).symlink_to(Path(arguments.images).resolve() / row["file"])
        (partial / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def held_out(signer: str) -> bool:
    """Whether a signer is unseen."""
    return int(signer) % HELD_OUT == 0


def read_index(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """The rows of the index by column. Raises UserError if a column is missing."""
    with open(arguments.index, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    _check_columns(arguments, rows)
    return rows


def _check_columns(arguments: argparse.Namespace, rows: Sequence[dict[str, str]]) -> None:
    known = list(rows[0]) if rows else []
    for column in ("file", arguments.label, arguments.group):
        if column not in known:
            raise UserError(
                f"--index {arguments.index}: has no column {column}; it has {', '.join(known) or 'no rows'}"
            )
    if not all(row[arguments.group].isdigit() for row in rows):
        raise UserError(f"--index {arguments.index}: --group {arguments.group} must hold numbers")
