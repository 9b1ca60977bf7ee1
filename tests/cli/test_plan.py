"""`slt-plan`: the training step compiled for TPUs that are not here, and for this machine."""

import dataclasses
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.experimental.topologies
import pytest

from slt_jax.cli.plan import main
from slt_jax.config import build_config
from slt_jax.errors import UserError
from slt_jax.models.flops import model_flops
from slt_jax.runtime.sharding import device_mesh
from slt_jax.training import planning
from slt_jax.training.memory import GIB, StepMemory, shard_bytes
from slt_jax.training.planning import GLOSSES, Planner, largest_batch
from slt_jax.training.start import fresh_params
from slt_jax.training.teaching import Teaching
from slt_jax.training.topologies import devices_of
from slt_jax.training.translation_program import abstract_batch, translation_program
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


def test_a_gpu_is_named_by_its_memory(monkeypatch):
    """Of which JAX leaves a program three quarters, unless it is told otherwise."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    asked = []

    def described(name, platform, **options):
        asked.append((platform, options))
        return SimpleNamespace(devices=["first", "second"])

    monkeypatch.setattr(jax.experimental.topologies, "get_topology_desc", described)
    assert devices_of("GPU:24x2") == (["first", "second"], 18 * GIB)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
    assert devices_of("gpu:1.5")[1] == 0.75 * GIB
    (platform, two), (_, one) = asked
    assert (platform, two["topology"], one["topology"]) == ("cuda", "1x1x2", "1x1x1")
    assert f"device_memory_size: {24 * GIB}\n" in two["target_config"]
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "most")
    with pytest.raises(UserError, match="XLA_CLIENT_MEM_FRACTION=most: must be a number"):
        devices_of("gpu:24")


@pytest.mark.parametrize("name", ["gpu", "gpu:", "gpu24", "gpu:0", "gpu:24x0", "gpu:24GB", "gpu:-1"])
def test_a_gpu_without_a_memory_is_told(name, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(UserError, match=f"--topology {name}: names no memory; such as .* gpu:24 for a GPU of 24 GiB"):
        devices_of(name)


def test_a_missing_cuda_plugin_is_told(monkeypatch):
    def described(*_, **__):
        raise NotImplementedError

    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(jax.experimental.topologies, "get_topology_desc", described)
    with pytest.raises(UserError, match=f"pip install --no-deps jax-cuda13-plugin=={jax.__version__}"):
        devices_of("gpu:24")


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


def small_student(teacher=None, clips=2, **objectives):
    model = {
        "streams": ["pose"], "sequence_length": 4, "image_size": 28, "d_model": 32, "temporal_nhead": 4,
        "temporal_layers": 1, "temporal_dim_feedforward": 64, "decoder_layers": 1, "decoder_heads": 4,
    }  # fmt: skip
    training = {"objectives": objectives, "teacher": teacher and str(teacher)}
    data = {"precision": "float32", "batch_size": clips, "max_target_length": 16}
    return build_config({"model": model, "training": training, "data": data})


def test_a_teacher_is_planned_as_training_has_it(finished):
    """Its weights, its streams and its forward pass, against a state with its real arrays and XLA's own count."""
    config = small_student(finished, clips=1, translation=1, distillation=1)
    planner, mesh = Planner(config), device_mesh(1)
    real = Teaching.open(str(finished), trust=False)
    assert planner.config.model.vocab_size == real.plan.vocabulary

    program = translation_program(planner.config, planner.plan, mesh=mesh, teacher=real.teacher(config))
    state = program.place(program.new_state(fresh_params(planner.plan, planner.plan.structure()[1], seed=0)))
    batch = abstract_batch(real.joining(config), program.layout, 1)
    needs = planner.verdict("cpu", jax.devices(), usable=1).needs
    assert needs.arguments == pytest.approx(shard_bytes(state) + shard_bytes(batch), rel=0.001)
    assert "teacher" in planner.table()[-2]

    # What the teacher adds: its forward pass, which no gradient goes through.
    alone = translation_program(planner.config, planner.plan, mesh=mesh)
    more = counted_by_xla(program, state, batch) - counted_by_xla(alone, state.replace(teacher=None), batch)
    assert planner.flops["teacher"].forward == 0
    assert more == pytest.approx(planner.flops["teacher"].training, rel=0.2)
    own = model_flops(real.plan.build, dataclasses.replace(real.plan.config, sequence_length=4), (), target_length=16)
    assert planner.flops["teacher"].training == own["total"].forward


def counted_by_xla(program, state, batch) -> float:
    return program.lower(state, batch).cost_analysis()["flops"]


def test_the_text_encoder_and_the_heads_are_planned():
    alone = Planner(small_student(contrastive=1))
    both, plain = Planner(small_student(translation=1, contrastive=0.5, gloss_ctc=0.1)).flops, alone.flops
    assert both["temporal"] == plain["temporal"]
    assert both["text_encoder"] == plain["text_encoder"]
    assert "decoder" in both
    assert "decoder" not in plain
    # The text encoder: one block of attention and MLP over 16 tokens, 32 wide, its MLP four times as wide.
    assert both["text_encoder"].forward == 2 * 16 * (4 * 32 * 32 + 2 * 16 * 32 + 2 * 32 * 128)
    assert both["text_encoder"].training == pytest.approx(3 * both["text_encoder"].forward, rel=0.05)
    # Two projections and a similarity; the glosses of each of 4 frames.
    assert both["rest"].forward == 2 * (2 * 32 * 32 + 32) + 2 * 4 * 32 * GLOSSES

    (decoder,) = (line.split() for line in alone.table() if line.startswith("decoder"))
    assert (
        int(decoder[1].replace(",", "")) > 2 * 32 * 128
    )  # the text encoder trains, what only the decoder reads does not


def test_a_decoder_that_reads_no_texts_is_told():
    config = small_student(contrastive=1)
    model = dataclasses.replace(config.model, decoder_kwargs={"num_layers": 0})
    with pytest.raises(UserError, match="text encoder of the decoder has no layers"):
        Planner(dataclasses.replace(config, model=model))
