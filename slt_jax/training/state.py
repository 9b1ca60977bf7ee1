"""The state of training: all arrays that a step reads and writes.

The same trees hold JAX's arrays, NumPy's on the host, only their shapes, or their places.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

Leaf = Any  # an array, its shape or its place
Leaves = dict[str, Leaf]  # by path, as `Params`
ScalerState = dict[str, Leaf]  # see scaler.py


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OptState:
    """`slots` are the arrays kept per trained parameter, by torch's names; `step` (parameters,) counts the updates of
    each, in the order of sorted paths."""

    slots: dict[str, Leaves]
    step: Leaf

    def to_tree(self) -> dict[str, Any]:
        """Nested mappings, as states are stored: `{slot: {path: array}, "step": array}`."""
        return {**self.slots, "step": self.step}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> "OptState":
        """Undoes `to_tree`."""
        return cls({name: slot for name, slot in tree.items() if name != "step"}, tree["step"])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """`trained` and `frozen` together are the parameters; `step` counts optimiser steps and feeds the random keys.

    `scaler` is idle unless the loss is scaled. `teacher` is what an objective keeps beside the weights, such as their
    moving average or a centre: any tree of arrays, None for most.
    """

    trained: Leaves
    frozen: Leaves
    optimizer: OptState
    scaler: ScalerState
    step: Leaf
    teacher: Any = None

    @property
    def params(self) -> Leaves:
        """All parameters by path."""
        return self.trained | self.frozen

    def replace(self, **changes: Any) -> "TrainState":
        """The same state with other values in these fields."""
        return dataclasses.replace(self, **changes)

    def to_tree(self) -> dict[str, Any]:
        """Nested mappings of the fields' names, as states are stored; without a teacher where there is none."""
        tree = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tree["optimizer"] = self.optimizer.to_tree()
        return {name: value for name, value in tree.items() if value is not None}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> "TrainState":
        """Undoes `to_tree`."""
        return cls(**{**tree, "optimizer": OptState.from_tree(tree["optimizer"])})
