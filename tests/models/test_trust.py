"""A class is imported because the user named it, never because a file did."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import slt_jax
from convert import write_pt
from convert.checkpoint import blueprint, read_checkpoint
from slt_jax.cli import convert, evaluate, export
from slt_jax.errors import UserError
from slt_jax.evaluation.v9_case import read_case
from slt_jax.models.trust import named_classes
from slt_jax.serve.translate_video import read_model
from slt_jax.training.state_store import StateStore, open_checkpoint

TRAP = "trap_module"
MODULE = """
import pathlib
pathlib.Path(__file__).with_name("marker").touch()
from flax import nnx
class Net(nnx.Module):
    def __init__(self, *, rngs, **kwargs):
        self.embed_dim = self.d_model = 8
"""
STATE = {
    "encoder.fusion.proj.weight": np.zeros((8, 8), np.float32),
    "decoder.model.lm_head.weight": np.zeros((4, 8), np.float32),
}
SPECS = {
    "decoder": {"decoder_class": f"{TRAP}:Net"},
    "text": {"face_backbone": f"{TRAP}:Net"},
    "mapping": {"hand_right_backbone": {"type": "class", "model": f"{TRAP}:Net"}},
}
RECORDS = {
    "recorded decoder": {"backbones": [{}, {}, {}], "decoder": {"decoder_class": f"{TRAP}:Net", "kwargs": {}}},
    "recorded backbone": {"backbones": [{}, {"name": f"{TRAP}:Net"}, {}], "decoder": None},
}


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Path:
    """The current folder, with the module that a hostile file names. It leaves `marker` when it is imported."""
    (tmp_path / f"{TRAP}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, TRAP, raising=False)
    yield tmp_path
    sys.modules.pop(TRAP, None)


def hostile(what: str) -> dict:
    beside = {"config": {"model": SPECS[what]}} if what in SPECS else {"architecture": RECORDS[what]}
    return {"model_state": dict(STATE)} | beside


def refused(call, *, what: str = "") -> None:
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    for part in (f"{TRAP}:Net", "--trust-classes", "trust_classes=True", what):
        assert part in message
    assert "\n" not in message
    assert not Path("marker").exists()


@pytest.mark.parametrize("what", [*SPECS, *RECORDS])
def test_a_class_that_a_file_names_is_not_imported(trap, what):
    write_pt(trap / "evil.pt", hostile(what))
    refused(lambda: slt_jax.load("evil.pt"), what="evil.pt")
    refused(lambda: slt_jax.load("evil.pt", model={"d_model": 8}) if what in SPECS else slt_jax.load("evil.pt"))
    refused(lambda: read_model("evil.pt"))


@pytest.mark.parametrize("what", ["decoder", "recorded decoder"])
def test_no_command_imports_it(trap, capsys, what):
    write_pt(trap / "evil.pt", hostile(what))
    commands = {
        "eval": lambda: evaluate.main(
            ["--checkpoint", "evil.pt", "--eval-index", "i.csv", "--output-csv", "o.csv", "--device", "cpu"]
        ),
        "export": lambda: export.main(["--checkpoint", "evil.pt", "--onnx", "e.onnx"]),
        "to-jax": lambda: convert.main(["to-jax", "evil.pt", "states"]),
        "dry-run": lambda: convert.main(["to-torch", "--dry-run", "evil.pt", "new.pt"]),
        "inspect": lambda: convert.main(["inspect", "evil.pt"]),
        "verify": lambda: convert.main(["verify", "evil.pt", "evil.pt"]),
    }
    for name, command in commands.items():
        code, error = command(), capsys.readouterr().err
        assert not Path("marker").exists(), name
        if name in ("inspect", "verify"):  # which need no model for a .pt
            assert code == 0
            continue
        assert code == 2, name
        assert f"evil.pt: its model.decoder_class is the class '{TRAP}:Net'" in error
        assert "--trust-classes" in error
        assert error.count("\n") == 1


def test_a_case_names_no_class(trap):
    (trap / "case.json").write_text(json.dumps({"model": SPECS["decoder"], "vocab_size": 4}))
    write_pt(trap / "checkpoint.pt", {"model_state": STATE})
    for name in ("inputs.npz", "expected.npz"):
        np.savez(trap / name, x=np.zeros(1))
    refused(read_case(trap).plan)


@pytest.mark.parametrize("what", [*SPECS, *RECORDS])
def test_a_folder_of_states_names_no_class(trap, what):
    notes = {"position": {}, "config": {"model": SPECS.get(what, {})}}
    notes |= {"architecture": RECORDS[what]} if what in RECORDS else {}
    state = {
        "trained": {"x": np.zeros(1)},
        "frozen": {},
        "optimizer": {"step": np.zeros(1)},
        "scaler": {},
        "step": np.zeros(()),
    }
    with StateStore(trap / "checkpoints") as store:
        store.save(state, notes)
    refused(lambda: open_checkpoint(trap))


def test_what_the_user_names_or_trusts_is_imported(trap):
    write_pt(trap / "own.pt", hostile("decoder"))
    checkpoint = read_checkpoint(trap / "own.pt")
    refused(lambda: blueprint(checkpoint, trust={"other:Net"}))
    refused(lambda: blueprint(checkpoint, {"d_model": 8, "face_backbone": "slt_jax.models.cnn:SmallCNN"}))
    for given in ({"trust": True}, {"trust": {f"{TRAP}:Net"}}, {"model": SPECS["decoder"]}):
        with pytest.raises(UserError, match="calling it fails"):  # so it was imported, and is no decoder
            blueprint(checkpoint, **given)
        assert Path("marker").exists()
        Path("marker").unlink()
        sys.modules.pop(TRAP)


def test_classes_of_ours_need_no_trust():
    cnn = {"type": "class", "model": "slt_jax.models.cnn:SmallCNN"}
    assert named_classes({"face_backbone": cnn, "decoder_class": "a:B"}) == {
        "face_backbone": "slt_jax.models.cnn:SmallCNN",
        "decoder_class": "a:B",
    }
