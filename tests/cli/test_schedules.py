"""`max_steps`, warm-up, averaged weights and kept epochs, from the command line to the files."""

import json
import shutil
import warnings

import numpy as np
import pytest

import slt_jax
from convert import read_pt, write_pt
from convert.source import find_ties
from slt_jax.cli.average import main as average
from slt_jax.cli.convert import main as convert
from slt_jax.cli.train import main
from slt_jax.media.settings import ExtractionSettings
from slt_jax.serve.translate_video import read_model
from slt_jax.training import run
from tests.cli.conftest import metrics

# 11 clips in batches of 2 and groups of 4: an epoch is 2 steps, so the third step ends within the second epoch.
FLAGS = ("--scheduler", "linear", "--warmup-steps", "1", "--ema", "0.5", "--keep-epochs", "2", "--lr-backbone", "1e-4",
         "--optimizer", "adafactor")  # fmt: skip


@pytest.fixture(scope="module")
def averaged(corpus, tmp_path_factory):
    """The work-dir of three steps, of the four that two epochs have."""
    work_dir = tmp_path_factory.mktemp("averaged") / "run"
    assert main(corpus.flags(work_dir, *FLAGS, "--max-steps", "3", scheduler=None)) == 0
    return work_dir


def test_max_steps_end_a_run_as_an_epoch_does(averaged, capsys):
    records = metrics(averaged)
    assert [record["steps"] for record in records] == [2, 3]
    assert [record["lr"] for record in records] == pytest.approx([5e-4, 0.0])  # of the step to come: 1 of 2, none
    assert read_pt(averaged / "last.pt")["epoch"] == 2


def test_a_run_that_is_stopped_at_any_step_goes_on_exactly(averaged, corpus, tmp_path, monkeypatch):
    """The average and the last steps included: a signal after the first, the second and the third step."""
    work_dir = tmp_path / "run"
    flags = corpus.flags(work_dir, *FLAGS, "--max-steps", "3", scheduler=None)
    taken = run.Run.take_step

    def stop_after(self, *arguments):
        taken(self, *arguments)
        self.stop.number = 15

    monkeypatch.setattr(run.Run, "take_step", stop_after)
    for resume in ([], ["--resume"], ["--resume"]):
        assert main([*flags, *resume]) == 143
    monkeypatch.undo()
    assert main([*flags, "--resume"]) == 0
    assert metrics(work_dir) == metrics(averaged)
    for name in ("last.pt", "best.pt", "epoch-0001.pt", "epoch-0002.pt"):
        assert_same_weights(read_pt(work_dir / name), read_pt(averaged / name))


def assert_same_weights(ours: dict, theirs: dict) -> None:
    for state in ("model_state", "ema_state"):
        assert ours.get(state, {}).keys() == theirs.get(state, {}).keys()
        for key, array in theirs.get(state, {}).items():
            np.testing.assert_array_equal(ours[state][key], array, err_msg=key)


def test_the_average_is_validated_written_as_best_and_read_back(averaged, corpus, tmp_path):
    """The second epoch is the best: best.pt holds the average that last.pt keeps beside its weights."""
    last, best = read_pt(averaged / "last.pt"), read_pt(averaged / "best.pt")
    assert best["epoch"] == 2
    moved = 0
    for key, array in last["ema_state"].items():
        np.testing.assert_array_equal(best["model_state"][key], array)
        moved += not np.array_equal(array, last["model_state"][key])
    assert moved > 0.9 * len(last["ema_state"])

    # --resume of the .pt goes on with that average, which comes nearer to weights that stand still.
    work_dir = tmp_path / "run"
    shutil.copytree(averaged / "tokenizer", work_dir / "tokenizer")
    flags = corpus.flags(work_dir, *FLAGS, "--lr", "1e-12", "--lr-backbone", "1e-13", epochs=3, scheduler=None)
    assert main([*flags, "--resume", str(averaged / "last.pt")]) == 0
    after = read_pt(work_dir / "last.pt")
    for key, array in last["ema_state"].items():
        start, steps = last["model_state"][key], after["ema_state"][key]
        assert np.all(np.abs(steps - start) <= np.abs(array - start) + 1e-7), key
        assert np.abs(steps - array).max() < np.abs(start - array).max() + 1e-7, key


