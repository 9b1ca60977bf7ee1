"""The training command from end to end, on a small generated corpus."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import slt_jax
from convert import read_pt
from slt_jax.cli.train import configure, main, parse
from slt_jax.config import ModelConfig
from slt_jax.errors import UserError
from slt_jax.training.run import Run
from slt_jax.training.state_store import StateStore
from tests.cli.conftest import ROOT, SCRIPT, TIMES, metrics, start
from tests.parity.goldens import Golden, needs_goldens


def config_of(*arguments: str):
    return configure(parse(arguments))[0]


# --- what a run leaves --------------------------------------------------------------------------------------------


def test_a_run_leaves_its_artefacts(corpus, finished):
    effective = json.loads((finished / "config.json").read_text())
    assert effective["optim"]["lr"] == 1e-3  # a default
    assert effective["data"]["batch_size"] == 2  # a flag
    assert effective["model"]["vocab_size"] > 256  # known only with the tokenizer
    asked = json.loads((finished / "config.merged.json").read_text())
    assert "lr" not in asked["optim"]
    assert asked["data"]["batch_size"] == 2
    assert asked["model"]["backbone"]["embed_dim"] == 24

    records = metrics(finished, without=())
    assert [record["epoch"] for record in records] == [1, 2]
    assert [record["steps"] for record in records] == [2, 4]
    for record in records:
        assert record.keys() >= {
            "train_loss", "train_perplexity", "val_loss", "val_perplexity", "val_teacher_forced_cer",
            "val_translation_cer", "lr", *TIMES,
        }  # fmt: skip
        for split in ("train", "val"):  # of the cross entropy without label smoothing, so near, but not the same
            assert record[f"{split}_perplexity"] == pytest.approx(np.exp(record[f"{split}_loss"]), rel=0.3)
            assert record[f"{split}_perplexity"] != pytest.approx(np.exp(record[f"{split}_loss"]), rel=1e-4)
        assert record["compilations"] == 3  # a micro-batch, the rest of a step, validation: once each
    assert records[1]["val_loss"] < records[0]["val_loss"]
    assert records[1]["lr"] == pytest.approx(5e-4)  # cosine, half way

    last = read_pt(finished / "last.pt")
    assert last["epoch"] == 2
    assert last["config"] == effective
    assert last["best_val"] == last["val_loss"] == records[1]["val_loss"]
    assert last["optimizer_state"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-12)  # of the epoch to come
    assert (finished / "tokenizer" / "tokenizer.json").exists()


def test_tensorboard(corpus, finished, tmp_path):
    assert main(corpus.flags(tmp_path / "run", "--tensorboard", str(tmp_path / "events"))) == 0
    written = b"".join(path.read_bytes() for path in (tmp_path / "events").iterdir())
    for tag in (
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "train/clips_per_second",
        "epoch/val_loss",
        "epoch/val_teacher_forced_cer",
        "CER, teacher forced (fraction)",
        "val/translations",
    ):
        assert tag.encode() in written, tag
    assert metrics(tmp_path / "run") == metrics(finished)  # looking on changes nothing


def test_torch_only_switches_say_so(corpus, finished, tmp_path, capsys):
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    assert main(corpus.flags(work_dir, "--resume", "--compile", "--compile-mode", "max", "--no-pin-memory")) == 0
    said = capsys.readouterr().out
    assert sum("no effect" in line for line in said.splitlines()) == 2


@pytest.mark.slow
def test_workers_change_nothing(corpus, finished, tmp_path):
    work_dir = tmp_path / "run"
    with start([SCRIPT], corpus.flags(work_dir, "--num-workers", "2")) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors == ""
    assert metrics(work_dir) == metrics(finished)


@pytest.mark.slow
def test_real_clips_train(corpus, finished, tmp_path):
    """The real clips as they lie in shared/: the loss falls over 30 epochs."""
    clips = ROOT.parent / "shared" / "real_clips"
    if not clips.exists():
        pytest.skip("the real clips are not here")
    processed = clips / "processed"
    arguments = corpus.flags(
        tmp_path / "run", face_dir=processed / "face", hand_left_dir=processed / "hand_l",
        hand_right_dir=processed / "hand_r", pose_dir=processed / "pose", metadata_csv=clips / "meta.csv",
        train_index=clips / "index" / "train.csv", val_index=clips / "index" / "val.csv", epochs=30, lr=5e-3,
        tokenizer=finished / "tokenizer",
    )  # fmt: skip
    assert main(arguments) == 0
    losses = [record["train_loss"] for record in metrics(tmp_path / "run")]
    assert len(losses) == 30
    assert losses[-1] < 0.8 * losses[0]


# --- a loss that is no number -------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run(corpus, finished, tmp_path, capsys):
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    before = {name: (work_dir / name).read_bytes() for name in ("last.pt", "best.pt", "metrics.jsonl")}
    capsys.readouterr()
    assert main(corpus.flags(work_dir, "--resume", epochs=4, lr=1e30)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "at step 6 (clips train_" in error
    assert {name: (work_dir / name).read_bytes() for name in before} == before
    store = StateStore(work_dir / "checkpoints", read_only=True)
    state, notes = store.restore()
    store.close()
    assert notes["position"]["epoch"] == 2
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(state))


def test_broken_weights_are_not_exported(corpus, tmp_path, capsys):
    """One step an epoch: the loss was a number, the weights after it are none, validation finds out."""
    work_dir = tmp_path / "run"
    assert main(corpus.flags(work_dir, grad_accum_steps=6, lr=1e30)) == 1
    error = capsys.readouterr().err
    assert "validation loss" in error
    assert "after step 1 (clips val_" in error
    assert not (work_dir / "last.pt").exists()


# --- starting from weights ----------------------------------------------------------------------------------------


class ReadyToTrain(Exception):
    """Raised where training would begin."""


@pytest.fixture
def stop_before_training(monkeypatch):
    def stop(*_, **__):
        raise ReadyToTrain

    monkeypatch.setattr(Run, "to_the_end", stop)


def test_init_checkpoint(corpus, finished, tmp_path):
    """All weights of a run, from its file or its folder, with its tokenizer; the optimiser begins anew."""
    runs = []
    for number, source in enumerate((finished / "best.pt", finished)):
        runs.append(tmp_path / str(number))
        assert main(corpus.flags(runs[-1], "--init-checkpoint", str(source), lr=1e-9, epochs=1)) == 0
    ours, theirs = read_pt(runs[0] / "last.pt")["model_state"], read_pt(finished / "best.pt")["model_state"]
    for key, array in theirs.items():
        np.testing.assert_allclose(ours[key], array, atol=1e-7, err_msg=key)
    assert metrics(runs[0])[0]["val_loss"] == pytest.approx(metrics(finished)[1]["val_loss"], rel=1e-6)
    assert metrics(runs[0]) == metrics(runs[1])
    vocabulary = (finished / "tokenizer" / "tokenizer.json").read_bytes()
    assert (runs[0] / "tokenizer" / "tokenizer.json").read_bytes() == vocabulary


@pytest.mark.parametrize("flag", ["--init-checkpoint", "--resume"])
def test_a_decoder_without_its_tokenizer_is_told(corpus, finished, tmp_path, capsys, stop_before_training, flag):
    lone, note = tmp_path / "lone.pt", "note: no tokenizer lies beside"
    shutil.copy(finished / "last.pt", lone)
    for source, more, told in ((lone, [], True), (lone, ["--tokenizer", str(finished / "tokenizer")], False),
                               (finished / "last.pt", [], False)):  # fmt: skip
        with pytest.raises(ReadyToTrain):
            main(corpus.flags(tmp_path / "run", flag, str(source), "--overwrite", *more, epochs=3))
        assert (f"{note} {lone}" in capsys.readouterr().out) == told


def test_init_checkpoint_takes_what_fits(corpus, finished, tmp_path, capsys, stop_before_training):
    with pytest.raises(ReadyToTrain):
        main(corpus.flags(tmp_path / "run", "--init-checkpoint", str(finished / "last.pt"), temporal_layers=2))
    keys = read_pt(finished / "last.pt")["model_state"].keys()
    new = sum("temporal.encoder.layers.0." in key for key in keys)
    assert f"{len(keys)} tensors taken, {new} new, 0 left out" in capsys.readouterr().out


@needs_goldens
def test_v9_weights_keep_v9s_hand_masks(corpus, tmp_path, capsys, stop_before_training):
    """v9 never showed its models a hand; going on with its weights does neither, unless asked to."""
    golden = Golden("t5_mlp")
    sizes = {key: golden.model[key] for key in (
        "image_size", "projector_dim", "d_model", "sequence_length", "temporal_nhead", "temporal_layers",
        "temporal_dim_feedforward", "decoder_layers", "decoder_heads", "projector_dropout",
    )} | {"set": f"model.backbone={json.dumps(golden.model['backbone'])}"}  # fmt: skip
    arguments = ["--init-checkpoint", str(golden.checkpoint)]
    for more, masked in (([], True), (["--no-v9-hand-masks"], False)):
        work_dir = tmp_path / str(masked)
        with pytest.raises(ReadyToTrain):
            main(corpus.flags(work_dir, *arguments, *more, **sizes))
        assert ("trained with v9's hand masks" in capsys.readouterr().out) == masked
        assert json.loads((work_dir / "config.json").read_text())["data"]["v9_hand_masks"] is masked


# --- using it from Python -----------------------------------------------------------------------------------------


def batch_for(model: ModelConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    frames = (2, model.sequence_length, model.image_size, model.image_size, 3)
    batch = {name: rng.integers(0, 255, frames, dtype=np.uint8) for name in ("face", "hand_l", "hand_r")}
    batch["pose"] = rng.random((2, model.sequence_length, 39), dtype=np.float32)
    return batch | {"labels": rng.integers(3, 200, (2, 8))}


def test_every_form_of_a_run_loads_alike(finished):
    forms = [slt_jax.load(path) for path in (finished / "last.pt", finished, finished / "checkpoints")]
    batch = batch_for(forms[0].config)
    first, *others = (translator.logits(batch) for translator in forms)
    assert np.isfinite(first).all()
    for logits in others:
        np.testing.assert_array_equal(logits, first)


def test_a_model_that_contradicts_the_file_shows_the_difference(finished):
    fields = json.loads((finished / "config.json").read_text())["model"]
    with pytest.raises(UserError) as caught:
        slt_jax.load(finished / "last.pt", model=fields | {"temporal_layers": 2, "sequence_length": 9})
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert str(finished / "last.pt") in lines[0]
    assert any(line.startswith("- encoder.temporal.encoder.layers.1.") for line in lines)
    assert "! encoder.positional.embedding.weight model [9, 32], file [4, 32]" in lines


# --- configuration ------------------------------------------------------------------------------------------------


def test_precedence(tmp_path):
    """Defaults, file, flags, --set: each later one wins; YAML's text numbers are numbers."""
    file = tmp_path / "config.yml"
    file.write_text(
        "optim: {optimizer: sgd, lr: 1e-3, weight_decay: 2e-2, momentum: 0.5, label_smoothing: 0.2}\ndata: {seed: 7}\n"
    )
    arguments = [
        "--config",
        str(file),
        "--weight-decay",
        "0.3",
        "--label-smoothing",
        "0.3",
        "--set",
        "optim.label_smoothing=0.4",
        "--set",
        "optim.scheduler=steplr",
    ]
    optim = config_of(*arguments).optim
    assert (optim.lr, optim.weight_decay, optim.label_smoothing) == (1e-3, 0.3, 0.4)
    assert (optim.momentum, optim.scheduler, optim.optimizer, optim.scheduler_gamma) == (0.5, "steplr", "sgd", 0.5)
    assert config_of(*arguments).data.seed == 7

    as_json = tmp_path / "config.json"
    as_json.write_text(json.dumps({"optim": {"lr": 0.5}, "model": None}))
    assert config_of("--config", str(as_json)).optim.lr == 0.5


