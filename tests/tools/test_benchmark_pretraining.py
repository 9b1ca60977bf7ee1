"""The benchmarks of pre-training: the corpora they write, and that both sides of a step compute the same."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.benchmarks import numbers
from tools.benchmarks.command import main

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "device=cpu", "precision=float32", "batch_size=4", "patch_size=8", "vit_embed_dim=24", "vit_depth=1",
    "vit_num_heads=2", "head_hidden_dim=16", "head_bottleneck_dim=8", "out_dim=12", "aug_rotation=0",
    "aug_gaussian_blur_prob=0", "aug_hue=0", "image_size=16", "local_crop_size=8", "num_local_crops=2",
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (10, "diez"), (16, "dieciséis"), (22, "veintidós"), (31, "treinta y uno"), (100, "cien"),
        (101, "ciento uno"), (472, "cuatrocientos setenta y dos"), (500, "quinientos"),
        (779, "setecientos setenta y nueve"),
        (1000, "mil"), (1100, "mil cien"), (2022, "dos mil veintidós"), (9915, "nueve mil novecientos quince"),
    ],
)  # fmt: skip
def test_numbers_in_words(number, words):
    assert numbers.in_words(number) == words


@pytest.fixture
def photos(tmp_path):
    """Four signers; their photos of a digit are as bright as the digit, and as green as the signer."""
    found: dict = {}
    for signer in range(4):
        for digit in range(10):
            path = tmp_path / f"{signer}_{digit}.png"
            Image.new("RGB", (20, 20), (20 * digit, 60 * signer, 128)).save(path)
            found.setdefault(str(signer), {})[str(digit)] = [path]
    return found


def test_numbers_are_spelt_by_one_signer_and_unseen_in_the_test(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers, "CLIPS", {"train": 12, "val": 4, "test": 6})
    numbers.write_corpus(photos, {"3"}, tmp_path / "corpus", 16)
    with (tmp_path / "corpus" / "meta.csv").open(encoding="utf-8") as file:
        texts = {row["id"]: row["texto"] for row in csv.DictReader(file, delimiter=";")}
    spelt = {numbers.in_words(number): str(number) for number in range(10, 10_000)}
    for clip, text in texts.items():
        frames = sorted((tmp_path / "corpus" / "hand_r").glob(f"{clip}_f*.png"))
        digits = spelt[text]
        assert 3 * len(digits) <= len(frames) <= 5 * len(digits)
        shown = np.array([np.asarray(Image.open(frame), float)[8, 8] for frame in frames])
        green = shown[:, 1] / shown[:, 2] * 128
        assert (np.abs(green - green[0]) < 5).all()
        assert (round(green[0] / 60) == 3) == clip.startswith("test")
        seen = np.round(shown[:, 0] / shown[:, 2] * 128 / 20).astype(int)
        runs = [seen[0], *seen[1:][seen[1:] != seen[:-1]]]
        assert "".join(map(str, runs)) == "".join(d for n, d in enumerate(digits) if n == 0 or digits[n - 1] != d)
    kinds = {split: {text for clip, text in texts.items() if clip.startswith(split)} for split in numbers.CLIPS}
    assert not kinds["test"] & (kinds["train"] | kinds["val"])


@pytest.mark.slow
def test_both_sides_of_a_step_have_the_same_loss(tmp_path, capsys):
    config = tmp_path / "pretraining.yml"
    config.write_text("\n".join(f"{setting.partition('=')[0]}: {setting.partition('=')[2]}" for setting in TINY))
    words = ["--only", "step", "--config", str(config), "--against", "torch", "--rounds", "1", "--steps", "1"]
    path = tmp_path / "results.json"
    assert main(["pretraining", *words, "--threads", "1", "--json", str(path)]) == 0
    losses = json.loads(path.read_text())["step"]["losses"]
    assert losses["torch"] == pytest.approx(losses["ours"], rel=1e-5)
    assert "torch / ours: median" in capsys.readouterr().out


def test_photos_are_needed(capsys):
    assert main(["pretraining", "--only", "knn"]) == 2
    assert "--images and --index are needed" in capsys.readouterr().err


@pytest.mark.slow
def test_hand_shapes_are_learnt_from_photographs(tmp_path):
    """After a few epochs on real photos, features learned without a label tell shapes better than random ones.

    Of unseen signers' shapes, random weights get 22 %; ten epochs reach 31 % (docs/pretraining.md has longer runs).
    """
    photographs = ROOT.parent / "shared" / "hand_digits"
    if not photographs.exists():
        pytest.skip("the photographs are not here")
    path = tmp_path / "results.json"
    words = ["--only", "knn", "--seeds", "1", "--set", "epochs=8", "--set", "knn_every=8"]
    words += ["--images", str(photographs / "images"), "--index", str(photographs / "index.csv")]
    command = [sys.executable, "tools/benchmark.py", "pretraining", *words]
    # In a process without the flags of tests/conftest.py, which make programs cheap to compile and slow to run.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([*command, "--output", str(tmp_path / "run"), "--json", str(path)], cwd=ROOT,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())["knn"]
    assert found["pre-trained, seed 1"]["k-NN"] > found["random weights"]["k-NN"] + 4
