"""The command from crops to backbone: its files, interrupted and resumed, on eight devices, and in torch."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx
from PIL import Image

from convert import read_pt, write_pt
from convert.pretrained import load_dinov2_backbone
from convert.state_dict import table, to_state
from slt_jax.cli.pretrain import configure, main, parse
from slt_jax.data.clip_files import Frames
from slt_jax.errors import UserError
from slt_jax.models.params import describe
from slt_jax.models.vit import REGISTER_RESIZE, VisionTransformer, ViTConfig
from slt_jax.pretraining.crop_batches import CropBatches
from slt_jax.pretraining.crops import Crops, Video
from slt_jax.pretraining.start import begin, check_crops
from slt_jax.runtime.sharding import device_mesh
from slt_jax.training import run as loop
from slt_jax.training.position import Position

ROOT = Path(__file__).resolve().parents[2]
REGISTERS = {"num_register_tokens": 4, **REGISTER_RESIZE}
TIMES = ("seconds", "crops_per_second", "data_wait_seconds", "compilations")
# Two blocks: with one, pictures for which drop path leaves it out are all alike to the student, where KoLeo's gradient
# is whatever rounding makes of it.
SETTINGS = [
    "--device", "cpu", "--precision", "float32", "--epochs", "2", "--batch-size", "8", "--image-size", "16",
    "--local-crop-size", "8", "--num-local-crops", "1", "--patch-size", "8", "--vit-embed-dim", "64",
    "--vit-depth", "2", "--vit-num-heads", "1", "--head-hidden-dim", "16", "--head-bottleneck-dim", "8",
    "--out-dim", "12",
    "--patch-out-dim", "10", "--head-nlayers", "2", "--algorithm", "ibot", "--mask-ratio-min-max", "0.25", "0.5",
    "--aug-rotation", "0", "--aug-gaussian-blur-prob", "0", "--aug-hue", "0", "--aug-solarize-prob", "0",
    "--layerwise-decay", "0.9", "--learning-rate", "0.002", "--knn-index",
]  # fmt: skip


@pytest.fixture(scope="module")
def crops(tmp_path_factory) -> Path:
    """Twenty pictures of two kinds by five people, with their index."""
    folder = tmp_path_factory.mktemp("crops")
    rows = ["file,label,group"]
    for number in range(20):
        generator = np.random.default_rng(number)
        pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
        pixels[:, :, number % 2] //= 4
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,{'red' if number % 2 else 'green'},{number % 5}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return folder


def arguments(crops: Path, output: Path, *more: str) -> list[str]:
    return ["--train-dir", str(crops), "--output-dir", str(output), *SETTINGS, str(crops / "index.csv"), *more]


@pytest.fixture(scope="module")
def finished(crops, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run") / "finished"
    assert main(arguments(crops, output)) == 0
    return output


def metrics(output: Path) -> list[dict]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def tensors(path: Path) -> dict[str, np.ndarray]:
    tree = read_pt(path, mmap=False)
    return {f"{part}.{key}": array for part in ("student", "teacher") for key, array in tree[part].items()}


def test_what_a_run_leaves(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"params.json", "metrics.jsonl", "artifacts.json", "checkpoint_last.pt", "checkpoint_best.pt"} <= names
    for line in metrics(finished):
        parts = line["dino_loss"] + line["patch_loss"] + 0.1 * line["koleo_loss"]
        assert line["train_loss"] == pytest.approx(parts, rel=1e-5)
        assert 0 < line["teacher_entropy"] < np.log(12)
        assert 0 <= line["knn_accuracy"] <= 1
        assert 1 <= line["feature_rank"] <= 20
    params = json.loads((finished / "params.json").read_text())
    assert params["loss"]["algorithm"] == "ibot"
    assert params["schedules"]["learning_rate"] == {"start": 0.002, "end": 1e-6, "steps": 4, "warmup": 2, "before": 0.0}
    assert params["schedules"]["teacher_momentum"]["start"] == 0.996
    found = json.loads((finished / "artifacts.json").read_text())
    assert found["exports"]["backbone"] == [str(finished / "backbone.pt")]


def test_the_student_moved_and_the_teacher_followed(finished):
    found = tensors(finished / "checkpoint_last.pt")
    student, teacher = (
        found["student.backbone.blocks.0.mlp.fc1.weight"],
        found["teacher.backbone.blocks.0.mlp.fc1.weight"],
    )
    assert 0 < np.abs(student - teacher).mean() < 0.1
    assert np.abs(found["student.backbone.mask_token"]).max() > 0  # trained by iBOT alone
    frozen = found["student.dino_head.last_layer.weight_v"]  # in the first of two epochs
    assert np.abs(frozen - found["teacher.dino_head.last_layer.weight_v"]).max() > 0


def test_interrupted_and_resumed_runs_are_equal(crops, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    batches, seen = CropBatches.batches, []

    def interrupting(self, epoch, taken=()):
        for batch in batches(self, epoch, taken):
            seen.append(batch)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(CropBatches, "batches", interrupting)
    output = tmp_path / "run"
    assert main(arguments(crops, output)) == 128 + signal.SIGTERM
    assert not (output / "checkpoint_best.pt").exists()
    assert main(arguments(crops, output, "--resume")) == 0
    assert metrics(output) == metrics(finished)
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        ours, theirs = tensors(output / name), tensors(finished / name)
        assert ours.keys() == theirs.keys()
        for key, array in ours.items():
            np.testing.assert_array_equal(array, theirs[key], err_msg=key)


def test_eight_devices_have_the_losses_of_one(crops, finished, tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    output = tmp_path / "run"
    command = [sys.executable, "-m", "slt_jax.cli.pretrain", *arguments(crops, output, "--sharding", "fsdp")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "on 8 x cpu" in done.stdout
    for ours, theirs in zip(metrics(output), metrics(finished), strict=True):
        for name in ("train_loss", "dino_loss", "patch_loss", "koleo_loss", "teacher_entropy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name


def test_the_backbone_is_the_teachers_and_loads_again(finished, crops, tmp_path):
    state = read_pt(finished / "backbone.pt", mmap=False)
    best = tensors(finished / "checkpoint_best.pt")
    for key, array in state.items():
        np.testing.assert_array_equal(array, best[f"teacher.backbone.{key}"])
    assert {type(value) for value in torch.load(finished / "backbone.pt", weights_only=True).values()} == {torch.Tensor}
    backbone = load_dinov2_backbone(f"file::{finished / 'backbone.pt'}")
    assert backbone.config.image_size == 16
    output = tmp_path / "next"  # goes on from it
    assert main(arguments(crops, output, "--backbone", f"file::{finished / 'backbone.pt'}")) == 0
    before, after = metrics(finished)[0], metrics(output)[0]
    assert after["dino_loss"] != before["dino_loss"]


def test_weights_of_a_teacher_with_registers_are_taken(crops, tmp_path):
    """As SHuBERT publishes its backbones: a DINOv2 teacher with registers, its heads beside it."""
    sizes = ViTConfig(embed_dim=64, depth=1, num_heads=1, patch_size=8, image_size=32, **REGISTERS)
    state = {
        f"backbone.{entry.key}": np.random.default_rng(n).normal(size=entry.shape).astype(np.float32)
        for n, entry in enumerate(table(describe(lambda: VisionTransformer(sizes, rngs=nnx.Rngs(0)))[1]))
    }
    head = {"dino_head.mlp.0.weight": np.ones((3, 64), np.float32)}
    write_pt(tmp_path / "teacher.pth", {"teacher": state | head, "iteration": 7})
    words = arguments(crops, tmp_path / "run", "--backbone", f"file::{tmp_path / 'teacher.pth'}")
    config, _ = configure(parse(words))
    task, start, _ = begin(config, None, device_mesh())
    for part in (start.params, start.teacher["params"]):
        found = to_state(part, task.entries)
        for key, array in state.items():
            np.testing.assert_array_equal(found[key], array, err_msg=key)
    assert start.trained["backbone.register_tokens"].shape == (1, 4, 64)


def test_an_epoch_does_not_go_on_with_other_crops(tmp_path, capsys):
    crops = [Crops([Video("a", Frames("any", np.array(numbers)))]) for numbers in (range(19), range(1, 20), range(20))]
    notes = {"crops": 19, "crop_names": crops[0].fingerprint()}
    for now, told in ((crops[1], "19 crops of other names than those now"), (crops[2], "19 crops, now there are 20")):
        with pytest.raises(UserError, match=f"began with {told}"):
            check_crops(tmp_path, Position(taken=[[8, 1]]), notes, now)
        check_crops(tmp_path, Position(epoch=1), notes, now)
        assert f"was trained on {told}" in capsys.readouterr().out
    check_crops(tmp_path, Position(taken=[[8, 1]]), notes, crops[0])
    check_crops(tmp_path, Position(taken=[[8, 1]]), {"crops": 19}, crops[1])  # of a state without names


def test_a_lost_backbone_is_written_again(finished, crops, tmp_path):
    """The best one, which need not be that of the last epoch."""
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    (output / "backbone.pt").unlink()
    assert main(arguments(crops, output, "--resume")) == 0
    found, expected = (read_pt(folder / "backbone.pt", mmap=False) for folder in (output, finished))
    assert found.keys() == expected.keys()
    for key, array in found.items():
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


def test_evaluate(finished, crops, tmp_path, capsys):
    words = ["evaluate", "--backbone", f"file::{finished / 'backbone.pt'}", "--knn-index", str(crops / "index.csv")]
    sheet = tmp_path / "sheet.png"
    assert main([*words, "--image-size", "16", "--batch-size", "8", "--sheet", str(sheet), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "%" in line] == ["raw", "random", f"file::{finished / 'backbone.pt'}"]
    with Image.open(sheet) as picture:
        assert picture.size[0] > 300
    assert main([*words, "--image-size", "17"]) == 2
    assert "use 16" in capsys.readouterr().err


def test_views_are_drawn(crops, tmp_path, capsys):
    sheet = tmp_path / "views.png"
    assert main(["views", *arguments(crops, tmp_path), "--sheet", str(sheet)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {sheet}\n")
    with Image.open(sheet) as picture:
        assert picture.size[1] > 10 * 100  # ten crops below each other


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--image-size", "20"], "--image-size 20: patches of 8 pixels do not divide it; use 16"),
        (["--batch-size", "32"], "--batch-size 32 is larger than the data"),
        (["--train-dir", "/nowhere"], "/nowhere"),
        (["--backbone", "file::none.pt"], "none.pt does not exist"),
        (["--resume"], "holds no state to continue"),
        (["--vit-num-heads", "3"], "embed_dim 64 is not divisible by num_heads 3"),
    ],
)
def test_mistakes_are_one_line(crops, tmp_path, capsys, more, message):
    assert main(arguments(crops, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()
