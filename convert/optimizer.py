"""Optimiser state between our mappings and `torch.optim`'s `state_dict()`.

torch numbers parameters in the order of `model.parameters()`: tied ones once, no buffers, and untrained ones counted
but without state.
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np

from convert.state_dict import Entry, parameters
from slt_jax.errors import UserError

# What torch 2.13 writes beside the settings below.
COMMON = {"maximize": False, "foreach": None, "differentiable": False, "fused": None}


class OptimizerSettings(Protocol):
    """What must be known of an optimiser to write its state. The one in `slt_jax.training` has it all."""

    @property
    def kind(self) -> str:
        """adamw, adam or sgd."""

    @property
    def slots(self) -> tuple[str, ...]:
        """The arrays kept per parameter, under torch's names."""

    @property
    def weight_decay(self) -> float:
        """As torch names it."""

    @property
    def momentum(self) -> float:
        """Of sgd."""

    @property
    def betas(self) -> tuple[float, float]:
        """Of adam and adamw."""

    @property
    def epsilon(self) -> float:
        """Of adam and adamw."""


def to_torch(
    state: Mapping[str, Any],
    trained: Collection[str],
    optimizer: OptimizerSettings,
    lr: float,
    initial_lr: float,
    entries: list[Entry],
) -> dict[str, Any]:
    """Our optimiser state of the `trained` paths as torch's `{"state": {index: slots}, "param_groups": [...]}`."""
    steps = dict(zip(sorted(trained), np.asarray(state["step"]), strict=True))
    slots: dict[int, dict[str, Any]] = {}
    ordered = parameters(entries)
    for index, entry in enumerate(ordered):
        if not steps.get(entry.path):
            continue
        arrays = {
            slot: np.ascontiguousarray(entry.layout.to_torch(np.asarray(state[slot][entry.path])))
            for slot in optimizer.slots
        }
        step = {} if optimizer.kind == "sgd" else {"step": np.asarray(steps[entry.path], np.float32)}
        slots[index] = step | arrays
    group = _group(optimizer) | {"lr": lr, "initial_lr": initial_lr, "params": list(range(len(ordered)))}
    return {"state": slots, "param_groups": [group]}


def _group(optimizer: OptimizerSettings) -> dict[str, Any]:
    specific: dict[str, Any]
    if optimizer.kind == "sgd":
        specific = {"momentum": optimizer.momentum, "dampening": 0, "nesterov": False}
    else:
        specific = {
            "betas": optimizer.betas,
            "eps": optimizer.epsilon,
            "amsgrad": False,
            "capturable": False,
            "decoupled_weight_decay": optimizer.kind == "adamw",
        }
    return {"weight_decay": optimizer.weight_decay} | specific | COMMON


def from_torch(
    saved: Mapping[str, Any],
    state: Mapping[str, Any],
    trained: Collection[str],
    optimizer: OptimizerSettings,
    entries: list[Entry],
) -> dict[str, Any]:
    """`state` (freshly initialised) of the `trained` paths, filled from torch's optimiser state.

    Parameters without saved state keep zeros, as in torch. Raises UserError if the saved state is of another kind
    of optimiser or another model.
    """
    ordered = parameters(entries)
    count = sum(len(group["params"]) for group in saved["param_groups"])
    if count != len(ordered):
        raise UserError(f"optimizer_state: has {count} parameters, the model has {len(ordered)}")
    paths = sorted(trained)
    steps = dict.fromkeys(paths, 0.0)
    filled = {slot: dict(state[slot]) for slot in optimizer.slots}
    for index, slots in saved["state"].items():
        entry = ordered[index]
        if entry.path not in steps:
            continue
        for slot in optimizer.slots:
            if slots.get(slot) is None:
                raise UserError(f"optimizer_state: no '{slot}' for {entry.key}; it was not written by {optimizer.kind}")
            filled[slot][entry.path] = np.ascontiguousarray(entry.layout.to_jax(slots[slot]), dtype=np.float32)
        steps[entry.path] = float(slots.get("step", 1))
    return filled | {"step": np.array([steps[path] for path in paths], np.float32)}
