"""A translator trained on pre-trained backbones or on random ones, and what it scores."""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.torch_file import read_pt, write_pt
from slt_jax.streams import BY_NAME
from tools.benchmarks.learning import command


def sizes(output: Path) -> dict[str, Any]:
    """`model.backbone` and `model.image_size` of a translator on the backbone of a pre-training run."""
    params = json.loads((output / "params.json").read_text(encoding="utf-8"))
    side = params["augmentation"]["image_size"]
    return {"model.backbone": {**params["vit"], "image_size": side}, "model.image_size": side}


def start_on(backbones: Mapping[str, Path], target: Path) -> Path:
    """A checkpoint for `--init-checkpoint` that holds these backbones, by the names of their streams, and no more."""
    state = {
        f"encoder.{BY_NAME[stream].backbone}.{key}": array
        for stream, path in backbones.items()
        for key, array in read_pt(path, mmap=False).items()
    }
    write_pt(target, {"model_state": state})
    return target


def train_and_score(config: Path, corpus: Path, run: Path, words: Sequence[str]) -> dict[str, Any]:
    """BLEU, chrF and the share of exact translations of the test clips, and how long training took."""
    started = time.monotonic()
    data = ["--root", str(corpus)]
    command("train", ["--config", str(config), *data, "--work-dir", str(run), "--overwrite", *words])
    seconds = time.monotonic() - started
    predictions = run / "test" / "predictions.csv"
    command("evaluate", [
        "--checkpoint", str(run / "last.pt"), *data, "--eval-index", str(corpus / "index" / "test.csv"),
        "--output-csv", str(predictions),
    ])  # fmt: skip
    report = json.loads((predictions.parent / "report.json").read_text(encoding="utf-8"))
    scores = report["checkpoints"][0]["metrics"]
    with predictions.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    exact = sum(row["prediction"] == row["reference"] for row in rows) / len(rows)
    return {"bleu": scores["bleu"], "chrf": scores["chrf"], "exact": 100 * exact, "seconds": seconds}
