"""v9's names at the top level and in sections, from YAML, JSON and TOML, flags and --set."""

import json
import re

import pytest

from slt_jax.cli.pretrain import configure, parse
from slt_jax.errors import UserError
from slt_jax.pretraining.program import too_short_for

# Every flag of v9's pre-training commands (REFERENCE.md, section 7).
V9 = re.findall(
    r"--\S+",
    """--config --train-dir --output-dir --algorithm --epochs --batch-size --num-workers --learning-rate --weight-decay
--warmup-epochs --teacher-momentum-base --teacher-momentum-final --clip-grad-norm --out-dim --head-hidden-dim
--patch-out-dim --patch-mask-ratio --patch-loss-weight --student-temp --teacher-temp --center-momentum --seed --device
--resume --export-backbone --log-interval --image-size --patch-size --vit-embed-dim --vit-depth --vit-num-heads
--vit-mlp-ratio --num-local-crops --local-crop-size --global-crop-scale --local-crop-scale --no-dataset-shuffle
--dataset-pin-memory --dataset-persistent-workers --aug-brightness --aug-contrast --aug-saturation --aug-hue
--aug-color-jitter-prob --aug-grayscale-prob --aug-gaussian-blur-prob --aug-solarize-prob --aug-hflip-prob --aug-mean
--aug-std --checkpoint-best-name --checkpoint-last-name --checkpoint-history-file --experiment-name --experiment-notes
--experiment-tag --stream""",
)


def settings(*argv: str, stream: str | None = None):
    return configure(parse(["--train-dir", "crops", *argv]), stream)[0]


def test_every_flag_of_v9_is_there(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    words = capsys.readouterr().out.split()
    missing = [flag for flag in V9 if not any(word.strip("[],") == flag for word in words)]
    assert not missing


def test_flags():
    config = settings(
        "--train-dir", "more", "others", "--no-dataset-shuffle", "--aug-mean", "0.5", "0.5", "0.5", "--experiment-tag",
        "a", "--experiment-tag", "b", "--global-crop-scale", "0.3", "1", "--vit-embed-dim", "192", "--no-mirror-left",
        "--tensorboard", "--output-dir", "run",
    )  # fmt: skip
    assert config.run.train_dir == ("crops", "more", "others")
    assert config.dataset.shuffle is False
    assert config.dataset.mirror_left is False
    assert config.augmentation.mean == (0.5, 0.5, 0.5)
    assert config.augmentation.global_crop_scale == (0.3, 1.0)
    assert config.experiment.tags == ("a", "b")
    assert config.vit.embed_dim == 192
    assert config.run.tensorboard == "run"
    assert settings().dataset.shuffle is True


TREE = {
    "epochs": 7,
    "vit_depth": 3,
    "aug_hue": 0.2,
    "image_size": 112,
    "no_dataset_shuffle": True,
    "dataset": {"batch_size": 16, "stride": 4},
    "augmentation": {"brightness": 0.1, "global_crop_scale": [0.5, 1.0], "num_local_crops": 2},
    "checkpointing": {"best_name": "b.pt"},
    "experiment": {"name": "hands", "tags": ["x"]},
}
TOML = """
epochs = 7
vit_depth = 3
aug_hue = 0.2
image_size = 112
no_dataset_shuffle = true
[dataset]
batch_size = 16
stride = 4
[augmentation]
brightness = 0.1
global_crop_scale = [0.5, 1.0]
num_local_crops = 2
[checkpointing]
best_name = "b.pt"
[experiment]
name = "hands"
tags = ["x"]
"""


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", json.dumps(TREE)), ("a.yml", json.dumps(TREE)), ("a.toml", TOML)]
)
def test_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    config = settings("--config", str(tmp_path / name), "--epochs", "9", "--set", "augmentation.hue=0.3")
    assert (config.run.epochs, config.vit.depth, config.dataset.batch_size, config.dataset.stride) == (9, 3, 16, 4)
    views = config.augmentation
    assert (views.hue, views.brightness, views.global_crop_scale, views.image_size) == (0.3, 0.1, (0.5, 1.0), 112)
    assert views.num_local_crops == 2
    assert config.dataset.shuffle is False
    assert (config.checkpointing.best_name, config.experiment.name, config.experiment.tags) == ("b.pt", "hands", ("x",))


