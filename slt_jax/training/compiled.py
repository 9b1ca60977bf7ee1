"""The programs of a run: compiled once a shape, and counted."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

from slt_jax.data.augment import prepare
from slt_jax.models.params import Params, Structure
from slt_jax.training.step import Batch, StepFunctions, TrainState


@dataclass(frozen=True)
class Prepare:
    """`prepare` with its settings; equal settings are equal, so that runs of one process share programs."""

    mix_streams: tuple[tuple[str, float], ...]
    v9_hand_masks: bool

    def __call__(self, batch: Batch, key: Array | None) -> Mapping[str, Array]:
        mix_streams = dict(self.mix_streams)
        return prepare(batch, key, mix_streams=mix_streams, v9_hand_masks=self.v9_hand_masks, raw=True)


@functools.lru_cache(maxsize=4)
def jitted(functions: StepFunctions) -> tuple:
    """train_step, accumulate, apply, evaluate and encode under `jax.jit`; equal runs of one process share them."""
    return (
        jax.jit(functions.train_step, donate_argnums=0),
        jax.jit(functions.accumulate, donate_argnums=1),
        jax.jit(functions.apply, donate_argnums=0),
        jax.jit(functions.evaluate),
        jax.jit(functions.encode),
    )


@dataclass
class Compiled:
    """`StepFunctions` under `jax.jit`, the state donated."""

    functions: StepFunctions
    structure: Structure = field(init=False)

    def __post_init__(self):
        self.structure = self.functions.structure
        self._train, self._accumulate, self._apply, self.evaluate, self.encode = jitted(self.functions)

    def step(self, state: TrainState, batches: list[Batch], lr: Array) -> tuple[TrainState, dict]:
        """One optimiser step over micro-batches: new state; `loss` and `tokens` of each, and what `apply` tells."""
        if len(batches) == 1:
            state, results = self._train(state, batches[0], lr)
            return state, {**results, "loss": [results["loss"]], "tokens": [results["tokens"]]}
        grads: Params = jax.tree.map(jnp.zeros_like, state["trained"])
        losses, tokens = [], []
        for index, batch in enumerate(batches):
            grads, results = self._accumulate(state, grads, batch, jnp.int32(index))
            losses.append(results["loss"])
            tokens.append(results["tokens"])
        state, results = self._apply(state, grads, jnp.float32(len(batches)), lr)
        return state, {"loss": losses, "tokens": tokens, **results}

    def count(self) -> int:
        """Programs compiled so far for training and validation: one a function and shape."""
        return sum(f._cache_size() for f in (self._train, self._accumulate, self._apply, self.evaluate))
