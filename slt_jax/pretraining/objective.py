"""Self-distillation: the student learns to see in every view what its own moving average, the teacher, sees in two."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from slt_jax.models.layers import split
from slt_jax.models.params import Structure
from slt_jax.pretraining.heads import Student
from slt_jax.pretraining.losses import centred, dino_loss, entropy, koleo_loss, patch_loss, sinkhorn_knopp
from slt_jax.runtime.sharding import Layout
from slt_jax.training.objective import Inputs, Loss, Objective
from slt_jax.training.schedules import Schedule
from slt_jax.training.state import TrainState

CENTERS = {"dino": "center", "ibot": "patch_center"}


@dataclass(frozen=True)
class SelfDistillation(Objective):
    """DINO, with masked patches also iBOT, and KoLeo.

    Inputs: `global` (N, 2, H, W, 3) and `local` (N, V, h, w, 3), normalised views; for iBOT also `masked`
    (N, 2, patches), `places` (N, 2, M) and `valid` (N, 2, M), see `masks`.
    """

    structure: Structure[Student]
    layout: Layout
    prototypes: tuple[tuple[str, int], ...]  # of each head: dino, perhaps ibot
    teacher_temp: Schedule
    momentum: Schedule
    student_temp: float = 0.1
    patch_weight: float = 1.0
    koleo_weight: float = 0.1
    drop_path: float = 0.0
    sinkhorn: bool = False
    center_momentum: float = 0.9

    def loss(self, model: Any, inputs: Inputs, key: Array, teacher: Mapping[str, Any]) -> Loss:
        """The mean over the crops of all losses, and each of them as a metric."""
        masked = "masked" in inputs
        temperature = self.teacher_temp(teacher["step"])
        targets, centers = self._targets(inputs, teacher, temperature)
        first, second = split(key, 2)
        views, crops, small = inputs["global"], len(inputs["global"]), inputs["local"]
        cls, patches = model.backbone.tokens(
            views.reshape(-1, *views.shape[2:]),
            masked=inputs["masked"].reshape(2 * crops, -1) if masked else None,
            drop_path=self.drop_path,
            key=first,
        )
        cls = cls.reshape(crops, 2, -1)
        seen = model.dino_head(cls)
        local = jnp.zeros((crops, 0, seen.shape[-1]))
        if small.shape[1]:
            little, _ = model.backbone.tokens(small.reshape(-1, *small.shape[2:]), drop_path=self.drop_path, key=second)
            local = model.dino_head(little.reshape(crops, small.shape[1], -1))
        log_seen = jax.nn.log_softmax(seen / self.student_temp, axis=-1)
        parts = {
            "dino_loss": dino_loss(targets["dino"], log_seen, jax.nn.log_softmax(local / self.student_temp)).mean()
        }
        total = parts["dino_loss"]
        if masked:
            logits = model.ibot_head(chosen(patches.reshape(crops, 2, -1, patches.shape[-1]), inputs["places"]))
            found = jax.nn.log_softmax(logits / self.student_temp, axis=-1)
            parts["patch_loss"] = patch_loss(targets["ibot"], found, inputs["valid"]).mean()
            total = total + self.patch_weight * parts["patch_loss"]
        if self.koleo_weight:
            parts["koleo_loss"] = koleo_loss(cls[:, 0]) + koleo_loss(cls[:, 1])
            total = total + self.koleo_weight * parts["koleo_loss"]
        shown = {
            "teacher_entropy": entropy(targets["dino"]).mean(),
            "teacher_mean_entropy": entropy(targets["dino"].mean(axis=(0, 1))),
            "student_entropy": entropy(jnp.exp(log_seen)).mean(),
            "teacher_temp": temperature,
        }
        return Loss(total * crops, jnp.float32(crops), parts | shown | centers)

    def _targets(
        self, inputs: Inputs, teacher: Mapping[str, Any], temperature: Array
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The teacher's probabilities by head, and the means of its outputs, for its centres."""
        model = self.structure.merge(self.layout.gather(teacher["params"]))
        views = inputs["global"]
        cls, patches = model.backbone.tokens(views.reshape(-1, *views.shape[2:]))
        logits = {"dino": model.dino_head(cls.reshape(len(views), 2, -1))}
        valid: dict[str, Array | None] = {"dino": None}
        if "masked" in inputs:
            patches = patches.reshape(len(views), 2, -1, patches.shape[-1])
            logits["ibot"] = model.ibot_head(chosen(patches, inputs["places"]))
            valid["ibot"] = inputs["valid"]
        if self.sinkhorn:
            return {name: sinkhorn_knopp(found, temperature, valid[name]) for name, found in logits.items()}, {}
        targets = {name: centred(found, teacher[CENTERS[name]], temperature) for name, found in logits.items()}
        return targets, {CENTERS[name]: _mean(found, valid[name]) for name, found in logits.items()}

    def evaluate(self, model: Any, inputs: Inputs) -> dict[str, Array]:
        """The CLS features of `images` (N, H, W, 3), float32."""
        return {"features": model.backbone(inputs["images"]).astype(jnp.float32)}

    def teacher(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of the weights, centres at 0, and the number of steps."""
        centers = {CENTERS[name]: jnp.zeros(size) for name, size in self.prototypes}
        return {"params": dict(params), "step": jnp.int32(0)} | ({} if self.sinkhorn else centers)

    def after_update(self, state: TrainState, metrics: Mapping[str, Array]) -> TrainState:
        """The teacher and its centres follow."""
        teacher, momentum = state.teacher, self.momentum(state.teacher["step"])
        moved = {path: momentum * old + (1 - momentum) * state.params[path] for path, old in teacher["params"].items()}
        keep = self.center_momentum
        centers = {
            name: keep * teacher[name] + (1 - keep) * metrics[name] for name in CENTERS.values() if name in teacher
        }
        moved = {path: array.astype(teacher["params"][path].dtype) for path, array in moved.items()}
        return state.replace(teacher={"params": self.layout.keep(moved), "step": teacher["step"] + 1, **centers})


def chosen(patches: Array, places: Array) -> Array:
    """The features (N, 2, M, d) of the patches at `places` (N, 2, M)."""
    return jnp.take_along_axis(patches, places[..., None], axis=2)


def _mean(logits: Array, valid: Array | None) -> Array:
    """The mean over all rows that are valid."""
    if valid is None:
        return logits.mean(axis=tuple(range(logits.ndim - 1)))
    return jnp.einsum("...k,...->k", logits, valid) / jnp.maximum(valid.sum(), 1)