def test_what_was_asked_for_is_a_file_that_asks_for_the_same(tmp_path):
    words = [
        "--train-dir",
        "crops",
        "--output-dir",
        "run",
        "--no-dataset-shuffle",
        "--vit-depth",
        "3",
        "--batch-size",
        "8",
    ]
    config, merged = configure(parse([*words, "--set", "augmentation.hue=0.2", "--experiment-tag", "a"]), None)
    file = tmp_path / "config.merged.json"
    file.write_text(json.dumps(merged))
    assert configure(parse(["--config", str(file)]), None) == (config, merged)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yml").write_text("output_dir: ~/run\ntrain_dir: [~/crops, more]\nknn_index: ~nobody-at-all/x.csv\n")
    with pytest.raises(UserError, match=r"knn_index: '~nobody-at-all/x.csv' names no user's home"):
        configure(parse(["--config", str(tmp_path / "a.yml")]))
    config, _ = configure(parse(["--set", "output_dir=~/run", "--set", 'train_dir=["~/crops", "more"]']))
    assert config.run.output_dir == f"{tmp_path}/run"
    assert config.run.train_dir == (f"{tmp_path}/crops", "more")


def test_a_command_has_its_stream_unless_file_or_flag_say_otherwise(tmp_path):
    assert settings(stream="face").run.stream == "face"
    assert settings("--stream", "hand_l", stream="face").run.stream == "hand_l"
    (tmp_path / "a.yml").write_text("stream: hand_r\n")
    assert settings("--config", str(tmp_path / "a.yml"), stream="face").run.stream == "hand_r"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--algorithm", "simclr"], "--algorithm 'simclr': use dino, ibot"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--teacher-temp", "0"], "--teacher-temp 0.0: must be above 0"),
        (["--aug-hflip-prob", "1.5"], "--aug-hflip-prob 1.5: must be from 0 to 1"),
        (["--learning-rate", "nan"], "--learning-rate nan: is no finite number"),
        (["--global-crop-scale", "0.9", "0.4"], "the smaller one first"),
        (["--aug-std", "1", "0", "1"], "--aug-std"),
        (["--drop-path-rate", "1"], "--drop-path-rate 1.0: must be below 1"),
        (["--set", "lerning_rate=1"], "did you mean 'learning_rate'"),
        (["--set", "augmentation.hues=1"], "did you mean 'augmentation.hue'"),
        (["--set", f"epochs={'9' * 5000}"], "--set epochs: "),
        (["--set", "epochs"], "--set epochs: expected KEY=VALUE"),
        (["--set", "epochs=many"], "epochs must be int"),
        (["--config", "none.toml"], "--config none.toml: cannot be read"),
        (["--patch-siz", "7"], "unknown argument --patch-siz"),
    ],
)
def test_mistakes_are_one_line(argv, message):
    with pytest.raises(UserError) as error:
        settings(*argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_crops():
    with pytest.raises(UserError, match="--train-dir is not given"):
        configure(parse([]))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--epochs 10", ""),
        ("--epochs 10 --warmup-epochs 10", "--warmup-epochs 10: the rate never gets to --learning-rate"),
        ("--epochs 30 --teacher-temp 0.07", "--warmup-teacher-temp-epochs 30: the teacher never gets to"),
        ("--epochs 31 --teacher-temp 0.07", ""),
        ("--epochs 2 --freeze-last-layer-epochs 2.5", "--freeze-last-layer-epochs 2.5: the prototypes never learn"),
    ],
)
def test_what_a_run_is_too_short_for_is_said(flags, said):
    notes = too_short_for(settings(*flags.split()))
    assert len(notes) == bool(said)
    assert said in "".join(notes)
