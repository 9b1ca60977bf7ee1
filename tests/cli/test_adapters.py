"""Adapters (`model.lora`), from the command line to the files and back."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

import slt_jax
from convert import read_pt, write_pt
from convert.state_dict import to_state
from slt_jax.cli.convert import main as convert
from slt_jax.cli.train import main
from slt_jax.config import build_config
from slt_jax.training import run
from slt_jax.training.state_store import open_checkpoint, saved_model
from slt_jax.training.translation_program import translation_program
from tests.cli.conftest import metrics
from tests.cli.test_resume import same

LORA = {"rank": 2, "alpha": 8, "targets": ["decoder", "q", "k", "wo"], "dropout": 0.25, "frozen_dtype": "bfloat16"}
# Poses alone: images have nothing to do with it, and take long to compile.
FLAGS = ("--streams", "pose", "--ema", "0.5", "--lr-decoder", "1e-2", "--set", f"model.lora={json.dumps(LORA)}")


@pytest.fixture(scope="module")
def adapted(corpus, tmp_path_factory):
    """The work-dir of two epochs with adapters in the decoder."""
    work_dir = tmp_path_factory.mktemp("adapted") / "run"
    assert main(corpus.flags(work_dir, *FLAGS)) == 0
    return work_dir


def test_only_adapters_of_their_parts_move(adapted):
    """In the state: the rest of the model trains whole, and what is frozen is kept in bfloat16."""
    state, *_ = saved_model(adapted / "checkpoints")
    for path, array in state.frozen.items():
        assert path.startswith("decoder."), path
        assert array.dtype == ml_dtypes.bfloat16
    moved = [path for path in state.trained if path.startswith("decoder.")]
    assert len(moved) == 2 * 5  # two q, two k, one wo
    assert all(path.endswith((".lora_a", ".lora_b")) for path in moved)
    assert all(np.any(state.trained[path]) for path in moved)  # B began with zeros
    assert state.optimizer.slots["exp_avg"].keys() == state.trained.keys() == state.teacher["average"].keys()


def test_files_hold_the_merged_model(adapted, corpus):
    """v9's names; the logits of last.pt are those of the model in training, whose adapters are apart."""
    last, (state, notes, plan) = read_pt(adapted / "last.pt"), saved_model(adapted / "checkpoints")
    assert not any("lora" in key or "base_layer" in key for key in last["model_state"])
    rng = np.random.default_rng(0)
    batch = {"pose": rng.normal(size=(2, 4, 39)).astype(np.float32), "labels": np.array([[4, 5, 1], [6, 1, -100]])}
    with pytest.warns(UserWarning, match="best.pt has their average"):
        loaded, trained = (slt_jax.load(adapted / "last.pt") for _ in range(2))
    program = translation_program(build_config(notes["config"]), plan)
    trained.structure, trained.params = program.structure, state.params
    expected = trained.logits(batch)
    np.testing.assert_allclose(loaded.logits(batch), expected, atol=1e-5 * np.abs(expected).max())

    # The folder of states, opened by itself, is merged as well.
    opened = open_checkpoint(adapted / "checkpoints").state
    for key, array in last["model_state"].items():
        np.testing.assert_array_equal(opened[key], array, err_msg=key)
    # What lies beside the merged weights gives them again.
    layer, scale = "decoder.model.decoder.block.0.layer.1.EncDecAttention.k", 8 / 2
    a, b, base = (last["lora_state"][f"{layer}.{name}.weight"] for name in ("lora_A", "lora_B", "base_layer"))
    assert base.dtype == ml_dtypes.bfloat16
    merged = base.astype(np.float32) + scale * b @ a
    np.testing.assert_allclose(last["model_state"][f"{layer}.weight"], merged, atol=1e-6)
    # The average is that of the adapters too, and best.pt has it.
    best = read_pt(adapted / "best.pt")
    np.testing.assert_array_equal(
        best["lora_state"][f"{layer}.lora_B.weight"], last["ema_state"][f"{layer}.lora_B.weight"]
    )
    (group,) = last["lora_optimizer_state"]["param_groups"]
    assert group["initial_lr"] == pytest.approx(1e-2)


