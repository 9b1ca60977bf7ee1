"""A task of its own: an autoencoder of random vectors with a moving average as teacher. No streams, no text."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from slt_jax.base.files import write_json
from slt_jax.config import OptimConfig, TrainingConfig
from slt_jax.models.params import split_model
from slt_jax.training.objective import Loss, Objective
from slt_jax.training.position import Position
from slt_jax.training.program import Program, make_program
from slt_jax.training.run import Run
from slt_jax.training.state_store import resume_states
from slt_jax.training.task import Evaluation, Task
from slt_jax.training.workdir import WorkDir, state_folder


class Autoencoder(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.into, self.back = nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 16, rngs=rngs)

    def __call__(self, x, key=None):
        hidden = jnp.tanh(self.into(x))
        return self.back(hidden if key is None else hidden * jax.random.bernoulli(key, 0.9, hidden.shape))


@dataclass(frozen=True)
class Reconstruction(Objective):
    """Squared error, and a pull towards the teacher: the moving average of the weights."""

    def loss(self, model, inputs, key, teacher):
        pull = jnp.square(model.back.kernel[...] - teacher["back.kernel"]).sum()
        return Loss(jnp.square(model(inputs["x"], key) - inputs["x"]).sum() + pull, inputs["x"].size, {"pull": pull})

    def evaluate(self, model, inputs):
        return {"loss": jnp.square(model(inputs["x"]) - inputs["x"]).mean()}

    def teacher(self, params):
        return dict(params)

    def after_update(self, state, metrics):
        return state.replace(teacher=jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state.teacher, state.trained))


@dataclass
class Toy(Task):
    program: Program
    training: TrainingConfig
    kill: tuple[int, int, int] | None = None  # epoch, batch and the signal that this process gets there

    batch_size = 8

    def batches_left(self, epoch, taken):
        return 6 - sum(count for _, count in taken)

    def batches(self, epoch, taken):
        for number in range(6 - self.batches_left(epoch, taken), 6):
            if self.kill and self.kill[:2] == (epoch, number):
                os.kill(os.getpid(), self.kill[2])
            yield SimpleNamespace(arrays={"x": vectors(epoch, number)}, names=[f"batch {number}"], count=8)

    def learning_rate(self, epoch, step):
        return 0.01 / (1 + epoch)

    def evaluate(self, state, epoch, stopped):
        loss = float(self.program.evaluate(state.params, {"x": vectors(99)})["loss"])
        return Evaluation(loss, metrics={"val_loss": loss})

    def export(self, state, position, workdir):
        weights = jax.tree.map(lambda array: np.asarray(array).tolist(), {"w": state.params, "t": state.teacher})
        write_json(workdir.path / ("best.json" if position.is_best else "last.json"), weights)


def vectors(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(8, 16)).astype(np.float32)


def train(folder: str, kill: tuple[int, int, int] | None = None, **training) -> None:
    """From the beginning, or from where `folder` says that an earlier run stopped."""
    settings, optim = TrainingConfig(epochs=3, grad_accum_steps=2, **training), OptimConfig(weight_decay=0.01)
    program = make_program(lambda **_: Autoencoder(), Reconstruction(), optim=optim, training=settings, seed=7)
    workdir = WorkDir(Path(folder))
    if states := state_folder(workdir.path):
        state, position, _ = resume_states(states, program)
    else:
        state, position = program.place(program.new_state(split_model(Autoencoder())[1])), Position()
    Run(Toy(program, settings, kill), state, position, workdir).to_the_end()