@pytest.mark.parametrize(
    ("name", "told"),
    [("last.pt", True), ("epoch-0001.pt", True), ("checkpoints", True), ("best.pt", False), (".", False)],
)
def test_who_uses_weights_as_trained_is_told_of_their_average(averaged, name, told):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        slt_jax.load(averaged / name)
    for notes in (read_model(averaged / name).check(ExtractionSettings()), [str(w.message) for w in warned]):
        assert any("has weights as trained; best.pt has their average (--ema)" in note for note in notes) == told


@pytest.mark.parametrize(("name", "told"), [("last.pt", True), ("best.pt", False)])
def test_who_trains_on_from_weights_as_trained_is_told_of_their_average(
    averaged, corpus, tmp_path, capsys, monkeypatch, name, told
):
    monkeypatch.setattr(run.Run, "to_the_end", lambda self: None)
    main(corpus.flags(tmp_path / "run", "--init-checkpoint", str(averaged / name)))
    note = "note: --init-checkpoint: " + str(averaged / name) + " has weights as trained; best.pt has their average"
    assert (note in capsys.readouterr().out) == told


def test_kept_epochs_are_averaged(averaged, tmp_path, capsys):
    output = tmp_path / "mean.pt"
    assert average([str(averaged), "--output", str(output)]) == 0
    assert "epoch-0001.pt, epoch-0002.pt" in capsys.readouterr().out
    one, two, mean = (read_pt(path) for path in (averaged / "epoch-0001.pt", averaged / "epoch-0002.pt", output))
    for key, array in mean["model_state"].items():
        expected = (one["model_state"][key].astype(np.float64) + two["model_state"][key]) / 2
        np.testing.assert_array_equal(array, expected.astype(array.dtype), err_msg=key)
    assert find_ties(mean["model_state"]) == find_ties(two["model_state"]) != {}
    assert "optimizer_state" not in mean
    assert mean["config"] == two["config"]


def test_what_cannot_be_averaged_is_one_line(averaged, tmp_path, capsys):
    other = tmp_path / "other.pt"
    write_pt(other, {"model_state": {"w": np.zeros(3, np.float32)}})
    foreign = tmp_path / "foreign"  # of other texts: the same weights mean other words
    shutil.copytree(averaged / "tokenizer", foreign / "tokenizer")
    shutil.copy(averaged / "last.pt", foreign)
    written = json.loads((foreign / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    written["model"]["vocab"] = list(reversed(written["model"]["vocab"]))
    (foreign / "tokenizer" / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    for arguments, said in (
        ([averaged, "--last", "3"], "--last 3: "),
        ([tmp_path], "keeps fewer than 2 epoch-N.pt files"),
        ([averaged / "last.pt", other], "average checkpoints of one model"),
        ([averaged / "last.pt", foreign / "last.pt"], "have different tokenizers beside them"),
        ([averaged / "last.pt", averaged / "no.pt"], "no such file"),
        ([other, other, "--last", "2"], "--last 2: is about one work-dir"),
    ):
        assert average([*map(str, arguments), "--output", str(tmp_path / "mean.pt")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert average([str(other), str(averaged / "last.pt"), "--output", str(other)]) == 2
    assert "is one of the checkpoints" in capsys.readouterr().err


def test_groups_of_a_run_whose_rates_have_come_to_0_are_written_as_they_are(averaged, tmp_path):
    assert convert(["to-torch", str(averaged / "last.pt"), str(tmp_path / "out.pt")]) == 0
    before, after = (
        read_pt(path)["optimizer_state"]["param_groups"] for path in (averaged / "last.pt", tmp_path / "out.pt")
    )
    assert after == before
    assert [group["lr"] for group in after] == [0, 0]
