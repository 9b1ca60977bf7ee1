"""Glosses learned beside the text, from the command line to the files; the generated corpus has them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import slt_jax
from convert import read_pt
from slt_jax.cli.train import main
from slt_jax.config import TrainingConfig
from slt_jax.training import run
from slt_jax.training.earlier import Earlier
from slt_jax.training.state_store import open_checkpoint
from tests.cli.conftest import metrics

BOTH = ("--set", 'training.objectives={"translation": 1, "gloss_ctc": 0.3}', "--ema", "0.5")
SIZES = {"sequence_length": 8}  # frames enough for the glosses of most clips


def stop_in(epoch: int, flags: list[str]) -> None:
    """Train, and stop after the first step of an epoch as on SIGTERM."""
    taken = run.Run.take_step

    def take_step(self, *arguments):
        taken(self, *arguments)
        if self.position.epoch == epoch - 1:
            self.stop.number = 15

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "take_step", take_step)
        assert main(flags) == 143


@pytest.fixture(scope="module")
def signed(corpus, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("signed") / "run"
    assert main(corpus.flags(work_dir, *BOTH, **SIZES)) == 0
    return work_dir


def test_glosses_are_learned_and_kept_apart(signed):
    records = metrics(signed)
    assert records[1]["train_gloss_ctc"] < records[0]["train_gloss_ctc"]
    assert 0 < records[1]["val_gloss_wer"] <= 2
    last = read_pt(signed / "last.pt")
    assert last["gloss_state"]["gloss_head.weight"].shape == (2 + len(last["glosses"]), 32)
    assert not any(key.startswith("gloss") for key in last["model_state"])
    assert "MATE" in " ".join(last["glosses"])
    # What translates knows no head, from the file and from the states.
    whole = slt_jax.load(signed / "best.pt")
    assert not any("gloss" in path for path in whole.params)
    states = open_checkpoint(signed / "checkpoints")
    assert states.state.keys() == last["model_state"].keys()


@pytest.fixture(scope="module")
def stopped(corpus, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("stopped") / "run"
    stop_in(2, corpus.flags(work_dir, *BOTH, **SIZES))
    return work_dir


@pytest.mark.parametrize("from_file", [False, True], ids=["states", "pt"])
def test_a_run_with_glosses_goes_on(signed, stopped, corpus, tmp_path, from_file):
    """From the states exactly; from last.pt after an epoch with the head's weights, whose optimiser and average begin
    anew."""
    work_dir = tmp_path / "run"
    shutil.copytree(stopped, work_dir)
    flags = corpus.flags(work_dir, *BOTH, **SIZES)
    resumed = ["--resume", str(work_dir / "last.pt")] if from_file else ["--resume"]
    assert main([*flags, *resumed]) == 0
    ours, theirs = metrics(work_dir), metrics(signed)
    if from_file:
        assert ours[1]["train_gloss_ctc"] == pytest.approx(theirs[1]["train_gloss_ctc"], rel=0.05)
        assert ours[1]["val_loss"] == pytest.approx(theirs[1]["val_loss"], rel=0.05)
    else:
        assert ours == theirs
        a, b = (read_pt(path / "last.pt") for path in (work_dir, signed))
        for key, array in b["gloss_state"].items():
            np.testing.assert_array_equal(a["gloss_state"][key], array)


def test_states_go_on_for_no_other_objectives(signed, corpus, capsys):
    assert main([*corpus.flags(signed, **SIZES), "--resume"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert 'was trained with --ema 0.5 and with --objectives \'{"translation": 1, "gloss_ctc": 0.3}\'' in line
    assert "go on from a .pt of that run" in line


@pytest.mark.parametrize(
    ("saved", "now", "told"),
    [
        ({"ema": 0.9}, {}, "was trained with --ema 0.9, and this run is not"),
        ({"ema": 0.9}, {"ema": 0.5}, None),
        ({}, {"ema": 0.5}, "was trained without --ema"),
        ({"objectives": {"translation": 1}}, {}, None),
        ({"objectives": {"contrastive": 1}}, {}, """was trained with --objectives '{"contrastive": 1}'"""),
        ({"objectives": {}}, {"objectives": {"translation": 1, "gloss_ctc": 1}}, "was trained without --objectives"),
        ({"objectives": {"gloss_ctc": 1}}, {"objectives": {"gloss_ctc": 0.3}}, None),
        (None, {"ema": 0.5}, None),  # v9's
    ],
)
def test_a_file_goes_on_for_other_objectives_and_it_is_told(saved, now, told, capsys):
    Earlier(Path("last.pt"), {"training": saved}, None, None, None).tell_objectives(TrainingConfig(**now))
    assert told in capsys.readouterr().out if told else not capsys.readouterr().out


def test_other_weights_of_the_head_than_none_are_used(signed, corpus, tmp_path):
    """--init-checkpoint takes the head and its glosses; translation alone leaves both out."""
    work_dir = tmp_path / "run"
    flags = corpus.flags(work_dir, *BOTH, "--init-checkpoint", str(signed / "last.pt"), lr=1e-12, epochs=1, **SIZES)
    assert main(flags) == 0
    before, after = (read_pt(path / "last.pt") for path in (signed, work_dir))
    for key, array in before["gloss_state"].items():
        np.testing.assert_allclose(after["gloss_state"][key], array, atol=1e-6)
    alone = tmp_path / "alone"
    flags = corpus.flags(alone, "--init-checkpoint", str(signed / "last.pt"), lr=1e-12, epochs=1, **SIZES)
    assert main(flags) == 0
    assert "gloss_state" not in read_pt(alone / "last.pt")
    assert "val_gloss_wer" not in json.loads((alone / "metrics.jsonl").read_text().splitlines()[0])


def test_a_bias_of_the_head_is_a_vector_too(signed, corpus, tmp_path):
    """Where only matrices decay, it does not, though its weights do."""
    work_dir = tmp_path / "run"
    tiny = '{"translation": 1, "gloss_ctc": 1e-9}'  # nothing but the decay moves the head
    flags = corpus.flags(work_dir, "--objectives", tiny, "--init-checkpoint", str(signed / "last.pt"),
                         "--optimizer", "sgd", "--decay-only-matrices", lr=1e-6, weight_decay=1e5, epochs=1,
                         **SIZES)  # fmt: skip
    assert main(flags) == 0
    before, after = (read_pt(path / "last.pt")["gloss_state"] for path in (signed, work_dir))
    assert np.abs(after["gloss_head.weight"]).max() < 0.95 * np.abs(before["gloss_head.weight"]).max()
    np.testing.assert_allclose(after["gloss_head.bias"], before["gloss_head.bias"], rtol=1e-5)


ALONE = ("--set", 'training.objectives={"contrastive": 1}')
ALIGNED = SIZES | {"batch_size": 4, "grad_accum_steps": 1, "epochs": 4, "lr": 3e-3}
BESIDE = ("--set", 'training.objectives={"translation": 1, "contrastive": 0.5}')


@pytest.fixture(scope="module")
def aligned(corpus, tmp_path_factory):
    """Pre-trained without glosses, in batches of four."""
    work_dir = tmp_path_factory.mktemp("aligned") / "run"
    flags = corpus.flags(work_dir, *ALONE, "--eval-bleu-every", "1", **ALIGNED)
    assert main(flags) == 0
    return work_dir


def test_videos_are_brought_near_their_sentences(aligned):
    records = metrics(aligned)
    assert records[-1]["train_contrastive"] < records[0]["train_contrastive"]
    assert records[0].keys() == {
        "epoch", "train_loss", "train_contrastive", "train_contrastive_accuracy", "val_loss", "val_contrastive",
        "val_contrastive_accuracy", "lr", "steps",
    }  # fmt: skip
    assert records[0]["val_loss"] == records[0]["val_contrastive"]
    last = read_pt(aligned / "last.pt")
    assert last["contrastive_state"]["contrastive_head.video.weight"].shape == (32, 32)
    assert 0 < last["contrastive_state"]["contrastive_head.logit_scale"] <= np.log(100)
    assert not any("contrastive" in key for key in last["model_state"])
    with pytest.warns(UserWarning, match="last.pt was trained to align videos with texts"):
        slt_jax.load(aligned / "last.pt")
    states = open_checkpoint(aligned / "checkpoints")
    assert states.state.keys() == last["model_state"].keys()


def test_without_translation_only_the_decoder_stands_still(aligned, corpus, tmp_path):
    """Not even weight decay moves it; what it shares with the text encoder learns."""
    new = tmp_path / "new"
    assert main(corpus.flags(new, *ALONE, **ALIGNED | {"epochs": 1, "lr": 0})) == 0
    before, after = (read_pt(path / "last.pt")["model_state"] for path in (new, aligned))
    still = {key for key, array in before.items() if np.array_equal(array, after[key])}
    assert all(key.startswith("decoder.model.decoder.") or key.endswith("mask_token") for key in still), still
    own = {key for key in before if key.startswith("decoder.model.decoder.") and "embed_tokens" not in key}
    assert own <= still
    assert not any("shared" in key or "embed_tokens" in key for key in still)


def test_translation_begins_with_what_was_aligned(aligned, corpus, tmp_path):
    """All weights are taken; beside translation the head goes on as well."""
    work_dir = tmp_path / "run"
    start = ("--init-checkpoint", str(aligned / "last.pt"))
    assert main(corpus.flags(work_dir, *BESIDE, *start, lr=1e-12, epochs=1, **SIZES)) == 0
    before, after = (read_pt(path / "last.pt") for path in (aligned, work_dir))
    for part in ("model_state", "contrastive_state"):
        for key, array in before[part].items():
            np.testing.assert_allclose(after[part][key], array, atol=1e-6, err_msg=key)
    record = metrics(work_dir)[0]
    assert record["train_loss"] > record["train_contrastive"] > 0
    assert {"val_contrastive", "val_translation_cer", "train_perplexity"} <= record.keys()
    slt_jax.load(work_dir / "last.pt")


def test_a_run_that_aligns_goes_on_exactly(aligned, corpus, tmp_path):
    work_dir = tmp_path / "run"
    flags = corpus.flags(work_dir, *ALONE, **ALIGNED)
    stop_in(4, flags)
    assert main([*flags, "--resume"]) == 0
    assert metrics(work_dir) == metrics(aligned)
    a, b = (read_pt(path / "last.pt") for path in (work_dir, aligned))
    for part in ("model_state", "contrastive_state"):
        for key, array in b[part].items():
            np.testing.assert_array_equal(a[part][key], array, err_msg=key)


def test_a_file_goes_on_with_the_head_and_the_state_of_the_text_encoder(aligned, corpus, tmp_path):
    """Only the head's optimiser begins anew."""
    resumed = ("--resume", str(aligned / "last.pt"))
    assert main(corpus.flags(tmp_path / "run", *ALONE, *resumed, **ALIGNED | {"epochs": 5, "lr": 1e-12})) == 0
    (ours,), theirs = metrics(tmp_path / "run")[-1:], metrics(aligned)[-1]
    assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-5)
    assert ours["steps"] == 5 * theirs["steps"] / 4
    a, b = (read_pt(path / "last.pt")["optimizer_state"]["state"] for path in (tmp_path / "run", aligned))
    assert a.keys() == b.keys()
    assert {float(slots["step"]) for slots in a.values()} == {ours["steps"]}