def test_a_run_that_is_stopped_goes_on_exactly(adapted, corpus, tmp_path, monkeypatch):
    """From its states and, in another folder, from last.pt alone, with average, dropout and optimiser."""
    work_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    taken, calls = run.Run.take_step, []

    def stop_after_three(self, *arguments):
        taken(self, *arguments)
        calls.append(1)
        if len(calls) == 3:
            self.stop.number = 15

    monkeypatch.setattr(run.Run, "take_step", stop_after_three)
    assert main(corpus.flags(work_dir, *FLAGS)) == 143
    monkeypatch.undo()
    shutil.copy(work_dir / "last.pt", tmp_path / "given.pt")
    shutil.copytree(work_dir / "tokenizer", elsewhere / "tokenizer")
    assert convert(["to-jax", str(tmp_path / "given.pt"), str(tmp_path / "states")]) == 0

    assert main(corpus.flags(work_dir, *FLAGS, "--resume")) == 0
    assert main(corpus.flags(elsewhere, *FLAGS, "--resume", str(tmp_path / "given.pt"))) == 0
    assert metrics(work_dir) == metrics(adapted)
    assert metrics(elsewhere) == metrics(adapted)[1:]
    wanted = read_pt(adapted / "last.pt")
    for folder in (work_dir, elsewhere):
        found = read_pt(folder / "last.pt")
        for name in ("model_state", "lora_state", "ema_state", "optimizer_state", "lora_optimizer_state"):
            assert same(found[name], wanted[name]), (folder, name)
    # slt-convert makes the same state of the file.
    state, *_ = saved_model(tmp_path / "states")
    given = read_pt(tmp_path / "given.pt")["lora_state"]
    for key in (key for key in given if key.endswith("lora_A.weight")):
        np.testing.assert_array_equal(state.trained[key.replace(".lora_A.weight", ".lora_a")], given[key].T)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ("null", "give the same, or take its weights, with its adapters merged"),
        ('{"rank": 4, "targets": ["decoder", "q", "k", "wo"]}', "was trained with --set model.lora="),
        ('{"rank": 2, "alpha": 4, "targets": ["decoder", "q", "k", "wo"]}', "was trained with --set model.lora="),
    ],
)
def test_other_adapters_do_not_go_on(adapted, corpus, tmp_path, capsys, lora, said):
    for source in (adapted / "last.pt", adapted):
        flags = ("--streams", "pose", "--ema", "0.5", "--set", f"model.lora={lora}")
        arguments = corpus.flags(tmp_path / "run", *flags, "--resume", str(source))
        assert main(arguments) == 2
        assert said in capsys.readouterr().err


def test_a_run_without_adapters_does_not_go_on_with_some(adapted, corpus, tmp_path, capsys):
    content = read_pt(adapted / "last.pt")
    del content["lora_state"]
    write_pt(tmp_path / "merged.pt", content)
    assert main(corpus.flags(tmp_path / "run", *FLAGS, "--resume", str(tmp_path / "merged.pt"))) == 2
    assert "has no adapters to go on with (model.lora)" in capsys.readouterr().err


def test_weights_alone_have_no_adapters(adapted, tmp_path):
    target = tmp_path / "weights.pt"
    assert convert(["to-torch", str(adapted / "last.pt"), str(target), "--weights-only"]) == 0
    assert "lora_state" not in read_pt(target)
    assert convert(["to-jax", str(target), str(tmp_path / "states")]) == 0
    state, _, plan = saved_model(tmp_path / "states")
    assert plan.lora is None
    assert same(to_state(state.params, plan.structure()[1]), read_pt(target)["model_state"])
