"""What the system refuses to write is one line that names flag and place, before the work where it can be."""

import errno
import time
from functools import partial

import jax
import numpy as np
import pytest

from slt_jax.base.places import naming
from slt_jax.cli.command import keep_compiled_programs, run
from slt_jax.training.state_store import StateStore
from slt_jax.training.tracking import Tracker
from tests.base.test_places import files_of_at_most
from tests.commands import command_of

# Each command up to the flag that names what it writes; `{file}` is a file where a folder is wanted.
COMMANDS = [
    "slt-train --work-dir {file}/x",
    "slt-train --work-dir {new} --tensorboard {file}/x",
    "slt-train --work-dir {new} --feature-cache {file}/x",
    "slt-eval --checkpoint a.pt --eval-index a.csv --output-csv {file}/x",
    "slt-pack write --output {file}/x",
    "slt-export --checkpoint a.pt --artifact-dir {file}/x",
    "slt-export --checkpoint a.pt --onnx {file}/x.onnx",
    "slt-export --checkpoint a.pt --stablehlo {file}/x",
    "slt-export --checkpoint a.pt --onnx {new}.onnx --metadata {file}/x.json",
    "slt-plan --json {file}/x",
    "slt-view clip --output {file}/x.png",
    "slt-plot {new} --output {file}/x.png",
    "slt-average a.pt b.pt --output {file}/x.pt",
    "slt-translate {file} --checkpoint a.pt --srt {file}/x",
    "slt-extract --videos {file} --output {file}/x",
    "slt-extract --videos {file} --output {new} --metadata {file}/x",
    "slt-prepare --metadata {file} --videos {folder} --output {file}/x",
    "python tools/benchmark.py data --json {file}/x",
    "python tools/make_synthetic_signs.py {new} --contact-sheet {file}/x.png",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_before_the_work(command, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    words = command.format(file=file, new=tmp_path / "new", folder=tmp_path).split()
    main, arguments = command_of(words)
    assert main(arguments) == 2
    flag = words[-2]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert f"error: {flag} {words[-1]}" in lines[0]
    assert "cannot be written (Not a directory)" in lines[0]


def full_disk(place, _):
    with naming(place):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_later_the_flag_is_found_from_the_place(tmp_path, capsys):
    run_dir = tmp_path / "run"
    for place, flags, told in (
        (run_dir / "last.pt", ["--work-dir", run_dir], f"--work-dir {run_dir}: last.pt cannot be written"),
        (run_dir, [f"--work-dir={run_dir}", "--root", tmp_path], f"--work-dir {run_dir}: cannot be written"),
        (tmp_path / "b" / "x", ["--folders", "a", tmp_path / "b"], f"--folders {tmp_path}/b: x cannot be written"),
        (tmp_path / "x.pt", [tmp_path / "x.pt"], f"{tmp_path}/x.pt: cannot be written"),
    ):
        assert run("slt-any", partial(full_disk, place), [str(flag) for flag in flags]) == 2
        assert capsys.readouterr().err == f"slt-any: error: {told} (No space left on device)\n"


def test_a_state_that_finds_no_room_leaves_nothing_and_the_one_before(tmp_path, caplog):
    run("slt-any", lambda _: StateStore(tmp_path / "other").wait() or 0, [])  # what it silences ends with it
    store = StateStore(tmp_path / "checkpoints")
    store.save({"small": np.zeros(3)}, {"number": 1})
    store.wait()

    def save() -> None:
        random = np.random.default_rng(0)  # many writers: some go on after the first has failed
        with store:
            store.save({f"large{number}": random.random(9000) for number in range(12)}, {"number": 2})

    with files_of_at_most(2000), pytest.raises(OSError, match="checkpoints"):
        save()
    time.sleep(0.5)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert not caplog.records
    with StateStore(tmp_path / "checkpoints", read_only=True) as again:
        assert again.notes() == {"number": 1}


def test_events_that_find_no_room_are_an_error_of_the_run(tmp_path):
    tracker = Tracker(tmp_path / "tb")
    tracker.scalars({f"train/{number}": 1.0 for number in range(90)}, 1)
    with files_of_at_most(2000), pytest.raises(OSError, match="tb"):
        tracker.flush()
    tracker.close()


def test_compiled_programs_are_kept_where_they_can_be(tmp_path, monkeypatch):
    """A home that cannot be written costs time, but not a warning of JAX's for every program."""
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    for cache, kept in ((tmp_path / "file", None), (tmp_path, str(tmp_path / "slt_jax" / "xla"))):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        try:
            jax.config.update("jax_compilation_cache_dir", None)
            keep_compiled_programs()
            assert jax.config.jax_compilation_cache_dir == kept
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
