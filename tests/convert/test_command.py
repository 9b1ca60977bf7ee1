"""`slt-convert` from outside: what it prints, what it writes, and that torch and safetensors read it."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import slt_jax
from convert import read_pt, write_pt
from convert.checkpoint import blueprint, read_checkpoint
from slt_jax.cli.convert import main
from slt_jax.config import Config
from slt_jax.training.state_store import open_checkpoint, resume_states
from slt_jax.training.translation_program import translation_program
from tests.convert.models import settings, tiny
from tests.parity.goldens import GOLDENS, needs_goldens


def optimizer_state(count: int, state) -> dict:
    """AdamW's, of every parameter, after 7 steps."""
    group = {"lr": 5e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.02, "decoupled_weight_decay": True,
             "initial_lr": 1e-3, "params": list(range(count))}  # fmt: skip
    slots = {
        i: {"step": np.array(7, np.float32), "exp_avg": np.full_like(a, 0.5), "exp_avg_sq": np.full_like(a, 0.25)}
        for i, a in enumerate(state)
    }
    return {"state": slots, "param_groups": [group]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a checkpoint as v9 writes it, and other kinds of files. Not to be changed."""
    folder = tmp_path_factory.mktemp("files")
    _, state = tiny()
    own = list({id(array): array for array in state.values()}.values())
    content = {
        "epoch": 4, "model_state": state, "optimizer_state": optimizer_state(len(own), own), "val_loss": 1.5,
        "best_val": 1.25, "scaler_state": {"scale": 1024.0, "growth_factor": 2.0, "backoff_factor": 0.5,
                                           "growth_interval": 2000, "_growth_tracker": 9},
        "config": {"data": {"batch_size": 2}, "model": settings(), "optim": {"lr": 1e-3, "opt": {"type": "adamw"}}},
    }  # fmt: skip
    write_pt(folder / "v9.pt", content)
    write_pt(folder / "ours.pt", content | {"config": content["config"] | {"data": {"v9_hand_masks": False}}})
    write_pt(folder / "bare.pt", state)
    encoder = {key: array for key, array in state.items() if key.startswith("encoder.")}
    write_pt(folder / "encoder.pt", {"encoder_state": encoder})
    prefix = "encoder.face_backbone."
    write_pt(folder / "backbone.pth", {k.removeprefix(prefix): a for k, a in state.items() if k.startswith(prefix)})
    work_dir = folder / "run"
    work_dir.mkdir()
    shutil.copy(folder / "ours.pt", work_dir / "best.pt")
    assert main(["to-jax", str(folder / "v9.pt"), str(folder / "states")]) == 0
    huggingface = folder / "huggingface"
    huggingface.mkdir()
    (huggingface / "config.json").write_text('{"model_type": "t5"}')
    part = {key.removeprefix("decoder.model."): a for key, a in state.items() if key.startswith("decoder.model.")}
    safetensors.numpy.save_file({k: np.array(a) for k, a in part.items()}, huggingface / "model.safetensors")
    return folder


def run(capsys, *arguments) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out + err


KINDS = {
    "v9.pt": "checkpoint written by v9: encoder and decoder",
    "ours.pt": "checkpoint written by slt_jax: encoder and decoder",
    "bare.pt": "bare state dict: encoder and decoder",
    "encoder.pt": "file with encoder_state: encoder without a decoder",
    "backbone.pth": "bare state dict: DINOv2 backbone",
    "run": "work-dir of slt_jax or v9; its best.pt: checkpoint written by slt_jax",
    "states": "folder of training states (Orbax) of slt_jax: encoder and decoder",
    "huggingface": "HuggingFace folder of a t5 model",
}


@pytest.mark.parametrize("name", KINDS)
def test_inspect_says_what_it_is(name, files, capsys):
    code, text = run(capsys, "inspect", files / name)
    assert code == 0
    assert KINDS[name] in text.splitlines()[0]


def test_inspect_lists_everything(files, capsys):
    _, text = run(capsys, "inspect", files / "v9.pt")
    lines = text.splitlines()
    _, state = tiny()
    assert f"{len(state)} tensors, 3 of them tied to others" in lines[1]
    assert "float32" in lines[1]
    assert "epoch 4, val_loss 1.5, best_val 1.25" in lines
    assert any(line.startswith("model: image_size 28, d_model 32") for line in lines)
    assert any("hidden, as v9 does" in line for line in lines)
    assert any("optimizer: adamw, lr 0.0005, weight_decay 0.02" in line and "7 steps" in line for line in lines)
    assert "loss scale: 1024.0" in lines
    rows = {line.split()[0]: line for line in lines if line.startswith(("encoder.", "decoder."))}
    assert rows.keys() == state.keys()
    assert "[64, 3, 14, 14]" in rows["encoder.face_backbone.patch_embed.proj.weight"]
    assert rows["decoder.model.lm_head.weight"].endswith("= decoder.model.shared.weight")
    assert len(run(capsys, "inspect", files / "v9.pt", "--summary")[1].splitlines()) < 10


@pytest.mark.parametrize("source", ["v9.pt", "ours.pt", "run", "states"])
def test_to_torch_loses_nothing(source, files, tmp_path, capsys):
    assert run(capsys, "to-torch", files / source, tmp_path / "out.pt")[0] == 0
    original = torch.load(files / "v9.pt")
    written = torch.load(tmp_path / "out.pt")
    assert list(written["model_state"]) == list(original["model_state"])
    for key, tensor in original["model_state"].items():
        assert torch.equal(written["model_state"][key], tensor), key
    shared = written["model_state"]["decoder.model.shared.weight"]
    assert shared.data_ptr() == written["model_state"]["decoder.model.lm_head.weight"].data_ptr()
    assert (written["epoch"], written["best_val"], written["scaler_state"]) == (4, 1.25, original["scaler_state"])
    states = written["optimizer_state"]["state"]
    trained = original["optimizer_state"]["state"]
    assert states.keys() <= trained.keys()
    assert len(states) > 50
    for index, slots in states.items():
        assert slots["step"] == 7
        assert torch.equal(slots["exp_avg_sq"], trained[index]["exp_avg_sq"])


def test_to_torch_options(files, tmp_path, capsys):
    target = tmp_path / "out.pt"
    options = ["--weights-only", "--dtype", "bfloat16", "--prefix", "module."]
    assert run(capsys, "to-torch", files / "v9.pt", target, *options)[0] == 0
    written = torch.load(target)
    assert "optimizer_state" not in written
    assert "scaler_state" not in written
    assert all(key.startswith("module.") and t.dtype == torch.bfloat16 for key, t in written["model_state"].items())
    shared = written["model_state"]["module.decoder.model.shared.weight"]
    assert shared.data_ptr() == written["model_state"]["module.decoder.model.lm_head.weight"].data_ptr()
    assert slt_jax.load(target).config.d_model == 32


def test_a_bare_state_dict_stays_bare(files, tmp_path, capsys):
    assert run(capsys, "to-torch", files / "backbone.pth", tmp_path / "out.pth", "--dtype", "float16")[0] == 0
    assert torch.load(tmp_path / "out.pth")["cls_token"].dtype == torch.float16


def test_to_safetensors(files, tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    code, text = run(capsys, "to-safetensors", files / "states", target, "--dtype", "float16")
    assert code == 0
    assert "3 tied tensors" in text
    with safetensors.safe_open(target, "pt") as file:
        ties = json.loads(file.metadata()["tied"])
        assert file.metadata()["format"] == "pt"
    assert ties["decoder.model.lm_head.weight"] == "decoder.model.shared.weight"
    loaded = safetensors.torch.load_file(target)
    state = torch.load(files / "v9.pt")["model_state"]
    assert loaded.keys() == state.keys() - ties.keys()
    assert all(torch.equal(tensor, state[key].half()) for key, tensor in loaded.items())
    code, text = run(capsys, "verify", target, files / "v9.pt", "--tolerance", "1e-2")
    assert code == 0
    assert f"{len(state)} tensors compared" in text


def test_a_safetensors_file_knows_its_model(files, tmp_path, capsys):
    """Weights do not tell attention heads, nor whether v9's masks hid the hands from them."""
    target, back = tmp_path / "out.safetensors", tmp_path / "back.pt"
    assert run(capsys, "to-safetensors", files / "ours.pt", target)[0] == 0
    assert run(capsys, "to-torch", target, back)[0] == 0
    config = read_checkpoint(files / "ours.pt").config
    assert config["data"] == {"v9_hand_masks": False}
    for checkpoint in (open_checkpoint(target), read_checkpoint(back)):
        assert checkpoint.config == config
        assert blueprint(checkpoint).config == blueprint(read_checkpoint(files / "ours.pt")).config
    assert run(capsys, "to-safetensors", files / "bare.pt", target, "--overwrite")[0] == 0
    assert open_checkpoint(target).rest == {}


def test_to_jax_is_a_state_that_training_resumes(files):
    plan = blueprint(read_checkpoint(files / "v9.pt"))
    program = translation_program(Config(model=plan.config), plan)
    state, position, notes = resume_states(files / "states", program)
    config = notes["config"]
    assert (position.epoch, position.best_val, int(state.step)) == (4, 1.25, 7)
    assert float(state.scaler["scale"]) == 1024.0
    assert int(state.scaler["_growth_tracker"]) == 9
    assert set(np.asarray(state.optimizer.step).tolist()) == {7.0}
    assert config["data"]["v9_hand_masks"] is True
    assert (config["optim"]["lr"], config["optim"]["weight_decay"], config["data"]["batch_size"]) == (1e-3, 0.02, 2)
    translator = slt_jax.load(files / "states")
    original = slt_jax.load(files / "v9.pt")
    jax.tree.map(np.testing.assert_array_equal, dict(translator.params), dict(original.params))


def test_verify_finds_every_difference(files, tmp_path, capsys):
    assert run(capsys, "verify", files / "v9.pt", files / "states")[0] == 0
    content = read_pt(files / "v9.pt")
    state = dict(content["model_state"])
    state["encoder.fusion.norm.weight"] = state["encoder.fusion.norm.weight"] + np.float32(0.5)
    state["encoder.pose_projector.layers.0.bias"] = np.full(15, np.nan, np.float32)
    write_pt(tmp_path / "other.pt", state)
    code, text = run(capsys, "verify", files / "v9.pt", tmp_path / "other.pt", "--tolerance", "1")
    assert code == 1
    assert "encoder.fusion.norm.weight" in text
    assert "5.000e-01" in text
    assert "nan in encoder.pose_projector.layers.0.bias" in text
    del state["encoder.pose_projector.layers.0.bias"]
    write_pt(tmp_path / "fewer.pt", state)
    code, text = run(capsys, "verify", files / "v9.pt", tmp_path / "fewer.pt", "--tolerance", "1")
    assert code == 1
    assert "- encoder.pose_projector.layers.0.bias [15]  (only in the first)" in text


@pytest.mark.parametrize("name", ["backbone.pth", "huggingface", "encoder.pt"])
def test_verify_compares_a_part_with_the_whole(name, files, capsys):
    code, text = run(capsys, "verify", files / name, files / "v9.pt")
    part = name != "encoder.pt"
    assert (code, "compared as a part" in text) == (0 if part else 1, part)


def test_dry_run_shows_the_diff_and_writes_nothing(files, tmp_path, capsys):
    target = tmp_path / "out.pt"
    code, text = run(capsys, "to-torch", files / "v9.pt", target, "--dry-run")
    assert code == 0
    assert "fits the model" in text
    model = json.dumps({"temporal_layers": 2, "pose_landmarks": 6})
    code, text = run(capsys, "to-torch", files / "v9.pt", target, "--dry-run", "--model", model)
    assert code == 1
    assert "- encoder.temporal.encoder.layers.1.norm1.weight [32]  (in the model, not in the file)" in text
    assert "! encoder.pose_projector.layers.0.bias model [18], file [15]" in text
    (tmp_path / "model.yml").write_text("model: {sequence_length: 9}")
    code, text = run(capsys, "to-jax", files / "v9.pt", target, "--dry-run", "--config", tmp_path / "model.yml")
    assert code == 1
    assert "! encoder.positional.embedding.weight model [9, 32], file [4, 32]" in text
    assert not target.exists()


def test_nothing_is_overwritten_unasked(files, tmp_path, capsys):
    target = tmp_path / "out.pt"
    target.write_text("precious")
    for command in ("to-torch", "to-safetensors", "to-jax"):
        code, text = run(capsys, command, files / "v9.pt", target)
        assert code == 2
        assert f"{target}: exists; --overwrite replaces it" in text
    assert target.read_text() == "precious"
    assert run(capsys, "to-torch", files / "v9.pt", target, "--overwrite")[0] == 0

    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "precious").touch()
    code, text = run(capsys, "to-jax", files / "v9.pt", folder, "--overwrite")
    assert code == 2
    assert "is not a folder of training states" in text
    assert (folder / "precious").exists()
    states = tmp_path / "states"
    shutil.copytree(files / "states", states)
    assert run(capsys, "to-jax", files / "v9.pt", states)[0] == 2
    assert run(capsys, "to-jax", files / "v9.pt", states, "--overwrite", "--weights-only")[0] == 0
    assert "state of 0 parameters" in run(capsys, "inspect", states)[1]


