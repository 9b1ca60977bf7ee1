"""torch's optimisers on plain mappings of arrays, with its clipping.

Only trained parameters have state. The formulas are those of torch.optim (`optim_rules`): optax's agree to 2.6e-5 after
300 steps, which is not enough to continue a torch run.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from convert.optimizer import WITH_MOMENTUM
from slt_jax.config import OptimConfig
from slt_jax.training.optim_rules import KINDS, SETTLED, nadam_products, relative_rate
from slt_jax.training.schedules import Schedule
from slt_jax.training.state import OptState


@dataclass(frozen=True)
class Part:
    """How a parameter is trained otherwise than the rest: factors of learning rate and weight decay.

    It stands still in the first `frozen` steps, though its slots fill.
    """

    rate: float = 1.0
    decay: float = 1.0
    frozen: int = 0


@dataclass(frozen=True)
class Optimizer:
    """`kind` is one of `KINDS`; the learning rate is an argument of every update. Other settings are torch's defaults.

    `one_count`: all parameters have had the same number of updates. With a count for each, a GPU's step takes half as
    long again to compile. `parts` are (path, Part) of the parameters that have one. `decays` is the weight decay by
    step, in place of a constant one; `weight_decay` is then what it starts with. `axes` are (path, our axes in torch's
    order) of parameters that torch lays out otherwise, for a kind that is `factored`.
    """

    kind: str
    weight_decay: float = 0.0
    momentum: float = 0.0
    one_count: bool = False
    parts: tuple[tuple[str, Part], ...] = ()
    decays: Schedule | None = None
    axes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def betas(self) -> tuple[float, float]:
        """Of Adam and what came of it."""
        return KINDS[self.kind].betas

    @property
    def epsilon(self) -> float:
        """What keeps a denominator from 0."""
        return KINDS[self.kind].epsilon

    @property
    def slots(self) -> tuple[str, ...]:
        """The arrays kept of parameters, under torch's names."""
        return KINDS[self.kind].slots + (("momentum_buffer",) if self.momentum else ())

    def scalars(self, step: float) -> dict[str, float]:
        """The numbers that torch keeps of a parameter after `step` updates, by its names."""
        if self.kind == "sgd":
            return {}
        products = {"mu_product": float(nadam_products(self.betas[0])[min(int(step), SETTLED)])}
        return {"step": float(step)} | (products if self.kind == "nadam" else {})

    def init(self, params: Mapping[str, Any]) -> OptState:
        """A state with zeros in every slot, before any update."""
        slots: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in self.slots}
        axes = dict(self.axes)
        for path, p in params.items():
            for slot, shape in self._shapes(p.shape, axes.get(path, tuple(range(len(p.shape))))).items():
                slots[slot][path] = np.zeros(shape, p.dtype)
        return OptState(slots, np.zeros(len(params), np.float32))

    def _shapes(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The slots of a parameter and their shapes. `axes` are its own in torch's order."""
        if not KINDS[self.kind].factored:
            return dict.fromkeys(self.slots, shape)
        *means, whole = self.slots
        if len(shape) < 2:
            return {whole: shape}
        along = zip(means, (axes[-1], axes[-2]), strict=True)
        return {slot: tuple(1 if n == axis else size for n, size in enumerate(shape)) for slot, axis in along}

    def suited_to(self, state: OptState) -> "Optimizer":
        """This optimiser, with `one_count` if `state` allows it. Parameters that torch never updated lag behind."""
        steps = jax.device_get(state.step)
        return dataclasses.replace(self, one_count=bool((steps == steps[:1]).all()))

    def update(
        self, params: dict[str, Array], grads: dict[str, Array], state: OptState, lr: Array
    ) -> tuple[dict[str, Array], OptState]:
        """Take one step. `params` and `grads` hold the trained parameters, `lr` is a float32 scalar."""
        step = state.step + 1
        paths = sorted(params)
        counts = [step[0 if self.one_count else i] for i in range(len(paths))]
        parts = dict(self.parts)
        results = {}
        for path, count in zip(paths, counts, strict=True):
            slots = {slot: state.slots[slot][path] for slot in self.slots if path in state.slots[slot]}
            rate, decay = self._settings(parts.get(path, Part()), lr, count)
            results[path] = self._one(params[path], grads[path], slots, rate, decay, count)
        slots = {slot: {path: results[path][1][slot] for path in state.slots[slot]} for slot in self.slots}
        return {path: results[path][0] for path in paths}, OptState(slots, step)

    def _settings(self, part: Part, lr: Array, count: Array) -> tuple[Array, Array | float]:
        """The learning rate and the weight decay of a parameter in its update number `count`."""
        decay = self.weight_decay if self.decays is None else self.decays(count - 1)
        if part == Part():
            return lr, decay
        rate = lr * part.rate
        return jnp.where(count > part.frozen, rate, 0.0) if part.frozen else rate, decay * part.decay

    # A function of its own, so that each shape is traced once: a model has hundreds of parameters, dozens of shapes.
    @partial(jax.jit, static_argnums=0)
    def _one(self, p: Array, g: Array, slots: dict, lr: Array, decay: Array | float, step: Array) -> tuple[Array, dict]:
        kind = KINDS[self.kind]
        rate = relative_rate(p, lr, step) if kind.factored else lr
        if kind.decoupled:
            p = p * (1 - lr * decay)
        elif self.weight_decay:
            g = g + decay * p
        return kind.rule(self, p, g, slots, rate, step)


def build_optimizer(config: OptimConfig, parts: tuple[tuple[str, Part], ...] = ()) -> Optimizer:
    """The optimiser of section `optim`; `parts` are as in `Optimizer`."""
    momentum = config.momentum if config.optimizer in WITH_MOMENTUM else 0.0
    return Optimizer(config.optimizer, config.weight_decay, momentum, parts=parts)


def global_norm(grads: dict[str, Array]) -> Float[Array, ""]:
    """The L2 norm of all gradients together, as `torch.nn.utils.clip_grad_norm_` returns it."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in grads.values()))


def clip(grads: dict[str, Array], norm: Float[Array, ""], limit: float | None) -> dict[str, Array]:
    """torch's clipping: scale by limit / (norm + 1e-6) if that is below 1."""
    if limit is None:
        return grads
    scale = jnp.minimum(1.0, limit / (norm + 1e-6))
    return jax.tree.map(lambda g: g * scale, grads)
