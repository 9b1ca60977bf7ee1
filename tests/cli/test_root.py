"""`--root` stands for the flags of a corpus of the usual layout."""

from pathlib import Path

import pytest

from slt_jax.cli import evaluate, train
from slt_jax.cli.flags import config_flags
from slt_jax.errors import UserError


def configured(*argv: object) -> dict:
    config, _ = train.configure(train.parse([str(part) for part in argv]))
    return config.to_dict()


def test_a_run_is_the_same_as_with_six_flags(tmp_path):
    six = {
        "--face-dir": "face", "--hand-left-dir": "hand_l", "--hand-right-dir": "hand_r", "--pose-dir": "pose",
        "--metadata-csv": "meta.csv", "--train-index": "index/train.csv", "--val-index": "index/val.csv",
    }  # fmt: skip
    flags = [part for flag, place in six.items() for part in (flag, tmp_path / place)]
    assert configured("--root", tmp_path) == configured(*flags)


def test_single_flags_and_set_win_over_it_and_it_wins_over_a_file(tmp_path):
    file = tmp_path / "config.yml"
    file.write_text("data: {face_dir: from_file, packs: kept}\n")
    data = configured(
        "--config", file, "--root", tmp_path, "--val-index", "other.csv", "--set", "data.pose_dir=set"
    )["data"]  # fmt: skip
    assert {key: data[key] for key in ("face_dir", "hand_left_dir", "pose_dir", "val_index", "packs")} == {
        "face_dir": str(tmp_path / "face"), "hand_left_dir": str(tmp_path / "hand_l"), "pose_dir": "set",
        "val_index": "other.csv", "packs": "kept",
    }  # fmt: skip


def test_an_evaluation_takes_no_index_from_it(tmp_path):
    given = config_flags(evaluate.parse(["--root", str(tmp_path)]), evaluate.ROOT_KEYS)["data"]
    assert given == {
        "face_dir": str(tmp_path / "face"), "hand_left_dir": str(tmp_path / "hand_l"),
        "hand_right_dir": str(tmp_path / "hand_r"), "pose_dir": str(tmp_path / "pose"),
        "metadata_csv": str(tmp_path / "meta.csv"),
    }  # fmt: skip


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(UserError, match="--root nowhere: no such directory"):
        configured("--root", Path("nowhere"))