def test_settings_are_json_or_text():
    config = config_of(
        "--set", 'model.freeze_face_backbone={"blocks": 3}', "--set", "model.hand_left_backbone.model=dinov2_vits14",
        "--set", "model.backbone.depth=2", "--set", "model.backbone.embed_dim=48", "--set", "data.tokenizer=a=b",
        "--set", "data.val_batch_size=null", "--set", "data.mix_streams.hand-left=0.5",
    )  # fmt: skip
    assert config.model.freeze_face_backbone == {"blocks": 3}
    assert config.model.hand_left_backbone == {"model": "dinov2_vits14"}
    assert config.model.backbone == {"depth": 2, "embed_dim": 48}
    assert config.data.tokenizer == "a=b"
    assert config.data.mix_streams == {"hand_l": 0.5}  # v9's aliases mean the same in a file


# Every flag of v9 with a value, the key it sets, and what it becomes.
FLAGS = """
face-dir f; hand-left-dir l; hand-right-dir r; pose-dir p; metadata-csv m.csv; train-index t.csv; val-index v.csv
work-dir w; num-workers 3; batch-size 6; val-batch-size 2; seed 5; device cpu; precision fp32; tensorboard tb
tokenizer tok; max-target-length 99; image-size 112; projector-dim 64; d-model 64; pose-landmarks 33
sequence-length 64; projector-dropout 0.2; fusion-dropout 0.3; temporal-nhead 4; temporal-layers 3
temporal-dim-feedforward 256; temporal-dropout 0.4; decoder-layers 1; decoder-heads 2; decoder-dropout 0.5
face-backbone a; hand-left-backbone b; hand-right-backbone c; decoder-config dc; optimizer sgd; epochs 9; lr 0.5
weight-decay 0.1; scheduler cosine; scheduler-step-size 2; scheduler-gamma 0.9; scheduler-tmax 7
label-smoothing 0.05; grad-accum-steps 4; compile-mode max; init-checkpoint x.pt
"""


