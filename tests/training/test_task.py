"""The loop trains any task: one that a test defines, stopped anywhere, on one device and on eight."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slt_jax.training import run
from slt_jax.training.run import Interrupted
from tests.training.toy_task import train

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("seconds", "clips_per_second", "data_wait_seconds", "compilations")
# Trains with each of the arguments from standard input, and saves after every step.
RUNS = """
import json, sys
from slt_jax.training import run
from tests.training.toy_task import train
run.SAVE_SECONDS = 0
for folder, kill, more in json.load(sys.stdin):
    try:
        train(folder, kill and tuple(kill), **more)
    except run.Interrupted as stopped:
        print("stopped by", stopped)
"""


def results(folder: Path) -> dict:
    """What a run leaves, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    files = {path.name: path.read_text() for path in folder.glob("*.json")}
    return {"metrics": [{k: v for k, v in line.items() if k not in TIMES} for line in lines], **files}


def elsewhere(*runs: tuple[str, tuple[int, int, int] | None, dict], devices: int = 1) -> subprocess.CompletedProcess:
    """Runs in a process of their own."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags}
    return subprocess.run(
        [sys.executable, "-c", RUNS], input=json.dumps(runs), capture_output=True, text=True, cwd=ROOT, env=environment
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "finished"
    train(str(folder))
    return folder


def test_it_learns_and_its_teacher_follows(finished):
    metrics = results(finished)["metrics"]
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert metrics[-1]["val_loss"] < metrics[0]["val_loss"]
    assert metrics[-1]["pull"] > 0
    best = json.loads((finished / "best.json").read_text())
    assert not np.array_equal(best["w"]["back.kernel"], best["t"]["back.kernel"])


@pytest.mark.parametrize("place", [(0, 0), (1, 3), (2, 5)], ids=["first batch", "in a group", "last batch"])
def test_a_signal_saves_and_the_resumed_run_is_exact(finished, tmp_path, place):
    folder = str(tmp_path / "run")
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(folder, (*place, signal.SIGTERM))
    train(folder)
    assert results(tmp_path / "run") == results(finished)


def test_a_kill_loses_nothing(finished, tmp_path):
    folder = str(tmp_path / "run")
    killed = elsewhere((folder, (1, 4, signal.SIGKILL), {}))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    train(folder)
    assert results(tmp_path / "run") == results(finished)


def test_a_kill_between_an_epochs_state_and_its_files_loses_nothing(finished, tmp_path, monkeypatch):
    """The state is the commit: the next process writes the files that are missing, and no epoch is trained twice."""

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    folder = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "publish", die)
        with pytest.raises(Killed):
            train(folder)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    train(folder)
    assert results(tmp_path / "run") == results(finished)


@pytest.mark.slow
def test_eight_devices_train_like_one(finished, tmp_path):
    """Whole, stopped and killed, with the parameters on each device and split over them."""
    runs, rest = {}, []
    for sharding in ("replicated", "fsdp"):
        runs[sharding] = whole, stopped, killed = [tmp_path / f"{sharding} {how}" for how in ("", "stopped", "killed")]
        more = {"sharding": sharding}
        first = elsewhere((str(killed), (2, 2, signal.SIGKILL), more), devices=8)
        assert first.returncode == -signal.SIGKILL, first.stderr
        rest += [(str(whole), None, more), (str(stopped), (0, 3, signal.SIGTERM), more)]
        rest += [(str(stopped), None, more), (str(killed), None, more)]
    second = elsewhere(*rest, devices=8)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("stopped by SIGTERM") == 2
    for whole, stopped, killed in runs.values():
        assert results(stopped) == results(killed) == results(whole)
        for one, other in zip(results(whole)["metrics"], results(finished)["metrics"], strict=True):
            assert one == pytest.approx(other, rel=1e-5)
