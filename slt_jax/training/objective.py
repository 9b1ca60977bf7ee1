"""What training minimises, as the step knows it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flax import nnx
from jax import Array

from slt_jax.training.state import TrainState

Inputs = Mapping[str, Array]


class Loss(NamedTuple):
    """The loss of a batch: `total` is a sum over all that counts, `weight` how many those are (label tokens, images).

    What is minimised is total / weight. `metrics` are other means to report, scalars by name.
    """

    total: Array
    weight: Array
    metrics: Mapping[str, Array] = {}


@runtime_checkable
class Objective(Protocol):
    """What training minimises. Inherit from it in a frozen dataclass: it must be hashable, as it is compiled in."""

    def loss(self, model: nnx.Module, inputs: Inputs, key: Array, teacher: Any) -> Loss:
        """The loss of one batch in training. `key` feeds dropout, `teacher` is that of the state."""
        ...

    def evaluate(self, model: nnx.Module, inputs: Inputs) -> dict[str, Array]:
        """What validation reads of one batch, without dropout. Arrays have a row for each row of the batch."""
        ...

    def teacher(self, params: Mapping[str, Any]) -> Any:
        """The teacher for these first weights; None without one."""
        return None

    def after_update(self, state: TrainState, metrics: Mapping[str, Array]) -> TrainState:
        """The state after the optimiser has moved the weights. This is where a teacher follows them.

        `metrics` are those of the step's loss, as means over its micro-batches.
        """
        return state
