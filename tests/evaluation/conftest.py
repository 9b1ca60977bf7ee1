"""A small generated corpus with clips of many lengths, and a model with weights that nobody trained.

Untrained weights are scaled up, so that what is seen decides what is said; a test of translations says nothing where
they are all alike.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from convert import write_pt
from convert.checkpoint import plan_model
from convert.state_dict import to_state
from slt_jax.cli.evaluate import main
from slt_jax.config import build_config
from slt_jax.data.text import train_tokenizer
from slt_jax.models.params import split_model
from slt_jax.synthetic.generator import generate

MODEL = {
    "image_size": 28, "sequence_length": 8, "projector_dim": 16, "d_model": 32, "temporal_nhead": 4,
    "temporal_layers": 1, "temporal_dim_feedforward": 64, "decoder_layers": 1, "decoder_heads": 4,
    "backbone": {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 56},
}  # fmt: skip
CLIPS = 11


@dataclass(frozen=True)
class Evaluated:
    """What a run of the command left."""

    folder: Path
    report: dict
    said: str

    def rows(self, name: str = "predictions.csv") -> list[dict[str, str]]:
        with open(self.folder / name, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def texts(self, name: str = "predictions.csv") -> list[str]:
        return [row["prediction"] for row in self.rows(name)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Eleven test clips of 4 to 12 frames."""
    root = tmp_path_factory.mktemp("evaluated") / "clips"
    generate(
        root,
        num_train=1,
        num_val=1,
        num_test=CLIPS,
        seed=5,
        level="small",
        frames=(4, 12),
        image_size=28,
        workers=0,
        progress=False,
    )
    return root


def folders(corpus: Path) -> dict[str, str]:
    """The data section of a run that was trained on the corpus."""
    return {
        "face_dir": str(corpus / "face"), "hand_left_dir": str(corpus / "hand_l"),
        "hand_right_dir": str(corpus / "hand_r"), "pose_dir": str(corpus / "pose"),
        "metadata_csv": str(corpus / "meta.csv"),
    }  # fmt: skip


def data_flags(corpus: Path) -> list[str]:
    return [part for key, value in folders(corpus).items() for part in ("--" + key.replace("_", "-"), value)]


def write_run(folder: Path, corpus: Path, *, seed: int = 0, data: dict | None = None) -> Path:
    """A work-dir as training leaves it: best.pt, its tokenizer and metrics.jsonl."""
    texts = [line.split(";")[1] for line in (corpus / "meta.csv").read_text(encoding="utf-8").splitlines()[1:]]
    tokenizer = train_tokenizer(texts, folder / "tokenizer", vocab_size=270)
    settings = {"precision": "float32", "max_target_length": 9, "v9_hand_masks": False}
    config = build_config({
        "data": folders(corpus) | settings | (data or {}), "model": MODEL | {"vocab_size": tokenizer.vocab_size},
    })  # fmt: skip
    plan = plan_model(config.model)
    _, entries = plan.structure()
    _, params = split_model(plan.build(seed=seed))
    params = {path: np.asarray(array) * (5 if "decoder" in path else 2) for path, array in params.items()}
    params["encoder.positional.embedding.embedding"] /= 50  # or the frames' numbers outshine the frames
    write_pt(folder / "best.pt", {
        "epoch": 3, "model_state": to_state(params, entries), "config": config.to_dict(), "architecture": plan.record(),
    })  # fmt: skip
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "train_loss": 2.5, "val_loss": 2.0}) + "\n")
    return folder


@pytest.fixture(scope="session")
def run(corpus, tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "first", corpus)


def arguments(corpus: Path, checkpoints: Sequence[Path], output: Path, *more: str) -> list[str]:
    return [
        "--checkpoint", *map(str, checkpoints), "--eval-index", str(corpus / "index" / "test.csv"),
        "--output-csv", str(output), "--device", "cpu", *more,
    ]  # fmt: skip


@pytest.fixture
def evaluate(corpus, tmp_path, capsys):
    """Run the command on checkpoints with more flags; it must succeed."""

    def call(checkpoints: Path | Sequence[Path], *more: str) -> Evaluated:
        checkpoints = [checkpoints] if isinstance(checkpoints, Path) else checkpoints
        folder = tmp_path / f"evaluation-{len(list(tmp_path.iterdir()))}"
        capsys.readouterr()
        code = main(arguments(corpus, checkpoints, folder / "predictions.csv", *more))
        said = capsys.readouterr()
        assert code == 0, said.err
        return Evaluated(folder, json.loads((folder / "report.json").read_text(encoding="utf-8")), said.out)

    return call
