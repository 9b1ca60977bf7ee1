"""Bad input: exit code 2 and one line that names the flag or the file, before anything is compiled."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from convert import write_pt
from slt_jax.cli.train import main
from slt_jax.data.text import train_tokenizer
from slt_jax.training.program import Program
from tests.cli.conftest import SCRIPT, Corpus, metrics, start


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run the command, which must refuse its arguments before it builds a program; returns its one line."""

    def never(*_, **__):
        raise AssertionError("a program was made before the input was checked")

    for name in ("step", "evaluate", "lower"):
        monkeypatch.setattr(Program, name, never)

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("slt-train: error: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1, error
        return error

    return run


@pytest.fixture
def work_dir(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def broken(corpus, tmp_path) -> Corpus:
    """A copy of the corpus to damage."""
    return Corpus(Path(shutil.copytree(corpus.root, tmp_path / "clips")))


# --- flags --------------------------------------------------------------------------------------------------------

FLAGS = {
    # name: (arguments, what the line must name)
    "unknown flag": (["--epoch", "3"], ["--epoch", "did you mean '--epochs'"]),
    "not a number": (["--epochs", "many"], ["--epochs", "many"]),
    "no value": (["--lr"], ["--lr"]),
    "below one": (["--batch-size", "0"], ["batch_size", "0"]),
    "nan": (["--lr", "nan"], ["optim.lr"]),
    "infinite": (["--lr", "inf"], ["optim.lr"]),
    "device": (["--device", "banana"], ["--device banana", "auto"]),
    "device index": (["--device", "cpu:1"], ["--device cpu:1"]),
    "precision": (["--precision", "fp8"], ["data.precision", "fp8"]),
    "optimizer": (["--optimizer", "lamb"], ["optim.optimizer", "lamb"]),
    "scheduler": (["--scheduler", "cosin"], ["optim.scheduler", "did you mean 'cosine'"]),
    "set without value": (["--set", "optim.lr"], ["--set optim.lr", "KEY=VALUE"]),
    "set without section": (["--set", "lr=1"], ["--set lr=1"]),
    "set unknown key": (["--set", "optim.weigth_decay=1"], ["optim.weigth_decay", "did you mean 'weight_decay'"]),
    "set unknown section": (["--set", "optimizer.lr=1"], ["optimizer", "did you mean 'optim'"]),
    "set below a value": (["--set", "optim.lr.x=1"], ["optim.lr"]),
    "set wrong kind": (["--set", "training.epochs=[1]"], ["training.epochs", "int"]),
    "set yes": (["--set", "data.skip_bad_clips=yes"], ["data.skip_bad_clips", "bool"]),
    "mix stream": (["--mix-stream", "feet"], ["--mix-stream feet"]),
    "mix probability": (["--mix-stream", "face:2"], ["--mix-stream face:2"]),
    "mix stream in a key": (["--set", 'data.mix_streams={"feet": 1}'], ["feet"]),
    "mix probability in a key": (["--set", 'data.mix_streams={"face": "often"}'], ["face", "often"]),
    "decoder kwargs": (["--decoder-kwargs", "{"], ["--decoder-kwargs"]),
    "decoder kwargs kind": (["--set", "model.decoder_kwargs=3"], ["model.decoder_kwargs"]),
    "decoder kwargs model": (["--decoder-kwargs", '{"model_type": "gpt2"}'], ["gpt2"]),
    "decoder kwargs width": (["--decoder-kwargs", '{"d_model": 48}'], ["d_model", "48", "32"]),
    "decoder positions": (
        ["--decoder-kwargs", '{"model_type": "bart", "max_position_embeddings": 8}'], ["--max-target-length 16", "8"]
    ),
    "decoder vocabulary": (["--decoder-kwargs", '{"vocab_size": 20}'], ["vocab_size", "20"]),
    "vocabulary": (["--set", "model.vocab_size=20"], ["vocab_size", "20"]),
    "two decoders": (["--decoder-model", "x", "--decoder-config", "y"], ["--decoder-model", "--decoder-config"]),
    "heads": (["--temporal-nhead", "5"], ["d_model 32", "temporal_nhead 5; it is by 1, 2, 4, 8, 16, 32"]),
    "decoder heads": (["--decoder-heads", "5"], ["d_model 32", "decoder_heads 5"]),
    "image size": (["--image-size", "30"], ["--image-size 30", "14"]),
    "backbone key": (["--set", 'model.backbone={"width": 3}'], ["width"]),
    "backbone heads": (["--set", 'model.backbone={"embed_dim": 25, "num_heads": 2}'], ["embed_dim 25", "1, 5, 25"]),
    "heads of bart": (["--decoder-kwargs", '{"model_type": "bart", "decoder_attention_heads": 5}'],
                      ["d_model 32", "decoder_attention_heads 5; it is by 1, 2"]),
    "kwargs of a wrong kind": (["--decoder-kwargs", '{"num_heads": "x"}'], ["num_heads", "expected int"]),
    "no room for a text": (["--max-target-length", "1"], ["--max-target-length 1", "use 2 or more"]),

    "backbone kind": (["--set", 'model.backbone={"embed_dim": "wide"}'], ["embed_dim"]),
    "backbone spec": (["--set", "model.backbone=null", "--face-backbone", "resnet"], ["face_backbone", "resnet"]),
    "backbone model": (
        ["--set", "model.backbone=null", "--face-backbone", "torchhub::dinov2_vitx14"], ["face_backbone", "vitx14"],
    ),
    "backbone file": (
        ["--set", "model.backbone=null", "--face-backbone", "file::/no/such.pth"], ["face_backbone", "/no/such.pth"],
    ),
    "frozen part": (["--set", "model.freeze_face_backbone=tail"], ["freeze_face_backbone", "tail"]),
    "projector": (["--set", "model.projector=identity"], ["model.projector", "--projector-dim 24"]),
    "landmarks": (["--pose-landmarks", "33"], ["--pose-landmarks", "13 landmarks", ".npz"]),
    "tokenizer": (["--tokenizer", "/no/such/folder"], ["--tokenizer /no/such/folder"]),
    "resume and init": (["--resume", "--init-checkpoint", "x.pt"], ["--resume", "--init-checkpoint"]),
    "init checkpoint": (["--init-checkpoint", "/no/such.pt"], ["/no/such.pt"]),
    "resume from a path": (["--resume", "/no/such/run"], ["--resume /no/such/run"]),
    "configuration": (["--config", "/no/such.yml"], ["--config /no/such.yml"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_bad_flags(corpus, work_dir, refused, name):
    arguments, named = FLAGS[name]
    error = refused(corpus.flags(work_dir, *arguments))
    for text in named:
        assert text in error


DATA_FLAGS = [
    "face_dir", "hand_left_dir", "hand_right_dir", "pose_dir", "metadata_csv", "train_index", "val_index",
]  # fmt: skip


@pytest.mark.parametrize("name", DATA_FLAGS)
def test_missing_paths(corpus, work_dir, refused, name):
    flag = "--" + name.replace("_", "-")
    assert f"{flag} is not given" in refused(corpus.flags(work_dir, **{name: None}))
    assert "/no/such/path" in refused(corpus.flags(work_dir, **{name: "/no/such/path"}))
    assert not (work_dir / "tokenizer").exists()


def test_bad_work_dirs(corpus, refused, tmp_path):
    assert "--work-dir is not given" in refused(corpus.flags(None))
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        assert f"--work-dir {path}" in refused(corpus.flags(path))


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_splits(corpus, work_dir, refused, tmp_path, split):
    flag, index = f"{split}_index", tmp_path / "index.csv"
    for text in ("", "video_id\n"):
        index.write_text(text)
        assert str(index) in refused(corpus.flags(work_dir, **{flag: index}))
    index.write_text("video_id\ntrain_000001\nnobody_7\n")
    error = refused(corpus.flags(work_dir, **{flag: index}))
    assert f"--{split}-index {index}" in error
    assert "nobody_7" in error


def test_bad_metadata(corpus, work_dir, refused, tmp_path):
    table = tmp_path / "meta.csv"
    for text in ("", "name;words\na;b\n", "id;texto\n"):
        table.write_text(text)
        error = refused(corpus.flags(work_dir, metadata_csv=table))
        assert str(table) in error or "--train-index" in error


def test_unreadable_pose(broken, work_dir, refused):
    damaged = broken.root / "pose" / "val_000001.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert str(damaged) in refused(broken.flags(work_dir))
    np.savez(damaged, pose=np.zeros((5, 33), np.float32))
    # 33 divides by 3, but nothing in the values says that they are 11 landmarks.
    error = refused(broken.flags(work_dir, "--skip-bad-clips"))
    assert f"{damaged}: 33 columns, but 13 landmarks have 39 (x, y, confidence)" in error
    assert "11" not in error.removeprefix(str(damaged))


def test_clip_without_files(broken, work_dir, refused):
    for path in broken.root.rglob("train_000002*"):
        path.unlink()
    assert "train_000002" in refused(broken.flags(work_dir))


def test_strict_quality(broken, work_dir, refused):
    (broken.root / "face" / "train_000003_f000004.jpg").unlink()
    assert "train_000003" in refused(broken.flags(work_dir, "--strict-quality"))


def test_unreadable_image(broken, work_dir, refused):
    """One damaged jpg among all, in a frame that training may never draw."""
    (broken.root / "hand_r" / "train_000003_f000005.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    error = refused(broken.flags(work_dir))
    assert error.startswith(f"slt-train: error: {broken.root}/hand_r/train_000003_f000005.jpg")
    assert "cannot be read as an image" in error


def test_skip_bad_clips_counts_and_goes_on(broken, finished, work_dir, caplog):
    """One clip has a damaged npz, one damaged images: both are named, neither is trained on."""
    (broken.root / "pose" / "val_000001.npz").write_bytes(b"no npz")
    for path in broken.root.glob("face/train_000003*"):
        path.write_bytes(b"no jpg")
    assert main(broken.flags(work_dir, "--skip-bad-clips", tokenizer=finished / "tokenizer")) == 0
    for name in ("val_000001", "train_000003"):
        assert sum(f"clip {name} is skipped" in message for message in caplog.messages) == 1
    ours, theirs = metrics(work_dir)[0], metrics(finished)[0]
    assert ours["steps"] == theirs["steps"]
    assert ours["train_loss"] != theirs["train_loss"]
    assert ours["val_loss"] != theirs["val_loss"]


def test_tokenizer_without_pad(corpus, work_dir, refused, tmp_path):
    tokenizer = train_tokenizer(["uno dos"], tmp_path / "tokenizer")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    error = refused(corpus.flags(work_dir, "--tokenizer", str(tmp_path / "tokenizer")))
    assert f"--tokenizer {tmp_path}/tokenizer" in error
    assert "pad" in error


def test_decoder_config_of_another_width(corpus, work_dir, refused, tmp_path):
    config = {"model_type": "t5", "d_model": 48, "vocab_size": 400, "num_heads": 4, "d_kv": 12, "num_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    error = refused(corpus.flags(work_dir, "--decoder-config", str(tmp_path)))
    for text in ("--decoder-config", "48", "32", "--d-model 48"):
        assert text in error
    assert "--decoder-config" in refused(corpus.flags(work_dir, "--decoder-config", str(tmp_path / "absent")))


def test_bad_checkpoints(corpus, work_dir, refused, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"PK\x03\x04 and nothing more")
    assert str(path) in refused(corpus.flags(work_dir, "--init-checkpoint", str(path)))
    assert str(path) in refused(corpus.flags(work_dir, "--resume", str(path)))
    write_pt(path, {"model_state": {"unknown.weight": np.zeros((2, 3), np.float32)}})
    assert str(path) in refused(corpus.flags(work_dir, "--init-checkpoint", str(path)))
    assert "--resume" in refused(corpus.flags(work_dir, "--resume", str(tmp_path)))


def test_work_dir_with_a_run(corpus, finished, refused):
    before = (finished / "last.pt").stat().st_mtime_ns
    error = refused(corpus.flags(finished))
    for text in (f"--work-dir {finished}", "--resume", "--overwrite"):
        assert text in error
    assert (finished / "last.pt").stat().st_mtime_ns == before
    # Its state's arrays are those of radam too, and would be read as radam's.
    error = refused(corpus.flags(finished, "--resume", "--epochs", "9", "--optimizer", "radam"))
    assert "was written by adamw, not radam; give --optimizer adamw" in error


def test_default_backbone_without_its_file(corpus, work_dir, refused, monkeypatch, tmp_path):
    """v9's default is the pretrained ViT-S/14: without it the line says which file to put where."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = corpus.flags(work_dir, "--set", "model.backbone=null", "--set", "model.local_files_only=true")
    error = refused(arguments)
    assert "dinov2_vits14_pretrain.pth" in error
    assert f"{tmp_path}/hub/checkpoints" in error


# --- configuration files ------------------------------------------------------------------------------------------

FILES = {
    "not yaml": ("data: [", ["--config", "YAML"]),
    "a list": ("- data\n", ["--config"]),
    "a section of one value": ("optim: 3\n", ["--config", "optim"]),
    "unknown section": ("optimiser:\n  lr: 1\n", ["optimiser", "did you mean 'optim'"]),
    "unknown key": ("optim:\n  restarts: 3\n", ["optim.restarts"]),
    "misspelt key": ("data:\n  batchsize: 3\n", ["data.batchsize", "did you mean 'batch_size'"]),
    "wrong kind": ("optim:\n  lr: fast\n", ["optim.lr", "fast"]),
    "wrong kind in JSON": ('{"optim": {"momentum": "much"}}', ["optim.momentum", "much"]),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_configuration_files(corpus, work_dir, refused, tmp_path, name):
    text, named = FILES[name]
    path = tmp_path / "config.yml"
    path.write_text(text)
    error = refused(corpus.flags(work_dir, "--config", str(path)))
    for part in named:
        assert part in error


# --- the real command ---------------------------------------------------------------------------------------------


def test_the_command_says_one_line_and_exits_2(corpus, tmp_path):
    """In a process of its own, where all that is printed is seen: an early mistake, a late one, an absent device."""
    arguments = {
        "/no/such.csv": corpus.flags(tmp_path / "early", train_index="/no/such.csv"),
        "--device tpu": corpus.flags(tmp_path / "device", device="tpu"),
        "d_model": corpus.flags(tmp_path / "late", "--decoder-kwargs", '{"d_model": 48}'),
    }
    processes = [start([SCRIPT], given) for given in arguments.values()]
    for process, named in zip(processes, arguments, strict=True):
        _, error = process.communicate(timeout=120)
        assert process.returncode == 2
        assert error.startswith("slt-train: error: ")
        assert named in error
        assert error.count("\n") == 1, error