SMALLER = {"d_model": 16, "temporal_nhead": 2, "decoder_heads": 2, "streams": "face,pose", "mix_stream": None,
           "grad_accum_steps": 1, "lr": 5e-3}  # fmt: skip


def taught(corpus, teacher, work_dir, *more, weights='{"translation": 1, "distillation": 2}', **changed):
    given = ("--teacher", str(teacher), "--set", f"training.objectives={weights}")
    return corpus.flags(work_dir, *given, *more, **changed)


@pytest.fixture(scope="module")
def distilled(corpus, finished, tmp_path_factory):
    """A student of other streams and another width than its teacher's."""
    work_dir = tmp_path_factory.mktemp("distilled") / "run"
    assert main(taught(corpus, finished, work_dir, **SMALLER)) == 0
    return work_dir


def test_a_smaller_student_learns_what_its_teacher_expects(distilled):
    records = metrics(distilled)
    assert records[1]["train_distillation"] < records[0]["train_distillation"]
    assert records[0]["train_loss"] > 2 * records[0]["train_distillation"]
    assert {"val_loss", "val_translation_cer", "train_perplexity"} <= records[0].keys()
    last = read_pt(distilled / "last.pt")
    assert not any("hand" in key for key in last["model_state"])
    assert slt_jax.load(distilled / "last.pt").config.d_model == 16


