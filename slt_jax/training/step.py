"""The jitted functions of training: one optimiser step, its two halves under accumulation, and evaluation.

State and batches are plain mappings of arrays. The state is donated, so a step needs no second copy of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from slt_jax.models.params import Params, Structure
from slt_jax.runtime.sharding import Layout
from slt_jax.training.loss import token_loss
from slt_jax.training.optim import Optimizer, OptState, clip, global_norm
from slt_jax.training.scaler import ScalerState, keep_where, unscale, update

# `trained` and `frozen` together are the parameters; `step` counts optimiser steps and feeds the dropout keys;
# `scaler` is idle unless the loss is scaled.
TrainState = dict[str, Params | OptState | ScalerState | Array]
Batch = Mapping[str, Array]


@dataclass(frozen=True)
class StepFunctions:
    """`prepare(batch, key or None)` turns a loaded batch into model inputs inside the jitted functions.

    `scaled`: the loss is scaled for float16, and a step whose gradients overflow changes nothing but the scale.
    `layout`: where gradients and new parameters are to live; None leaves it to XLA.
    """

    structure: Structure
    optimizer: Optimizer
    label_smoothing: float
    clip_norm: float | None
    seed: int
    prepare: Callable[[Batch, Array | None], Batch]
    scaled: bool = False
    layout: Layout | None = None

    def train_step(self, state: TrainState, batch: Batch, lr: Array) -> tuple[TrainState, dict[str, Array]]:
        """A whole optimiser step on one batch: new state, and `loss`, `tokens`, `grad_norm`, where scaled `scale`."""
        loss, tokens, grads = self._gradients(state, batch, jnp.int32(0))
        state, results = self._apply(state, grads, lr)
        return state, {"loss": loss, "tokens": tokens, **results}

    def accumulate(
        self, state: TrainState, grads: Params, batch: Batch, index: Array
    ) -> tuple[Params, dict[str, Array]]:
        """Add one micro-batch's gradients to `grads`; `index` is its number within the step."""
        loss, tokens, new = self._gradients(state, batch, index)
        return self._placed(jax.tree.map(jnp.add, grads, new)), {"loss": loss, "tokens": tokens}

    def apply(self, state: TrainState, grads: Params, count: Array, lr: Array) -> tuple[TrainState, dict[str, Array]]:
        """Finish a step of `count` micro-batches: new state, and `grad_norm`, where scaled `scale`."""
        return self._apply(state, jax.tree.map(lambda g: g / count, grads), lr)

    def evaluate(self, params: Params, batch: Batch) -> dict[str, Array]:
        """`loss`, `tokens` and the teacher-forced argmax `predicted` (B, S) of one batch, without dropout."""
        inputs = self.prepare(batch, None)
        logits = self._model(params)(inputs)
        total, tokens = token_loss(logits, inputs["labels"], self.label_smoothing)
        predicted = self._rows(logits.argmax(axis=-1))
        return {"loss": total / jnp.maximum(tokens, 1), "tokens": tokens, "predicted": predicted}

    def encode(self, params: Params, batch: Batch) -> tuple[Array, Array]:
        """Encoded frames (B, T, d_model) and which of them are real (B, T)."""
        inputs = self.prepare(batch, None)
        return self._rows(self._model(params).encoder(inputs)), self._rows(inputs["pad_mask"])

    def backward(self, state: TrainState, batch: Batch) -> Callable[[Array], tuple[Params]]:
        """The backward pass, as a tree of the arrays that it keeps of the forward pass."""
        return jax.vjp(self._loss(state, batch, jnp.int32(0)), state["trained"], has_aux=True)[1]

    def _gradients(self, state: TrainState, batch: Batch, index: Array) -> tuple[Array, Array, Params]:
        loss = self._loss(state, batch, index)
        (_, (loss, tokens)), grads = jax.value_and_grad(loss, has_aux=True)(state["trained"])
        return loss, tokens, self._placed(grads)

    def _loss(
        self, state: TrainState, batch: Batch, index: Array
    ) -> Callable[[Params], tuple[Array, tuple[Array, Array]]]:
        """The trained parameters to what is differentiated, and the loss and its tokens."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), state["step"]), index)
        prepare_key, dropout_key = jax.random.split(key)
        inputs = self.prepare(batch, prepare_key)

        def mean_loss(trained: Params) -> tuple[Array, Array]:
            model = self._model(state["frozen"] | trained)
            total, tokens = token_loss(model(inputs, key=dropout_key), inputs["labels"], self.label_smoothing)
            loss = total / jnp.maximum(tokens, 1)
            return loss * state["scaler"]["scale"] if self.scaled else loss, (loss, tokens)

        return mean_loss

    def _apply(self, state: TrainState, grads: Params, lr: Array) -> tuple[TrainState, dict[str, Array]]:
        if self.scaled:
            grads, finite = unscale(grads, state["scaler"])
        norm = global_norm(grads)
        grads = clip(grads, norm, self.clip_norm)
        trained, optimizer = self.optimizer.update(state["trained"], grads, state["optimizer"], lr)
        slots = {name: self._placed(slot) if isinstance(slot, Mapping) else slot for name, slot in optimizer.items()}
        changed = {"trained": self._placed(trained), "optimizer": slots}
        results = {"grad_norm": norm}
        if self.scaled:
            changed = keep_where(finite, changed, {name: state[name] for name in changed})
            changed["scaler"] = update(state["scaler"], finite)
            results["scale"] = changed["scaler"]["scale"]
        return {**state, **changed, "step": state["step"] + 1}, results

    def _model(self, params: Params) -> nnx.Module:
        return self.structure.merge(self.layout.gather(params) if self.layout else params)

    def _rows(self, array: Array) -> Array:
        return self.layout.rows(array) if self.layout else array

    def _placed(self, params: Params) -> Params:
        return self.layout.keep(params) if self.layout else params
