"""A run that is stopped anywhere and resumed is the run that was never stopped, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from convert import read_pt
from slt_jax.cli.train import main
from slt_jax.training.program import Program
from slt_jax.training.run import Run
from slt_jax.training.state_store import StateStore
from slt_jax.training.workdir import state_folder
from tests.cli.conftest import SCRIPT, metrics, start


def same(a, b) -> bool:
    """Equal containers with bitwise equal arrays."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def assert_same_run(work_dir: Path, finished: Path) -> None:
    assert metrics(work_dir) == metrics(finished)
    for name in ("last.pt", "best.pt"):
        ours, theirs = read_pt(work_dir / name), read_pt(finished / name)
        assert ours.pop("config")["model"] == theirs.pop("config")["model"]
        assert same(ours, theirs), name


def signal_when(monkeypatch, name: str, call: int, number: int) -> None:
    """Send this process a signal at the `call`-th `step` or `evaluate` of the run's program."""
    original, calls = getattr(Program, name), 0

    def counted(*args):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return original(*args)

    monkeypatch.setattr(Program, name, counted)


@pytest.mark.parametrize(
    ("function", "call", "number"),
    [("step", 1, signal.SIGTERM), ("step", 4, signal.SIGINT), ("evaluate", 1, signal.SIGTERM)],
    ids=["first step", "last step", "validation"],
)
def test_a_signal_saves_and_the_resumed_run_is_exact(
    corpus, finished, tmp_path, monkeypatch, capsys, function, call, number
):
    work_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_when(patch, function, call, number)
        assert main(corpus.flags(work_dir)) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"slt-train: {number.name}: the state is saved")
    assert main(corpus.flags(work_dir, "--resume")) == 0
    assert "resuming from" in capsys.readouterr().out
    assert_same_run(work_dir, finished)


def test_last_pt_alone_resumes_exactly(corpus, finished, tmp_path, monkeypatch):
    """Weights, optimiser state, schedule, dropout and best_val all come from the exchange file."""
    work_dir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with monkeypatch.context() as patch:
        signal_when(patch, "step", 3, signal.SIGTERM)  # in the second epoch; last.pt is of the first
        assert main(corpus.flags(work_dir)) == 128 + signal.SIGTERM
    shutil.rmtree(work_dir / "checkpoints")
    shutil.copy(work_dir / "last.pt", tmp_path / "given.pt")

    assert main(corpus.flags(work_dir, "--resume")) == 0
    assert_same_run(work_dir, finished)

    assert main(corpus.flags(elsewhere, "--resume", str(tmp_path / "given.pt"))) == 0
    assert metrics(elsewhere) == metrics(finished)[1:]
    assert same(read_pt(elsewhere / "last.pt")["optimizer_state"], read_pt(finished / "last.pt")["optimizer_state"])


def test_a_run_that_saved_nothing_begins_again(corpus, finished, tmp_path, monkeypatch, capsys):
    work_dir = tmp_path / "run"

    def fail(*_):
        raise MemoryError("the machine went down")

    with monkeypatch.context() as patch:
        patch.setattr(Program, "step", fail)
        with pytest.raises(MemoryError):
            main(corpus.flags(work_dir))
    assert main(corpus.flags(work_dir, "--resume")) == 0
    assert "no saved state yet" in capsys.readouterr().out
    assert_same_run(work_dir, finished)


# --- SIGKILL ------------------------------------------------------------------------------------------------------

SAVES_EVERY_STEP = """
import sys
from slt_jax.cli.train import main
from slt_jax.training import run
run.SAVE_SECONDS = 0
sys.exit(main())
"""


