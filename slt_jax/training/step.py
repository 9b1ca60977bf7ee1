"""The pure functions of training: one optimiser step, its two halves under accumulation, and evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from slt_jax.models.params import Params, Structure
from slt_jax.runtime.sharding import Layout
from slt_jax.training.objective import Inputs, Objective
from slt_jax.training.optim import Optimizer, clip, global_norm
from slt_jax.training.scaler import keep_where, unscale, update
from slt_jax.training.state import OptState, TrainState

Arrays = Mapping[str, Any]  # a batch on its devices as it was loaded, or only its shapes
Results = dict[str, Any]
MOVED = ("trained", "optimizer", "teacher")  # what a step that overflows leaves unchanged


@dataclass(frozen=True)
class StepFunctions:
    """`prepare(batch, key or None)` turns a loaded batch into model inputs inside the jitted functions.

    `scaled`: the loss is scaled for float16, and a step whose gradients overflow changes nothing but the scale.
    """

    structure: Structure
    objective: Objective
    optimizer: Optimizer
    layout: Layout
    prepare: Callable[[Arrays, Array | None], Inputs]
    clip_norm: float | None = None
    seed: int = 0
    scaled: bool = False

    def train_step(self, state: TrainState, batch: Arrays, lr: Float[Array, ""]) -> tuple[TrainState, Results]:
        """A whole optimiser step on one batch: new state, and the results of `accumulate` and `apply`."""
        grads, results = self._gradients(state, batch, jnp.int32(0))
        state, applied = self._apply(state, grads, results["metrics"], lr)
        return state, {**results, **applied}

    def accumulate(
        self, state: TrainState, grads: Params, batch: Arrays, index: Int[Array, ""]
    ) -> tuple[Params, Results]:
        """Add one micro-batch's gradients to `grads`; `index` is its number within the step.

        Its results are `loss` (a mean), `weight` and `metrics`.
        """
        new, results = self._gradients(state, batch, index)
        return self.layout.keep(jax.tree.map(jnp.add, grads, new)), results

    def apply(
        self, state: TrainState, grads: Params, metrics: Arrays, count: Float[Array, ""], lr: Float[Array, ""]
    ) -> tuple[TrainState, Results]:
        """Finish a step of `count` micro-batches, whose mean `metrics` are given.

        Returns the new state and `grad_norm`, with a scaled loss also `scale`.
        """
        return self._apply(state, jax.tree.map(lambda g: g / count, grads), metrics, lr)

    def evaluate(self, params: Params, batch: Arrays) -> Results:
        """What the objective's `evaluate` reads of one batch."""
        results = self.objective.evaluate(self._model(params), self.prepare(batch, None))
        return {name: self.layout.rows(array) if array.ndim else array for name, array in results.items()}

    def backward(self, state: TrainState, batch: Arrays) -> Callable[[Array], tuple[Params]]:
        """The arrays that the backward pass keeps of the forward pass, as a tree."""
        return jax.vjp(self._loss(state, batch, jnp.int32(0)), state.trained, has_aux=True)[1]

    def _gradients(self, state: TrainState, batch: Arrays, index: Int[Array, ""]) -> tuple[Params, Results]:
        (_, results), grads = jax.value_and_grad(self._loss(state, batch, index), has_aux=True)(state.trained)
        return self.layout.keep(grads), results

    def _loss(
        self, state: TrainState, batch: Arrays, index: Int[Array, ""]
    ) -> Callable[[Params], tuple[Array, Results]]:
        """The trained parameters to what is differentiated, and the results of the batch."""
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), state.step), index)
        prepare_key, dropout_key = jax.random.split(key)
        inputs = self.prepare(batch, prepare_key)

        def mean_loss(trained: Params) -> tuple[Array, Results]:
            model = self._model(state.frozen | trained)
            total, weight, metrics = self.objective.loss(model, inputs, dropout_key, state.teacher)
            loss = total / jnp.maximum(weight, 1)
            results = {"loss": loss, "weight": weight, "metrics": dict(metrics)}
            return loss * state.scaler["scale"] if self.scaled else loss, results

        return mean_loss

    def _apply(
        self, state: TrainState, grads: Params, metrics: Arrays, lr: Float[Array, ""]
    ) -> tuple[TrainState, Results]:
        if self.scaled:
            grads, finite = unscale(grads, state.scaler)
        norm = global_norm(grads)
        grads = clip(grads, norm, self.clip_norm)
        trained, optimizer = self.optimizer.update(state.trained, grads, state.optimizer, lr)
        slots = {name: self.layout.keep(slot) for name, slot in optimizer.slots.items()}
        new = state.replace(trained=self.layout.keep(trained), optimizer=OptState(slots, optimizer.step))
        new = self.objective.after_update(new, metrics).replace(step=state.step + 1)
        if not self.scaled:
            return new, {"grad_norm": norm}
        kept = {name: keep_where(finite, getattr(new, name), getattr(state, name)) for name in MOVED}
        new = new.replace(**kept, scaler=update(state.scaler, finite))
        return new, {"grad_norm": norm, "scale": new.scaler["scale"]}

    def _model(self, params: Params) -> nnx.Module:
        return self.structure.merge(self.layout.gather(params))
