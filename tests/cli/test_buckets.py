"""Training with buckets of length: a program a bucket, and a run that is stopped goes on as if it had not been."""

import json
import signal

import pytest

from slt_jax.cli.train import main
from tests.cli.conftest import metrics
from tests.cli.test_resume import assert_same_run, signal_when

BUCKETS = ("--buckets", "5")


@pytest.mark.slow
def test_buckets_compile_once_each_and_resume(corpus, tmp_path, monkeypatch, capsys):
    work_dir, stopped = tmp_path / "run", tmp_path / "stopped"
    assert main(corpus.flags(work_dir, *BUCKETS, sequence_length=6)) == 0
    said = capsys.readouterr().out
    assert "training clips by the frames they are padded to: {5: " in said, said
    counts = [json.loads(line)["compilations"] for line in (work_dir / "metrics.jsonl").read_text().splitlines()]
    assert counts[0] == counts[1], "the second epoch compiles nothing"
    assert json.loads((work_dir / "config.json").read_text())["data"]["buckets"] == [5]

    with monkeypatch.context() as patch:
        signal_when(patch, "step", 3, signal.SIGTERM)
        assert main(corpus.flags(stopped, *BUCKETS, sequence_length=6)) == 128 + signal.SIGTERM
    assert main(corpus.flags(stopped, "--resume", *BUCKETS, sequence_length=6)) == 0
    assert_same_run(stopped, work_dir)
    assert len(metrics(work_dir)) == 2