def wait_for(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_run_holds_its_folder_until_it_is_killed_and_then_resumes_exactly(corpus, finished, tmp_path, capsys):
    work_dir, killed = tmp_path / "run", tmp_path / "killed"
    with start(["-c", SAVES_EVERY_STEP], corpus.flags(work_dir)) as process:
        try:
            wait_for((work_dir / "checkpoints" / "1").exists, process)
            process.send_signal(signal.SIGSTOP)  # two runs do not share a folder, and this one must not end meanwhile
            assert main(corpus.flags(work_dir, "--resume")) == 2
            assert f"--work-dir {work_dir}: another run is writing there" in capsys.readouterr().err
            assert main(corpus.flags(work_dir, "--overwrite")) == 2
            assert (work_dir / "checkpoints" / "1").exists()
        finally:
            process.kill()
    shutil.copytree(work_dir, killed)
    assert main(corpus.flags(work_dir, "--resume")) == 0  # the kernel let go of it
    assert_same_run(work_dir, finished)
    assert main(corpus.flags(killed, "--overwrite", epochs=1)) == 0
    assert metrics(killed)[0]["train_loss"] > 0


def test_the_command_stops_on_sigterm(corpus, tmp_path):
    """The same through the real script: the exit code, the last line, and what it leaves."""
    work_dir = tmp_path / "run"
    with start([SCRIPT], corpus.flags(work_dir, epochs=200)) as process:
        try:
            wait_for((work_dir / "last.pt").exists, process)
            process.terminate()
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1].startswith("slt-train: SIGTERM: the state is saved")
    assert state_folder(work_dir)


def test_sigterm_to_all_processes_saves_as_sigterm_to_the_first(corpus, tmp_path):
    """As SLURM and `docker stop` send it: the data workers get it too, and must not end before the run has saved."""
    work_dir = tmp_path / "run"
    with start([SCRIPT], corpus.flags(work_dir, epochs=200, num_workers=2), start_new_session=True) as process:
        try:
            wait_for((work_dir / "last.pt").exists, process)
            os.killpg(process.pid, signal.SIGTERM)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors.splitlines()[-1].startswith("slt-train: SIGTERM: the state is saved")
    assert state_folder(work_dir)


# Writes a state and a .pt, all their numbers equal, again and again.
WRITER = """
import sys
from pathlib import Path
import jax.numpy as jnp
import numpy as np
from convert import write_pt
from slt_jax.training.state_store import StateStore

folder, store = Path(sys.argv[1]), StateStore(Path(sys.argv[1]) / "checkpoints")
for number in range(1, 10_000):
    store.save({"trained": {str(n): jnp.full(1 << 18, number, jnp.float32) for n in range(4)}}, {"number": number})
    write_pt(folder / "last.pt", {str(n): np.full(1 << 18, number, np.float32) for n in range(4)})
"""


@pytest.mark.parametrize("delay", [0.02, 0.1])
def test_a_kill_while_writing_leaves_whole_files(tmp_path, delay):
    with start(["-c", WRITER], [str(tmp_path)]) as writer:
        try:
            wait_for(lambda: (tmp_path / "last.pt").exists() and state_folder(tmp_path), writer)
            time.sleep(delay)
        finally:
            writer.kill()

    last = read_pt(tmp_path / "last.pt")
    assert len({float(value) for array in last.values() for value in np.unique(array)}) == 1

    store = StateStore(tmp_path / "checkpoints", read_only=True)
    state, notes = store.restore()
    assert {float(v) for array in state["trained"].values() for v in np.unique(array)} == {notes["number"]}
    store.close()
    again = StateStore(tmp_path / "checkpoints")  # what the killed writer left does not disturb the next
    again.save(state, {"number": -1})
    again.wait()
    assert again.notes() == {"number": -1}
    again.close()


# --- what --resume means ------------------------------------------------------------------------------------------


def test_v9_masks_stay_when_resumed(corpus, finished, tmp_path):
    """A run that began with a v9 file keeps its hand masks, though the resuming command does not name the file."""
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    store = StateStore(work_dir / "checkpoints")
    state, notes = store.restore()
    notes["config"]["data"]["v9_hand_masks"] = True
    store.save(state, notes)
    store.close()
    assert main(corpus.flags(work_dir, "--resume")) == 0
    assert json.loads((work_dir / "config.json").read_text())["data"]["v9_hand_masks"] is True


