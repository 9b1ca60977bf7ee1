"""The programs of a run: compiled once a shape, and counted."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

from slt_jax.models.params import Params, Structure
from slt_jax.training.step import Batch, StepFunctions, TrainState


@dataclass
class Compiled:
    """`StepFunctions` under `jax.jit`, the state donated."""

    functions: StepFunctions
    structure: Structure = field(init=False)

    def __post_init__(self):
        functions = self.functions
        self.structure = functions.structure
        self._train = jax.jit(functions.train_step, donate_argnums=0)
        self._accumulate = jax.jit(functions.accumulate, donate_argnums=1)
        self._apply = jax.jit(functions.apply, donate_argnums=(0, 1))
        self.evaluate = jax.jit(functions.evaluate)
        self.encode = jax.jit(functions.encode)

    def step(self, state: TrainState, batches: list[Batch], lr: Array) -> tuple[TrainState, dict]:
        """One optimiser step over micro-batches: new state; `loss` and `tokens` of each, and `grad_norm`."""
        if len(batches) == 1:
            state, results = self._train(state, batches[0], lr)
            return state, {**results, "loss": [results["loss"]], "tokens": [results["tokens"]]}
        grads: Params = jax.tree.map(jnp.zeros_like, state["trained"])
        losses, tokens = [], []
        for index, batch in enumerate(batches):
            grads, results = self._accumulate(state, grads, batch, jnp.int32(index))
            losses.append(results["loss"])
            tokens.append(results["tokens"])
        state, norm = self._apply(state, grads, jnp.float32(len(batches)), lr)
        return state, {"loss": losses, "tokens": tokens, "grad_norm": norm}

    def count(self) -> int:
        """Programs compiled so far for training and validation: one a function and shape."""
        return sum(f._cache_size() for f in (self._train, self._accumulate, self._apply, self.evaluate))
