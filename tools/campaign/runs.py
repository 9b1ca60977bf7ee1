"""The runs that the campaign disturbs: slt-train on a generated corpus, and a task of a few numbers, which takes less.

Both go through the same loop, store, work-dir and commands' seam; the second has another model and other batches.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint  # noqa: F401  (these two before processes are forked, as they take seconds)
import tensorboardX  # noqa: F401
from flax import nnx

from convert import write_pt
from slt_jax.base.files import copy_file
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.cli.processes import add_process_flags, meeting
from slt_jax.cli.train import main as slt_train
from slt_jax.config import OptimConfig, TrainingConfig
from slt_jax.models.params import split_model
from slt_jax.runtime import hosts
from slt_jax.runtime.links import ending_as_one
from slt_jax.runtime.sharding import place_batch
from slt_jax.synthetic.generator import generate
from slt_jax.training import run as loop
from slt_jax.training.objective import Loss, Objective
from slt_jax.training.position import Position
from slt_jax.training.program import Program, make_program
from slt_jax.training.state_store import is_sound, resume_states
from slt_jax.training.task import Evaluation, Task
from slt_jax.training.workdir import WorkDir, state_folder

SAVES_EVERY = 0.0  # seconds: a state after each step, so that kills fall between and into saves
BACKBONE = 'model.backbone={"embed_dim": 12, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 14}'
SETTINGS = [
    "--device", "cpu", "--precision", "float32", "--batch-size", "2", "--epochs", "2", "--max-target-length", "8",
    "--image-size", "14", "--sequence-length", "2", "--d-model", "16", "--projector-dim", "8", "--temporal-nhead", "2",
    "--temporal-layers", "1", "--temporal-dim-feedforward", "16", "--decoder-layers", "1", "--decoder-heads", "2",
    "--flip-probability", "0.5", "--set", BACKBONE,
]  # fmt: skip


class Line(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(8, 8, rngs=nnx.Rngs(0))

    def __call__(self, x, key=None):
        return self.layer(x if key is None else x * jax.random.bernoulli(key, 0.9, x.shape))


@dataclass(frozen=True)
class Squares(Objective):
    def loss(self, model, inputs, key, teacher):
        return Loss(jnp.square(model(inputs["x"], key) - inputs["x"]).sum(), inputs["x"].size, {})

    def evaluate(self, model, inputs):
        return {"loss": jnp.square(model(inputs["x"]) - inputs["x"]).mean()}


@dataclass
class Small(Task):
    program: Program
    training: TrainingConfig

    batch_size = 4

    def batches_left(self, epoch, taken):
        return 4 - sum(count for _, count in taken)

    def batches(self, epoch, taken):
        for number in range(4 - self.batches_left(epoch, taken), 4):
            rows = _own(_vectors(epoch, number))
            yield SimpleNamespace(arrays={"x": rows}, names=[f"batch {number}"], count=len(rows))

    def learning_rate(self, epoch, step):
        return 0.01 / (1 + epoch)

    def evaluate(self, state, epoch, stopped):
        # The second epoch is no better, so that best.pt stays that of the first.
        batch = place_batch({"x": _own(_vectors(99))}, self.program.mesh)
        loss = float(self.program.evaluate(state.params, batch)["loss"]) + (epoch == 1)
        return Evaluation(loss, metrics={"val_loss": loss})

    def export(self, state, position, workdir):
        if not hosts.primary():
            return
        weights = {name: np.asarray(array) for name, array in state.params.items()}
        write_pt(workdir.last, {"epoch": position.epoch, "model_state": weights, "config": {}})
        if position.is_best:
            copy_file(workdir.last, workdir.best)

    def damaged(self, workdir):
        return [path for path in (workdir.last, workdir.best) if not is_sound(path)]


def _vectors(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32)


def _own(rows: np.ndarray) -> np.ndarray:
    """The rows of this process."""
    return np.split(rows, hosts.count())[jax.process_index()]


def _train_small(argv: Sequence[str] | None) -> int:
    top = flags.command_parser("small", "A task of a few numbers.")
    top.add_argument("--work-dir", type=Path)
    top.add_argument("--grad-accum-steps", type=int, default=1)
    top.add_argument("--resume", action="store_true", default=False)
    add_process_flags(top)
    arguments = flags.parse(top, argv)
    if where := meeting(arguments):
        hosts.join("small", where)
        hosts.introduce("small", where)
    settings = TrainingConfig(epochs=2, grad_accum_steps=arguments.grad_accum_steps)
    program = make_program(
        lambda **_: Line(), Squares(), optim=OptimConfig(weight_decay=0.01), training=settings, seed=7
    )
    workdir = WorkDir(arguments.work_dir)
    source = state_folder(workdir.path) if arguments.resume else None
    with contextlib.ExitStack() as claim:
        if hosts.primary():
            claim.enter_context(workdir.claimed(source, overwrite=False))
        hosts.barrier("work-dir")
        if source:
            state, position, _ = resume_states(source, program)
        else:
            state, position = program.place(program.new_state(split_model(Line())[1])), Position()
        if hosts.primary():
            workdir.write_settings({}, {})
        try:
            loop.Run(Small(program, settings), state, position, workdir, str(workdir.path / "tb")).to_the_end()
        except loop.Interrupted as stop:
            print(f"small: {stop}: the state is saved; continue with --resume", file=sys.stderr)
            return 128 + stop.number
    return 0


def make_corpus(root: Path) -> None:
    """Six clips of a few frames for slt-train."""
    if not root.exists():
        sizes = {"num_train": 4, "num_val": 2, "num_test": 0, "image_size": 24, "frames": (4, 5)}
        generate(root, **sizes, seed=3, level="small", workers=0, progress=False)  # type: ignore[arg-type]


def train(how: str, corpus: Path, folder: Path, more: Sequence[str]) -> int:
    """A run of a kind, `small` or `slt-train`, in this process; returns its exit code."""
    usual, loop.SAVE_SECONDS = loop.SAVE_SECONDS, SAVES_EVERY
    try:
        if how == "small":
            return ending_as_one(lambda: run("small", _train_small, ["--work-dir", str(folder), *more]))
        tensorboard = ["--tensorboard", str(folder / "tb")]
        return slt_train(["--root", str(corpus), "--work-dir", str(folder), *SETTINGS, *tensorboard, *more])
    finally:
        loop.SAVE_SECONDS = usual
