"""A small generated corpus and a small model, alike in every test: each program is compiled once a session."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from slt_jax.cli.train import main
from slt_jax.synthetic.generator import generate

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "tools" / "train_slt_multistream_v9.py")
BACKBONE = 'model.backbone={"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 56}'
# Small, and with everything on that is drawn at random: dropout, flips, mixed streams. An epoch is six batches, the
# last of them not full, in two optimiser steps of four and two micro-batches.
SETTINGS = {
    "--device": "cpu", "--precision": "float32", "--batch-size": "2", "--grad-accum-steps": "4", "--epochs": "2",
    "--max-target-length": "16", "--mix-stream": "pose:0.5", "--flip-probability": "0.5",
    "--image-size": "28", "--sequence-length": "4", "--d-model": "32", "--projector-dim": "16",
    "--temporal-nhead": "4", "--temporal-layers": "1", "--temporal-dim-feedforward": "64",
    "--decoder-layers": "1", "--decoder-heads": "4", "--projector-dropout": "0.1", "--fusion-dropout": "0.1",
    "--clip-grad-norm": "1.0", "--weight-decay": "0.01", "--scheduler": "cosine",
    "--set": BACKBONE,
}  # fmt: skip
# What no two runs share.
TIMES = ("seconds", "clips_per_second", "data_wait_seconds", "compilations")


@dataclass(frozen=True)
class Corpus:
    root: Path

    def flags(self, work_dir: Path, *more: str, **changed) -> list[str]:
        """Arguments that train on it; `changed` replaces flags by name, None leaves one out."""
        data = {
            "--face-dir": self.root / "face", "--hand-left-dir": self.root / "hand_l",
            "--hand-right-dir": self.root / "hand_r", "--pose-dir": self.root / "pose",
            "--metadata-csv": self.root / "meta.csv", "--train-index": self.root / "index" / "train.csv",
            "--val-index": self.root / "index" / "val.csv", "--work-dir": work_dir,
        }  # fmt: skip
        given = data | SETTINGS | {"--" + name.replace("_", "-"): value for name, value in changed.items()}
        return [str(part) for pair in given.items() if pair[1] is not None for part in pair] + list(more)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    root = tmp_path_factory.mktemp("corpus") / "clips"
    generate(root, num_train=11, num_val=3, num_test=0, seed=3, level="small", image_size=28, workers=0, progress=False)
    return Corpus(root)


@pytest.fixture(scope="session")
def finished(corpus, tmp_path_factory) -> Path:
    """The work-dir of a run that nothing disturbed. Not to be changed."""
    work_dir = tmp_path_factory.mktemp("finished") / "run"
    assert main(corpus.flags(work_dir)) == 0
    return work_dir


def metrics(work_dir: Path, without: Sequence[str] = TIMES) -> list[dict]:
    """`metrics.jsonl` without what depends on the clock."""
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in without} for line in lines]


def start(program: Sequence[str], arguments: Sequence[str], **options) -> subprocess.Popen:
    """The command in a process of its own; `program` is what python runs."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *program, *arguments], text=True, cwd=ROOT, **pipes, **options)
