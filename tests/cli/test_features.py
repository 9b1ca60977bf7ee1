"""Training from features of frozen backbones is training from images."""

import os
import signal
from pathlib import Path

import pytest

from slt_jax.cli.train import main
from slt_jax.data.feature_cache import Features
from tests.cli.conftest import metrics
from tests.cli.test_resume import assert_same_run, signal_when

FROZEN = ("--freeze-face-backbone", "--freeze-hand-left-backbone", "--freeze-hand-right-backbone")


@pytest.fixture(scope="module")
def cached(corpus, tmp_path_factory) -> Path:
    """The work-dir of a run that nothing disturbed, features in it. Not to be changed."""
    work_dir = tmp_path_factory.mktemp("cached") / "run"
    assert main(corpus.flags(work_dir, *FROZEN)) == 0
    return work_dir


def test_losses_are_those_of_images(corpus, cached, tmp_path):
    assert len(list((cached / "features").glob("*/plain/*/*"))) == 14
    assert len(list((cached / "features").glob("*/mirrored/*/*"))) == 11
    assert main(corpus.flags(tmp_path / "run", *FROZEN, feature_cache="none")) == 0
    assert not (tmp_path / "run" / "features").exists()
    for ours, theirs in zip(metrics(cached), metrics(tmp_path / "run"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_resuming_is_exact(corpus, cached, tmp_path, monkeypatch, capsys):
    work_dir, shared = tmp_path / "run", cached / "features"
    with monkeypatch.context() as patch:
        signal_when(patch, "step", 3, signal.SIGTERM)
        assert main(corpus.flags(work_dir, *FROZEN, feature_cache=shared)) == 128 + signal.SIGTERM
    assert main(corpus.flags(work_dir, *FROZEN, "--resume", feature_cache=shared)) == 0
    said = capsys.readouterr().out
    assert said.count(f"features of 14 clips are in {shared}\n") == 2
    assert "memory: " not in said  # no step with images is looked at
    assert_same_run(work_dir, cached)


def test_a_signal_while_features_are_computed(corpus, cached, tmp_path, monkeypatch, capsys):
    work_dir = tmp_path / "run"
    write, written = Features.write, []

    def write_and_stop(*args):
        write(*args)
        written.append(args)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Features, "write", write_and_stop)
        assert main(corpus.flags(work_dir, *FROZEN)) == 128 + signal.SIGTERM
    assert main(corpus.flags(work_dir, *FROZEN)) == 0
    announced = [line for line in capsys.readouterr().out.splitlines() if "features of" in line]
    found = [int(line.split()[4]) for line in announced]
    assert found[0] == 0
    assert 0 < found[1] < 13
    assert_same_run(work_dir, cached)


def test_a_folder_for_backbones_that_train_is_a_mistake(corpus, tmp_path, capsys):
    assert main(corpus.flags(tmp_path / "run", *FROZEN[1:], feature_cache=tmp_path / "features")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--feature-cache" in line
    assert "--freeze-face-backbone" in line
