"""Glosses learned beside the text, from the command line to the files; the generated corpus has them."""

import json

import numpy as np
import pytest

import slt_jax
from convert import read_pt
from slt_jax.cli.train import main
from slt_jax.training import run
from slt_jax.training.state_store import open_checkpoint
from tests.cli.conftest import metrics

BOTH = ("--set", 'training.objectives={"translation": 1, "gloss_ctc": 0.3}')
SIZES = {"sequence_length": 8}  # frames enough for the glosses of most clips


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
    whole = slt_jax.load(signed / "last.pt")
    assert not any("gloss" in path for path in whole.params)
    states = open_checkpoint(signed / "checkpoints")
    assert states.state.keys() == last["model_state"].keys()


@pytest.mark.parametrize("from_file", [False, True], ids=["states", "pt"])
def test_a_run_with_glosses_goes_on(signed, corpus, tmp_path, monkeypatch, from_file):
    """From the states exactly; from last.pt after an epoch with the head's weights, whose optimiser begins anew."""
    work_dir = tmp_path / "run"
    flags = corpus.flags(work_dir, *BOTH, **SIZES)
    taken = run.Run.take_step

    def stop_in_the_second_epoch(self, *arguments):
        taken(self, *arguments)
        if self.position.epoch == 1:
            self.stop.number = 15

    monkeypatch.setattr(run.Run, "take_step", stop_in_the_second_epoch)
    assert main(flags) == 143
    monkeypatch.undo()
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