def test_what_was_only_aligned_teaches_nothing(aligned, corpus, tmp_path, capsys):
    assert main(taught(corpus, aligned / "last.pt", tmp_path / "run")) == 2
    assert f"{aligned / 'last.pt'} was trained to align videos with texts, not to translate" in capsys.readouterr().err


def test_a_run_with_a_teacher_goes_on_exactly(distilled, corpus, finished, tmp_path):
    flags = taught(corpus, finished, tmp_path / "run", **SMALLER)
    stop_in(2, flags)
    assert main([*flags, "--resume"]) == 0
    assert metrics(tmp_path / "run") == metrics(distilled)
    a, b = (read_pt(path / "last.pt")["model_state"] for path in (tmp_path / "run", distilled))
    for key, array in b.items():
        np.testing.assert_array_equal(a[key], array, err_msg=key)


def test_a_model_is_its_own_perfect_teacher(corpus, finished, tmp_path):
    """Without dropout and smoothing, from its weights: teacher and student see the same frames and tokens."""
    still = dict.fromkeys(("fusion_dropout", "temporal_dropout", "decoder_dropout"), 0) | {"projector_dropout": 1e-9}
    same = {"lr": 1e-12, "epochs": 1, "label_smoothing": 0, "init_checkpoint": finished}
    assert main(taught(corpus, finished, tmp_path / "run", weights='{"distillation": 1}', **still, **same)) == 0
    record = metrics(tmp_path / "run")[0]
    assert record["train_distillation"] == record["train_loss"] == pytest.approx(0, abs=1e-6)
    assert record["val_loss"] > 1