def test_every_flag_of_v9():
    pairs = [pair.split() for pair in FLAGS.replace("\n", ";").split(";") if pair.strip()]
    switches = [
        "--no-pin-memory",
        "--freeze-face-backbone",
        "--freeze-hand-left-backbone",
        "--freeze-hand-right-backbone",
        "--compile",
        "--clip-grad-norm",
        "0.7",
        "--decoder-kwargs",
        '{"dropout_rate": 0.3}',
        "--mix-stream",
        "hl:0.5",
        "--mix-stream",
        "face",
    ]
    config = config_of(*(part for flag, value in pairs for part in (f"--{flag}", value)), *switches).to_dict()
    merged = {key: value for section in config.values() for key, value in section.items()}
    for flag, value in pairs:
        assert str(merged[flag.replace("-", "_")]) == value, flag
    assert merged["pin_memory"] is False
    assert merged["compile"] is merged["freeze_face_backbone"] is merged["freeze_hand_right_backbone"] is True
    assert merged["grad_clip_norm"] == 0.7
    assert merged["decoder_kwargs"] == {"dropout_rate": 0.3}
    assert merged["mix_streams"] == {"hand_l": 0.5, "face": 1.0}
    assert config_of("--no-compile", "--decoder-model", "m").model.decoder_model == "m"
    assert config_of("--decoder-class", "module:Class").model.decoder_class == "module:Class"
    assert config_of("--pin-memory").data.pin_memory is True
    assert config_of("--tensorboard", "--work-dir", "w").data.tensorboard == "w"
    assert config_of("--tensorboard", "events", "--work-dir", "w").data.tensorboard == "events"
    assert config_of("--optimizer", "AdamW").optim.optimizer == "adamw"
    assert hasattr(parse(["--resume"]), "resume")
    assert parse(["--resume", "somewhere"]).resume == "somewhere"


def test_v9s_template_is_read():
    config = config_of("--config", str(ROOT / "configs" / "single_signer.yml"))
    assert config.optim.scheduler == "cosine"
    assert Path(config.data.work_dir) == Path("work_dirs/single_signer_experiment")
    assert config.data.metadata_csv == "meta.csv"


def test_resume_wins_over_the_files_init_checkpoint(tmp_path):
    """Only the two flags exclude each other: a run begun with a file's init_checkpoint resumes by the same file."""
    file = tmp_path / "config.yml"
    file.write_text("training: {init_checkpoint: x.pt}\n")
    assert config_of("--config", str(file), "--resume").training.init_checkpoint == "x.pt"
