"""Bad input: exit code 2 and one line that names the flag, file or checkpoint, before anything is translated."""

import json
import shutil
from pathlib import Path

import pytest

from convert import read_pt, write_pt
from slt_jax.cli.evaluate import main
from slt_jax.data.text import train_tokenizer
from slt_jax.evaluation import evaluate
from tests.evaluation.conftest import MODEL, arguments, data_flags, write_run


@pytest.fixture
def refused(corpus, run, tmp_path, monkeypatch, capsys):
    """Run the command, which must refuse before it translates; returns its one line."""

    def never(*_, **__):
        raise AssertionError("clips were translated before the input was checked")

    monkeypatch.setattr(evaluate, "translate_split", never)

    def call(*more: str, checkpoints=None, index: Path | None = None, output: Path | None = None) -> str:
        given = arguments(corpus, checkpoints or [run / "best.pt"], output or tmp_path / "out" / "p.csv", *more)
        if index is not None:
            given[given.index("--eval-index") + 1] = str(index)
        capsys.readouterr()
        assert main(given) == 2
        error = capsys.readouterr().err
        assert error.startswith("slt-eval: error: ")
        assert error.count("\n") == 1, error
        return error

    return call


FLAGS = {
    # name: (arguments, what the line must name)
    "unknown flag": (["--num-beam", "3"], ["--num-beam", "did you mean '--num-beams'"]),
    "training flag": (["--epochs", "3"], ["--epochs"]),
    "no beams": (["--num-beams", "0"], ["--num-beams", "0"]),
    "no tokens": (["--max-new-tokens", "0"], ["--max-new-tokens", "0"]),
    "no room": (["--max-target-length", "1"], ["--max-target-length 1"]),
    "log level": (["--log-level", "loud"], ["--log-level", "LOUD"]),
    "device": (["--device", "banana"], ["--device banana"]),
    "batch size": (["--batch-size", "0"], ["batch_size", "0"]),
    "column": (["--split-by", "singer"], ["--split-by singer", "did you mean 'signer'"]),
    "folder": (["--face-dir", "/no/such"], ["--face-dir /no/such"]),
    "metadata": (["--metadata-csv", "/no/such.csv"], ["/no/such.csv"]),
    "tokenizer": (["--tokenizer", "/no/such"], ["--tokenizer /no/such"]),
    "configuration": (["--config", "/no/such.yml"], ["--config /no/such.yml"]),
    "section": (["--set", "modle.d_model=3"], ["modle", "did you mean 'model'"]),
    "model key": (["--set", "model.d_modle=3"], ["model.d_modle", "did you mean 'd_model'"]),
    "data key": (["--set", "data.batchsize=3"], ["data.batchsize"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAGS)
def test_bad_flags(refused, name):
    more, named = FLAGS[name]
    error = refused(*more)
    for text in named:
        assert text in error


@pytest.mark.parametrize("flag", ["--checkpoint", "--eval-index", "--output-csv"])
def test_what_must_be_given(corpus, run, tmp_path, capsys, flag):
    given = arguments(corpus, [run], tmp_path / "p.csv")
    place = given.index(flag)
    assert main(given[:place] + given[place + 2 :]) == 2
    assert f"{flag} is not given" in capsys.readouterr().err


# --- what contradicts the checkpoint ------------------------------------------------------------------------------

BACKBONE = MODEL["backbone"]
CONTRADICTIONS = {
    # name: (arguments, what the line must name beside the checkpoint)
    "width": (["--d-model", "64"], ["--d-model 64", "32"]),
    "heads": (["--temporal-nhead", "3"], ["--temporal-nhead 3", "4"]),
    "layers": (["--set", "model.temporal_layers=2"], ["model.temporal_layers 2", "1"]),
    "frames": (["--sequence-length", "16"], ["--sequence-length 16", "8"]),
    "pixels": (["--image-size", "56"], ["--image-size 56", "28"]),
    "landmarks": (["--pose-landmarks", "33"], ["--pose-landmarks 33", "13"]),
    "vocabulary": (["--set", "model.vocab_size=999"], ["model.vocab_size 999", "270"]),
    "projector": (["--projector", "identity"], ["--projector identity", "mlp"]),
    "decoder class": (["--decoder-class", "my:Decoder"], ["--decoder-class", "my"]),
    "decoder kwargs": (["--decoder-kwargs", '{"num_layers": 2}'], ["--decoder-kwargs", "num_layers"]),
    "hub backbone": (
        ["--face-backbone", "torchhub::dinov2_vitb14"], ["--face-backbone torchhub::dinov2_vitb14", "768", "24"],
    ),
    "backbone": (
        ["--set", f"model.backbone={json.dumps(BACKBONE | {'num_heads': 3})}"], ["model.backbone", "num_heads"],
    ),
    "part of the backbone": (["--set", "model.backbone.depth=2"], ["model.backbone", "depth 2", "depth 1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions(refused, run, name):
    more, named = CONTRADICTIONS[name]
    error = refused(*more)
    assert name == "decoder class" or str(run / "best.pt") in error
    for text in named:
        assert text in error


def test_a_file_contradicts_too(refused, tmp_path):
    file = tmp_path / "other.yml"
    file.write_text("model: {decoder_layers: 4}\n")
    assert "model.decoder_layers 4 contradicts" in refused("--config", str(file))


def test_a_decoder_configuration_that_contradicts(refused, tmp_path):
    (tmp_path / "decoder").mkdir()
    t5 = {"model_type": "t5", "vocab_size": 270, "d_model": 32, "d_kv": 8, "d_ff": 96, "num_layers": 1, "num_heads": 4}
    (tmp_path / "decoder" / "config.json").write_text(json.dumps(t5))
    error = refused("--decoder-config", str(tmp_path / "decoder"))
    assert f"--decoder-config {tmp_path / 'decoder'} (d_ff 96) contradicts" in error
    assert "d_ff 128" in error


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "video_id\n", "video_id\nnobody\n"])
def test_bad_index(refused, tmp_path, content):
    index = tmp_path / "index.csv"
    index.write_text(content)
    error = refused(index=index)
    assert str(index) in error


def test_missing_files(refused, tmp_path):
    assert str(tmp_path / "no.csv") in refused(index=tmp_path / "no.csv")
    assert str(tmp_path / "no.pt") in refused(checkpoints=[tmp_path / "no.pt"])
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(checkpoints=[tmp_path / "empty"])


def test_output(refused, tmp_path):
    assert "is a folder" in refused(output=tmp_path)
    assert "report.csv" in refused(output=tmp_path / "report.csv")
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(output=tmp_path / "file" / "p.csv")


def test_the_same_checkpoint_twice(refused, run):
    assert "given twice" in refused(checkpoints=[run / "best.pt", run / ".." / run.name / "best.pt"])


def test_checkpoints_of_different_data(refused, corpus, run, tmp_path):
    other = write_run(tmp_path / "other", corpus, data={"face_dir": str(corpus / "hand_l")})
    error = refused(checkpoints=[run, other])
    assert "--face-dir" in error
    assert str(corpus / "hand_l") in error


def test_an_unreadable_clip(refused, corpus, tmp_path):
    broken = shutil.copytree(corpus, tmp_path / "clips")
    (broken / "pose" / "test_000002.npz").write_bytes(b"nothing")
    assert "test_000002.npz" in refused(*data_flags(broken))


def test_all_clips_unreadable(refused, corpus, tmp_path):
    broken = shutil.copytree(corpus, tmp_path / "clips")
    for path in (broken / "pose").iterdir():
        path.write_bytes(b"nothing")
    assert "no clip of the split can be read" in refused(*data_flags(broken), "--skip-bad-clips")


def test_a_tokenizer_that_does_not_fit(refused, run, tmp_path):
    train_tokenizer(["uno dos tres"] * 3, tmp_path / "larger", vocab_size=290)
    shutil.move(shutil.copytree(run, tmp_path / "run") / "tokenizer", tmp_path / "away")
    alone = tmp_path / "run" / "best.pt"
    assert "--tokenizer is not given" in refused(checkpoints=[alone])
    for texts, size in ((["uno dos tres cuatro cinco seis siete"] * 3, 300), (["a"], 259)):
        folder = tmp_path / str(size)
        found = train_tokenizer(texts, folder, vocab_size=size).vocab_size
        error = refused("--tokenizer", str(folder), checkpoints=[alone])
        assert f"--tokenizer {folder}" in error
        assert f"{found} does not fit the 270" in error


def test_an_encoder_alone(refused, run, tmp_path):
    content = read_pt(run / "best.pt")
    state = {key: array for key, array in content["model_state"].items() if key.startswith("encoder.")}
    write_pt(tmp_path / "encoder.pt", {"encoder_state": state, "config": content["config"]})
    assert "without a decoder" in refused(checkpoints=[tmp_path / "encoder.pt"])


def test_ctrl_c(corpus, run, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "translate_split", interrupted)
    assert main(arguments(corpus, [run], tmp_path / "p.csv")) == 130
    assert capsys.readouterr().err.count("\n") == 1
