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
    compiled = functools.partial(jax.jit, compiler_options=_compiler_options(functions))
    return (
        compiled(functions.train_step, donate_argnums=0),
        compiled(functions.accumulate, donate_argnums=1),
        compiled(functions.apply, donate_argnums=0),
        compiled(functions.evaluate),
        compiled(functions.encode),
    )


def _compiler_options(functions: StepFunctions) -> dict[str, bool] | None:
    """On a GPU products are cuBLAS's: XLA's own Triton kernels take longer to tune, and more memory to keep inputs."""
    device = functions.layout.mesh.devices.flat[0] if functions.layout else jax.devices()[0]
    return {"xla_gpu_enable_triton_gemm": False} if device.platform in ("gpu", "cuda") else None


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
