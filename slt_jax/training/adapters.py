"""Adapters in training: their dropout, and whether an earlier run's are those of this one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax import Array

from slt_jax.adapter_settings import Lora
from slt_jax.errors import UserError, shortened
from slt_jax.models.lora import draw_dropout
from slt_jax.training.objective import Inputs, Loss, Objective
from slt_jax.training.state import TrainState


@dataclass(frozen=True)
class AdapterDropout(Objective):
    """Another objective, on a model whose adapters see their inputs through dropout."""

    objective: Objective

    def loss(self, model: nnx.Module, inputs: Inputs, key: Array, teacher: Any) -> Loss:
        """That of the objective inside."""
        key, own = jax.random.split(key)
        draw_dropout(model, own)
        return self.objective.loss(model, inputs, key, teacher)

    def evaluate(self, model: nnx.Module, inputs: Inputs) -> dict[str, Array]:
        """That of the objective inside, without dropout."""
        return self.objective.evaluate(model, inputs)

    def teacher(self, params: Mapping[str, Any]) -> Any:
        """That of the objective inside."""
        return self.objective.teacher(params)

    def after_update(self, state: TrainState, metrics: Mapping[str, Array]) -> TrainState:
        """That of the objective inside."""
        return self.objective.after_update(state, metrics)


def check_same_adapters(path: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    """Raise UserError where `model.lora` of a run to go on with, None without adapters, makes another model."""
    weights = f"or take its weights, with its adapters merged, as a beginning: --init-checkpoint {path}"
    had, has = Lora.parse(before), Lora.parse(now)
    if had is None and has is not None:
        raise UserError(
            f"--resume {path}: has no adapters to go on with (model.lora); leave model.lora out, or take its weights "
            f"as a beginning: --init-checkpoint {path}"
        )
    if had is not None and (has is None or not had.same_function(has)):
        given = shortened(json.dumps(dict(before or {})), 200)
        raise UserError(f"--resume {path}: was trained with --set model.lora='{given}'; give the same, {weights}")
