"""What training minimises, as the step knows it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from flax import nnx
from jax import Array

from slt_jax.training.state import TrainState

Inputs = Mapping[str, Array]


class Loss(NamedTuple):
    """The loss of a batch: `total` is a sum over all that counts, `weight` how much that is (label tokens, images).

    What is minimised is total / weight. `metrics` are further means to be told, scalars by name.
    """

    total: Array
    weight: Array
    metrics: Mapping[str, Array] = {}


class Objective(Protocol):
    """Hashable, as it is compiled in: a frozen dataclass of its settings. To be inherited."""

    def loss(self, model: nnx.Module, inputs: Inputs, key: Array, teacher: Any) -> Loss:
        """The loss of one batch in training; `key` feeds dropout, `teacher` is that of the state."""
        ...

    def evaluate(self, model: nnx.Module, inputs: Inputs) -> dict[str, Array]:
        """What validation looks at of one batch, without dropout; arrays have a row for each of the batch."""
        ...

    def teacher(self, params: Mapping[str, Any]) -> Any:
        """The teacher that goes with these first weights; None without one."""
        return None

    def after_update(self, state: TrainState, metrics: Mapping[str, Array]) -> TrainState:
        """The state once the optimiser has moved the weights: where a teacher follows them.

        `metrics` are those of the step's loss, means over its micro-batches.
        """
        return state