def test_a_state_of_another_model_is_refused(corpus, finished, tmp_path, capsys):
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    for changed in ({"d_model": 64}, {"temporal_layers": 2}, {"optimizer": "sgd"}):
        assert main(corpus.flags(work_dir, "--resume", **changed)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"slt-train: error: --resume {work_dir}"), error
        assert len(error.splitlines()) == 1, error


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(("part", "damage"), [("state", cut), ("notes", cut), ("state", flip_a_bit)])
def test_a_damaged_state_gives_way_to_the_one_before(corpus, finished, tmp_path, capsys, caplog, part, damage):
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    damaged = work_dir / "checkpoints" / "2"
    files = sorted((p for p in (damaged / part).rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    for path in files[-1:] if damage is flip_a_bit else files:
        damage(path)
    assert main(corpus.flags(work_dir, "--resume")) == 0
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"{damaged}: is damaged and passed over (")
    assert "1 epochs and 0 batches are done" in capsys.readouterr().out
    assert_same_run(work_dir, finished)
    shutil.rmtree(work_dir / "checkpoints" / "3")
    assert main(corpus.flags(work_dir, "--resume")) == 2
    assert "none of its states can be read" in capsys.readouterr().err


def test_resume_does_not_mix_runs(corpus, finished, tmp_path, capsys):
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    before = {path: path.stat().st_mtime_ns for path in work_dir.rglob("*")}
    for more in (["--resume", str(finished)], ["--resume", "--overwrite"]):
        assert main(corpus.flags(work_dir, *more)) == 2
        assert str(work_dir) in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in work_dir.rglob("*")} == before


def test_a_finished_run_stays_as_it_is(corpus, finished, tmp_path, capsys):
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    assert main(corpus.flags(work_dir, "--resume")) == 0
    said = capsys.readouterr().out
    assert "nothing to train: 2 epochs are done" in said
    assert "learning rate" not in said
    assert_same_run(work_dir, finished)


@pytest.mark.parametrize("source", ["checkpoints", "last.pt"])
def test_another_learning_rate_is_told(corpus, finished, tmp_path, capsys, source):
    """v9 goes on with the checkpoint's, we with the schedule's: here a cosine that has reached 0."""
    work_dir, given = tmp_path / "run", finished / source
    assert main(corpus.flags(work_dir, "--resume", str(given), scheduler="steplr", lr=0.004)) == 0
    assert f"--resume {given}: the learning rate was 0; it is 0.004 now" in capsys.readouterr().out


def test_overwrite_begins_anew(corpus, finished, tmp_path):
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    tokenizer = str(work_dir / "tokenizer")  # still wanted, though it lies where the old run is removed
    events = work_dir / "events.out.tfevents.1.machine"
    events.write_bytes(b"")
    assert main(corpus.flags(work_dir, "--overwrite", "--tokenizer", tokenizer)) == 0
    assert not events.exists()
    assert_same_run(work_dir, finished)


def test_another_batch_size_goes_on_with_the_clips_that_are_left(corpus, tmp_path, monkeypatch):
    work_dir, clips = tmp_path / "run", []
    original = Run.take_step

    def note(self, group, *rest):
        for batch in group:
            clips.extend(name for name, valid in zip(batch.names, batch.arrays["valid"], strict=True) if valid)
        return original(self, group, *rest)

    monkeypatch.setattr(Run, "take_step", note)
    with monkeypatch.context() as patch:
        signal_when(patch, "step", 2, signal.SIGTERM)
        assert main(corpus.flags(work_dir, epochs=1, grad_accum_steps=1)) == 128 + signal.SIGTERM
    assert len(clips) == 4
    assert main(corpus.flags(work_dir, "--resume", epochs=1, batch_size=3, grad_accum_steps=2)) == 0
    assert sorted(clips) == sorted(set(clips))
    assert len(clips) == 11


# --- the folder of a run ------------------------------------------------------------------------------------------


def test_a_torn_line_of_metrics_is_left_out_and_other_damage_is_said(corpus, finished, tmp_path, capsys):
    work_dir = tmp_path / "run"
    shutil.copytree(finished, work_dir)
    lines = (work_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (work_dir / "metrics.jsonl").write_text(lines[0] + lines[1][:40])
    assert main(corpus.flags(work_dir, "--resume", epochs=3)) == 0
    assert [record["epoch"] for record in metrics(work_dir)] == [1, 2, 3]
    (work_dir / "metrics.jsonl").write_text(lines[0][:40] + "\n" + lines[1])
    capsys.readouterr()
    assert main(corpus.flags(work_dir, "--resume", epochs=4)) == 2
    assert f"{work_dir / 'metrics.jsonl'}: line 1 is damaged" in capsys.readouterr().err
