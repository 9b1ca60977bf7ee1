"""`slt-plan`: the training step compiled for TPUs that are not here, and for this machine."""

import json
import os
import subprocess
import sys

import pytest

from slt_jax.cli.plan import main
from slt_jax.training import planning
from slt_jax.training.memory import GIB, StepMemory
from slt_jax.training.planning import largest_batch
from tests.cli.conftest import ROOT

SMALL = [
    "--precision", "float32", "--batch-size", "4", "--max-target-length", "8", "--image-size", "28",
    "--sequence-length", "3", "--d-model", "16", "--projector-dim", "16", "--temporal-nhead", "2",
    "--temporal-layers", "1", "--temporal-dim-feedforward", "16", "--decoder-layers", "1", "--decoder-heads", "2",
    "--set", 'model.backbone={"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 28}',
    "--set", "model.vocab_size=64", "--remat", "none",
]  # fmt: skip


@pytest.mark.slow
def test_a_step_is_compiled_for_a_tpu_that_is_not_here(tmp_path):
    """In a process of its own, as a user's: libtpu's messages must not reach the terminal. Nothing of it is kept."""
    command = [sys.executable, "-m", "slt_jax.cli.plan", "--topology", "v5e:2x2", "--json", str(tmp_path / "plan.json")]
    programs = tmp_path / "programs"
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run([*command, *SMALL], cwd=ROOT, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(programs.glob("jit_train_step*"))
    assert "fits with --remat none" in done.stdout
    assert "MFLOP in training, counted from the model" in done.stdout
    found = json.loads((tmp_path / "plan.json").read_text())
    (plan,) = found["plans"]
    assert plan["topology"] == "v5e:2x2"
    assert plan["devices"] == 4
    assert plan["usable_bytes"] == int(15.75 * GIB)
    assert plan["fits"]
    assert 0 < plan["temporary_bytes"] < GIB
    assert plan["larger_may_fit"]
    assert found["flops_per_clip"]["total"]["training"] > found["flops_per_clip"]["total"]["forward"] > 1e6


def test_what_does_not_fit_this_machine_is_said(monkeypatch, capsys):
    monkeypatch.setattr(planning, "device_bytes", lambda: 1000)
    assert main([*SMALL, "--device", "cpu"]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("cpu "))
    assert line.endswith("does not fit with --remat none")


@pytest.mark.parametrize(("topology", "told"), [
    ("v5z:2x2", "--topology v5z:2x2: "), ("v5e", "such as v5e:2x2, v5e:4x4"), ("v5e:2x3", "--topology v5e:2x3: "),
])  # fmt: skip
def test_unknown_topologies_are_told_in_one_line(monkeypatch, capsys, topology, told):
    monkeypatch.delenv("XLA_FLAGS")  # which the command does as well, and for good
    assert main([*SMALL, "--topology", topology]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("slt-plan: error: --topology")
    assert told in line


def test_a_missing_compiler_is_told(monkeypatch, capsys):
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert main([*SMALL, "--topology", "v5e:2x2"]) == 2
    assert "pip install 'slt-jax[plan]'" in capsys.readouterr().err


def test_a_batch_that_does_not_divide_is_told(monkeypatch, capsys):
    monkeypatch.delenv("XLA_FLAGS")
    assert main([*SMALL, "--topology", "v5e:2x2", "--batch-size", "3"]) == 2
    assert "v5e:2x2: --batch-size 3 does not divide over 4 devices" in capsys.readouterr().err


def measure(fixed: int, each: int, jump: int = 1000):
    """A step of `fixed` bytes and `each` a clip, and a tenth more from `jump` clips on; remembers what was asked."""
    asked = []

    def of(clips: int) -> StepMemory:
        asked.append(clips)
        total = (fixed + each * clips) * (11 if clips >= jump else 10) // 10
        return StepMemory(0, total, total)

    return of, asked


@pytest.mark.parametrize(("parts", "asked", "jump", "expected"), [
    (1, 4, 1000, 90), (4, 8, 1000, 88), (1, 1, 60, 72), (1, 200, 1000, 90),
])  # fmt: skip
def test_the_largest_batch_is_found_with_few_programs(parts, asked, jump, expected):
    needs, programs = measure(100, 10, jump)
    assert largest_batch(needs, parts, asked, usable=1000) == expected
    assert len(set(programs)) <= 5


@pytest.mark.parametrize(("asked", "expected"), [(1, 8), (3, 12), (20, 8)])
def test_a_compiler_that_saves_memory_by_itself_misleads_nobody(asked, expected):
    """libtpu does, without `--remat`: two clips take no more than one, and yet not any number fits."""

    def needs(clips: int) -> StepMemory:
        return StepMemory(0, 0, 960 - clips, fits=clips <= 14)

    assert largest_batch(needs, 1, asked, usable=1000) == expected


def test_no_batch_fits_where_one_clip_does_not():
    assert largest_batch(measure(2000, 1)[0], 2, 4, usable=1000) == 0


def test_an_installed_libtpu_leaves_the_choice_of_device_alone():
    """JAX chooses by itself here, as on a user's machine."""
    code = "from slt_jax.cli.command import choose_device; choose_device('auto'); import jax; print(jax.devices()[0])"
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
