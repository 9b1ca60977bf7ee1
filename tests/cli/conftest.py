"""A small generated corpus and a small model, alike in every test: each program is compiled once a session."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from slt_jax.cli.train import main
from slt_jax.data.synthetic import generate

ROOT = Path(__file__).resolve().parents[2]
# What no two runs share.
TIMES = ("seconds", "clips_per_second", "data_wait_seconds", "compilations")
SIZES = (
    "--image-size", "28", "--sequence-length", "4", "--d-model", "32", "--projector-dim", "16",
    "--temporal-nhead", "4", "--temporal-layers", "1", "--temporal-dim-feedforward", "64",
    "--decoder-layers", "1", "--decoder-heads", "4",
    "--set", 'model.backbone={"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 56}',
)  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """Flags that train on it; `without` leaves some out, so that a test can give its own."""

    root: Path

    @property
    def data(self) -> dict[str, str]:
        return {
            "--face-dir": f"{self.root}/face", "--hand-left-dir": f"{self.root}/hand_l",
            "--hand-right-dir": f"{self.root}/hand_r", "--pose-dir": f"{self.root}/pose",
            "--metadata-csv": f"{self.root}/meta.csv", "--train-index": f"{self.root}/index/train.csv",
            "--val-index": f"{self.root}/index/val.csv",
        }  # fmt: skip

    def flags(self, work_dir: Path, *more: str, **data: str) -> list[str]:
        given = self.data | {"--" + key.replace("_", "-"): value for key, value in data.items()}
        return [
            *(part for pair in given.items() for part in pair), *SIZES, "--work-dir", str(work_dir), "--device", "cpu",
            "--batch-size", "2", "--epochs", "2", "--precision", "float32", "--max-target-length", "24", *more,
        ]  # fmt: skip


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    """7 training clips and 3 for validation: the last batch of each is not full."""
    root = tmp_path_factory.mktemp("corpus") / "clips"
    generate(root, num_train=7, num_val=3, num_test=0, seed=3, level="small", image_size=28, workers=0, progress=False)
    return Corpus(root)


@pytest.fixture(scope="session")
def finished(corpus, tmp_path_factory) -> Path:
    """The work-dir of a run of two epochs. Not to be changed."""
    work_dir = tmp_path_factory.mktemp("finished") / "run"
    assert main(corpus.flags(work_dir)) == 0
    return work_dir


def metrics(work_dir: Path) -> list[dict]:
    """`metrics.jsonl` without what depends on the clock."""
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def command(arguments: Sequence[str], **options) -> subprocess.Popen:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train_slt_multistream_v9.py"), *arguments], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


__all__ = ["ROOT", "Corpus", "command", "metrics", "os"]
