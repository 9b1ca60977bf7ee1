"""Eight devices, in every layout, train like one; a state saved on one layout goes on in any other."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import slt_jax
from convert import read_pt
from slt_jax.cli.train import main
from slt_jax.training.program import jitted
from tests.cli.conftest import metrics, start
from tests.cli.test_train import batch_for

pytestmark = pytest.mark.slow

# Trains with every list of arguments from standard input; prints the bytes of one device and of all arrays as a whole.
RUNS = """
import json, sys
import jax
from slt_jax.cli.train import main
from slt_jax.training.program import Program

step, held = Program.step, {}

def measured(self, state, *rest):
    state, results = step(self, state, *rest)
    for name in ("trained", "frozen", "optimizer"):
        arrays = jax.tree.leaves(getattr(state, name))
        own = sum(array.addressable_shards[0].data.nbytes for array in arrays)
        held[name] = (own, sum(array.nbytes for array in arrays))
    return state, results

Program.step = measured
for arguments in json.load(sys.stdin):
    assert main(arguments) == 0
    print("held", json.dumps(held))
"""
LAYOUTS = {"data": {}, "fsdp": {"sharding": "fsdp"}, "data x model": {"sharding": "fsdp", "model_parallel": 4}}
# Without the face, each of the many programs compiles in two thirds of the time; hands change places where clips are
# mirrored.
COMMON = {"batch_size": 8, "grad_accum_steps": None, "optimizer": "sgd", "scheduler": None, "epochs": 1,
          "streams": "hand_l,hand_r,pose"}  # fmt: skip
SCORED = ("--eval-bleu-every", "1")
COMPARED = ("--set", 'training.objectives={"contrastive": 1}')


def on_eight_devices(arguments: list[list[str]]) -> list[dict[str, list[int]]]:
    """Train with each list of arguments in one process; what a device held, and the whole, under names of the state."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    with start(["-c", RUNS], [], env=os.environ | {"XLA_FLAGS": flags}, stdin=-1) as process:
        said, errors = process.communicate(json.dumps(arguments), timeout=600)
    assert process.returncode == 0, errors
    return [json.loads(line.removeprefix("held ")) for line in said.splitlines() if line.startswith("held ")]


@pytest.fixture(scope="module")
def one(corpus, tmp_path_factory) -> Path:
    """Two epochs on one device."""
    work_dir = tmp_path_factory.mktemp("one") / "run"
    assert main(corpus.flags(work_dir, *SCORED, **COMMON | {"epochs": 2})) == 0
    return work_dir


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> tuple[dict[str, Path], dict[str, dict]]:
    """One epoch on eight devices in each layout, and one that compares clips: work-dirs, and what a device held."""
    folder = tmp_path_factory.mktemp("eight")
    paths = {name: folder / name.replace(" ", "_") for name in LAYOUTS}
    flags = [corpus.flags(paths[name], *SCORED * (name != "data"), **COMMON | LAYOUTS[name]) for name in LAYOUTS]
    paths["compared"] = folder / "compared"
    flags.append(corpus.flags(paths["compared"], *COMPARED, **COMMON, sharding="fsdp"))
    held = on_eight_devices(flags)
    return paths, dict(zip(paths, held, strict=True))


def assert_same_losses(ours: list[dict], theirs: list[dict]) -> None:
    """And the same translations, whose scores are those of whole texts."""
    for our, their in zip(ours, theirs, strict=True):
        for key in ("train_loss", "val_loss"):
            assert our[key] == pytest.approx(their[key], rel=1e-5), key
        for key in our.keys() & {"val_teacher_forced_cer", "val_translation_cer", "val_bleu", "val_chrf"}:
            assert our[key] == pytest.approx(their[key], rel=1e-12), key


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_devices_train_like_one(one, runs, layout):
    """Dropout, flips and mixed streams included; the programs are compiled once a shape; the `.pt` is the same."""
    work_dir = runs[0][layout]
    assert_same_losses(metrics(work_dir), metrics(one)[:1])
    assert [record["compilations"] for record in metrics(work_dir, without=())] == [2]
    ours, reference = (read_pt(path / "last.pt")["model_state"] for path in (work_dir, runs[0]["data"]))
    for key, array in reference.items():
        np.testing.assert_allclose(ours[key], array, atol=1e-6, err_msg=key)


def test_clips_of_all_devices_are_compared_with_each_other(corpus, runs, tmp_path):
    """A device has one clip, which alone would have no loss."""
    assert main(corpus.flags(tmp_path / "one", *COMPARED, **COMMON)) == 0
    (ours,), (theirs,) = metrics(runs[0]["compared"]), metrics(tmp_path / "one")
    assert theirs["train_contrastive"] > 1
    assert_same_losses([ours], [theirs])
    for key in ("train_contrastive", "val_contrastive", "val_contrastive_accuracy"):
        assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key


def test_a_device_holds_its_part_only(runs):
    for name in ("trained", "frozen"):
        own, whole = runs[1]["data"][name]
        assert own == whole
        own, whole = runs[1]["fsdp"][name]
        assert own <= whole / 6
    assert runs[1]["data x model"]["trained"][0] < runs[1]["data x model"]["trained"][1] / 2


def test_a_state_goes_on_with_any_devices(corpus, one, runs, tmp_path):
    """Saved on eight: one device continues it, and two by four, as if it had never stopped."""
    for name in ("one", "data x model"):
        shutil.copytree(runs[0]["fsdp"], tmp_path / name)
    again = COMMON | {"epochs": 2}
    assert main(corpus.flags(tmp_path / "one", "--resume", **again)) == 0
    on_eight_devices([corpus.flags(tmp_path / "data x model", "--resume", **again | LAYOUTS["data x model"])])
    for name in ("one", "data x model"):
        assert_same_losses(metrics(tmp_path / name), metrics(one))


def test_a_state_of_eight_devices_loads_on_one(runs):
    work_dir = runs[0]["data x model"]
    from_state, from_file = (slt_jax.load(work_dir / name) for name in ("checkpoints", "last.pt"))
    batch = {name: array for name, array in batch_for(from_file.config).items() if name != "face"}
    np.testing.assert_array_equal(from_state.logits(batch), from_file.logits(batch))


def test_loss_scaling_and_accumulation_keep_the_layout(corpus, tmp_path):
    """AdamW, whose slots are split as well, in float16 over micro-batches."""
    changed = COMMON | {"grad_accum_steps": 2, "optimizer": "adamw", "precision": "fp16"}
    (held,) = on_eight_devices([corpus.flags(tmp_path / "eight", **changed, sharding="fsdp")])
    jitted.cache_clear()  # an equal run of another test in this process would be counted too
    assert main(corpus.flags(tmp_path / "one", **changed)) == 0
    assert held["optimizer"][0] <= held["optimizer"][1] / 6
    (ours,), (theirs,) = (metrics(tmp_path / name, without=()) for name in ("eight", "one"))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
    assert ours["compilations"] == theirs["compilations"] == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"batch_size": 12}, "--batch-size 12 does not divide over 8 devices; use a multiple of 8"),
     ({"model_parallel": 3}, "--model-parallel 3 does not divide the 8 devices; use a divisor of 8")],
    ids=["batch", "model"],
)  # fmt: skip
def test_what_does_not_divide_is_said(corpus, tmp_path, changed, message):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    arguments = corpus.flags(tmp_path / "run", **changed)
    with start(["-m", "slt_jax.cli.train"], arguments, env=os.environ | {"XLA_FLAGS": flags}) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors == f"slt-train: error: {message}\n"