MISTAKES = {
    "missing": (["inspect", "nowhere.pt"], "nowhere.pt: no such file or folder"),
    "folder": (["inspect", "."], ".: is neither a work-dir"),
    "text": (["inspect", "text.pt"], "not a torch file"),
    "json": (["to-torch", "text.pt", "o.pt", "--model", "{"], "--model {: is not a JSON object"),
    "one file": (["verify", "text.pt"], "verify takes two files or folders, or --case DIR"),
    "case": (["verify", "--case", "."], "--case .: has no case.json"),
    "both": (["verify", "text.pt", "--case", "."], "not both"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name, tmp_path, monkeypatch, capsys, files):
    monkeypatch.chdir(tmp_path)
    shutil.copy(files / "bare.pt", "text.pt") if name == "json" else (tmp_path / "text.pt").write_text("no")
    arguments, message = MISTAKES[name]
    code, text = run(capsys, *arguments)
    assert code == 2
    assert message in text
    assert text.count("\n") == 1
    assert text.startswith("slt-convert: error: ")


def test_an_encoder_is_no_state_of_training(files, tmp_path, capsys):
    code, text = run(capsys, "to-jax", files / "encoder.pt", tmp_path / "out")
    assert code == 2
    assert "holds an encoder without a decoder" in text


def test_large_files_show_progress(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("slt_jax.base.console.LARGE", 1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, text = run(capsys, "to-torch", files / "v9.pt", tmp_path / "out.pt")
    assert "100%" in text or "B/s" in text


# --- v9's own tools ------------------------------------------------------------------------------------------------


def test_to_torch_says_what_v9_cannot_do(files, tmp_path, capsys):
    _, text = run(capsys, "to-torch", files / "ours.pt", tmp_path / "a.pt")
    notes = [line for line in text.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert "model.backbone is a ViT of free size" in notes[0]
    assert "torchhub::dinov2_vits14" in notes[0]
    assert "hides every hand" in notes[1]
    assert "data.v9_hand_masks=true" in notes[1]
    assert "note" not in run(capsys, "to-torch", files / "v9.pt", tmp_path / "b.pt")[1]


@pytest.mark.parametrize(
    ("model", "masks", "expected"),
    [
        ({"projector_dim": 384}, True, []),
        ({}, True, ["an MLP projector follows the hub backbone of face, hand_left, hand_right", "--projector-dim 384",
                    "only those of a later v9 (8 days on) can:"]),
        ({"projector_dim": 384, "projector": {"hand_left": "mlp"}}, True, ["hub backbone of hand_left,",
                                                                          "cannot load these checkpoints:"]),
        ({"projector_dim": 384, "decoder_class": "tests.none:Decoder"}, True, ["Flax class tests.none:Decoder"]),
        ({"projector_dim": 384}, False, ["hides every hand"]),
    ],
)  # fmt: skip
def test_notes_for_v9(model, masks, expected):
    from convert.checkpoint import Blueprint
    from convert.compatibility import v9_notes
    from slt_jax.config import build_config
    from slt_jax.models.vit import ViTConfig
    from slt_jax.streams import IMAGES

    config = build_config({"model": model, "data": {"v9_hand_masks": masks}})
    notes = v9_notes(config, Blueprint(config.model, {stream.name: ViTConfig() for stream in IMAGES}, {}))
    assert len(notes) == min(len(expected), 1)
    assert all(text in notes[0] for text in expected)
    assert all("\n" not in note for note in notes)


# --- cases ---------------------------------------------------------------------------------------------------------


@needs_goldens
def test_a_case_of_v9(capsys):
    """The one whose learning rate reaches 0. (bart's is a command of the guide.)"""
    code, text = run(capsys, "verify", "--case", GOLDENS / "t5_identity")
    assert code == 0, text
    rows = {line.split()[0]: line for line in text.splitlines()}
    for name in ("face_backbone", "face_projected", "encoded", "logits", "loss", "train_losses", "train_grad_norms"):
        assert float(rows[name].split()[1]) <= 1e-5
    assert rows["generate_greedy"].endswith("identical")
    assert rows["generate_beam4"].endswith("identical")


@needs_goldens
def test_a_case_that_differs(tmp_path, capsys):
    """Only the encoder of a golden, with one number of v9's changed."""
    case = tmp_path / "case"
    shutil.copytree(GOLDENS / "t5_mlp", case)
    content = read_pt(case / "checkpoint.pt")
    encoder = {key: array for key, array in content["model_state"].items() if key.startswith("encoder.")}
    write_pt(case / "checkpoint.pt", {"encoder_state": encoder})
    expected = dict(np.load(case / "expected.npz"))
    expected["face_projected"][0, 0, 0] += 1.0
    np.savez(case / "expected.npz", **expected)
    code, text = run(capsys, "verify", "--case", case)
    assert code == 1
    assert "FAIL" in next(line for line in text.splitlines() if line.startswith("face_projected"))
    assert "beyond 1e-05: face_projected" in text
