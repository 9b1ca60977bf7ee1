"""Averaged weights: a moving average that follows training, as an objective around another one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from slt_jax.training.objective import Inputs, Loss, Objective
from slt_jax.training.state import TrainState

AVERAGE, INNER = "average", "inner"  # the parts of its teacher


@dataclass(frozen=True)
class Averaged(Objective):
    """Another objective, with a moving average of the `paths` as part of the state's teacher.

    average = d * average + (1 - d) * weights after each step, d = min(decay, (1 + n) / (10 + n)) after n steps before
    it: the average of a young run is not held back by its first weights (the rule of TensorFlow's
    ExponentialMovingAverage).
    """

    objective: Objective
    decay: float
    paths: tuple[str, ...]

    def loss(self, model: nnx.Module, inputs: Inputs, key: Array, teacher: Mapping[str, Any]) -> Loss:
        """That of the objective inside."""
        return self.objective.loss(model, inputs, key, teacher.get(INNER))

    def evaluate(self, model: nnx.Module, inputs: Inputs) -> dict[str, Array]:
        """That of the objective inside."""
        return self.objective.evaluate(model, inputs)

    def teacher(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The first weights as their average, and the teacher inside."""
        inner = self.objective.teacher(params)
        return {AVERAGE: {path: params[path] for path in self.paths}} | ({} if inner is None else {INNER: inner})

    def after_update(self, state: TrainState, metrics: Mapping[str, Array]) -> TrainState:
        """The average moves towards the new weights."""
        decay = jnp.minimum(self.decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, w: a + (1 - decay) * (w - a), state.teacher[AVERAGE], state.trained)
        inner = self.objective.after_update(state.replace(teacher=state.teacher.get(INNER)), metrics)
        kept = {} if inner.teacher is None else {INNER: inner.teacher}
        return inner.replace(teacher={AVERAGE: average} | kept)


def average_of(state: TrainState) -> Mapping[str, Any] | None:
    """The moving average of the trained weights; None in a run without one."""
    teacher = state.teacher
    return teacher.get(AVERAGE) if isinstance(teacher, Mapping) else None


def weights_beside(state: TrainState) -> dict[str, Mapping[str, Any]]:
    """What a state of translation keeps beside the model's weights, by name: their average, a teacher."""
    average, teacher = average_of(state), state.teacher
    if average is not None:
        teacher = teacher.get(INNER)
    return {name: arrays for name, arrays in ((AVERAGE, average), ("teacher", teacher)) if arrays}


def averaged(state: TrainState) -> TrainState:
    """The state with averaged weights in place of its own, where there are some."""
    average = average_of(state)
    return state if average is None else state.replace(trained=dict(average))
