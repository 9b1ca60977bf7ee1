"""The updates of torch.optim's optimisers (2.13), to the formula and in its order of operations; and Lion's.

A rule takes the settings, a parameter, its gradient with torch's L2 decay in it, its slots by torch's names, the
learning rate and the number of this update, and returns the new parameter and slots.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array

Slots = dict[str, Array]


class Settings(Protocol):
    """What the rules read of an optimiser."""

    @property
    def betas(self) -> tuple[float, float]:
        """Of Adam and what came of it."""

    @property
    def epsilon(self) -> float:
        """What keeps a denominator from 0."""

    @property
    def momentum(self) -> float:
        """Of sgd and rmsprop."""


Rule = Callable[[Settings, Array, Array, Slots, Array, Array], tuple[Array, Slots]]
ALPHA = 0.99  # of rmsprop
RHO = 0.9  # of adadelta
MOMENTUM_DECAY = 4e-3  # of nadam
BETA2_DECAY = -0.8  # of adafactor
SMALLEST = float(np.finfo(np.float32).eps)  # adafactor's first epsilon: of a mean of squares, and of its root
SMALLEST_SIZE = 1e-3  # adafactor's second epsilon: of what its learning rate is a share of
SETTLED = 32768  # updates after which radam's rectification is 1 in float32, and nadam's product 0


def correction(beta: float, step: Array) -> Array:
    """1 - beta**step, which loses four digits in float32 at the first steps; expm1 does not."""
    return -jnp.expm1(step * math.log(beta))


def adam(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """Adam, and AdamW after its decay."""
    b1, b2 = settings.betas
    mean, square = _mean(settings, g, slots), b2 * slots["exp_avg_sq"] + (1 - b2) * g * g
    denominator = jnp.sqrt(square) / jnp.sqrt(correction(b2, step)) + settings.epsilon
    return p - lr / correction(b1, step) * mean / denominator, {"exp_avg": mean, "exp_avg_sq": square}


def sgd(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """Gradient descent, with momentum if there is one."""
    if not settings.momentum:
        return p - lr * g, {}
    buffer = settings.momentum * slots["momentum_buffer"] + g
    return p - lr * buffer, {"momentum_buffer": buffer}


def rmsprop(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """RMSprop, not centred, with momentum if there is one."""
    square = ALPHA * slots["square_avg"] + (1 - ALPHA) * g * g
    scaled = g / (jnp.sqrt(square) + settings.epsilon)
    if not settings.momentum:
        return p - lr * scaled, {"square_avg": square}
    buffer = settings.momentum * slots["momentum_buffer"] + scaled
    return p - lr * buffer, {"square_avg": square, "momentum_buffer": buffer}


def adagrad(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """Adagrad."""
    total = slots["sum"] + g * g
    return p - lr * g / (jnp.sqrt(total) + settings.epsilon), {"sum": total}


def adamax(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """Adamax."""
    b1, b2 = settings.betas
    mean, largest = _mean(settings, g, slots), jnp.maximum(b2 * slots["exp_inf"], jnp.abs(g) + settings.epsilon)
    return p - lr / correction(b1, step) * mean / largest, {"exp_avg": mean, "exp_inf": largest}


def adadelta(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """Adadelta."""
    square = RHO * slots["square_avg"] + (1 - RHO) * g * g
    delta = jnp.sqrt(slots["acc_delta"] + settings.epsilon) / jnp.sqrt(square + settings.epsilon) * g
    moved = RHO * slots["acc_delta"] + (1 - RHO) * delta * delta
    return p - lr * delta, {"square_avg": square, "acc_delta": moved}


def nadam(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """NAdam."""
    b1, b2 = settings.betas
    mean, square = _mean(settings, g, slots), b2 * slots["exp_avg_sq"] + (1 - b2) * g * g
    denominator = jnp.sqrt(square / correction(b2, step)) + settings.epsilon
    table = jnp.asarray(nadam_products(b1), jnp.float32)
    mu, after = (nadam_momentum(b1, step + n) for n in (0, 1))
    product = table[jnp.minimum(step.astype(int), SETTLED)]
    p = p - lr * (1 - mu) / (1 - product) * g / denominator
    p = p - lr * after / (1 - product * after) * mean / denominator
    return p, {"exp_avg": mean, "exp_avg_sq": square}


def radam(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """RAdam."""
    b1, b2 = settings.betas
    mean, square = _mean(settings, g, slots), b2 * slots["exp_avg_sq"] + (1 - b2) * g * g
    # From a table, since the rectification is a difference of large numbers. 0 stands for an update without it.
    rectified = jnp.asarray(_rectifications(b2), jnp.float32)[jnp.minimum(step.astype(int), SETTLED)]
    adaptive = jnp.sqrt(correction(b2, step)) / (jnp.sqrt(square) + settings.epsilon) * rectified
    p = p - lr / correction(b1, step) * mean * jnp.where(rectified > 0, adaptive, 1.0)
    return p, {"exp_avg": mean, "exp_avg_sq": square}


def lion(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """Lion after its decay (Chen et al., 2023, algorithm 2); torch has none."""
    b1, b2 = settings.betas
    mean = slots["exp_avg"]
    return p - lr * jnp.sign(b1 * mean + (1 - b1) * g), {"exp_avg": b2 * mean + (1 - b2) * g}


def adafactor(settings: Settings, p: Array, g: Array, slots: Slots, lr: Array, step: Array) -> tuple[Array, Slots]:
    """Adafactor after its decay; `lr` is that of `relative_rate`.

    A mean goes along the axis in which its slot has length 1. Where the parameter has that length too, no mean changes.
    """
    new = step**BETA2_DECAY
    squares = g * g

    def followed(slot: str) -> Array:
        old = slots[slot]
        axes = tuple(n for n, size in enumerate(g.shape) if old.shape[n] != size)
        return old + new * (squares.mean(axes, keepdims=True) - old)

    slots = {slot: followed(slot) for slot in slots}
    if "variance" in slots:
        square = slots["variance"]
    else:
        row, column = slots["row_var"], slots["col_var"]
        axes = tuple(n for n, size in enumerate(g.shape) if column.shape[n] != size)
        square = row * column / jnp.maximum(row.mean(axes, keepdims=True), SMALLEST)
    update = g / jnp.sqrt(jnp.maximum(square, SMALLEST**2))
    return p - lr / jnp.maximum(1.0, rms(update)) * update, slots


def relative_rate(p: Array, lr: Array, step: Array) -> Array:
    """Adafactor's learning rate: a share of the size of the parameter as it was before its decay."""
    return jnp.minimum(lr, 1 / jnp.sqrt(step)) * jnp.maximum(SMALLEST_SIZE, rms(p))


def rms(x: Array) -> Array:
    """The root of the mean of squares."""
    return jnp.sqrt(jnp.square(x).mean())


def nadam_momentum(b1: float, step):
    """NAdam's momentum of an update."""
    return b1 * (1 - 0.5 * 0.96 ** (step * MOMENTUM_DECAY))


@functools.cache
def nadam_products(b1: float) -> np.ndarray:
    """The product of NAdam's momenta after each number of updates from 0 on, float64."""
    return np.cumprod(np.append(1.0, nadam_momentum(b1, np.arange(1, SETTLED + 1, dtype=np.float64))))


def _rectifications(b2: float) -> np.ndarray:
    step, longest = np.arange(1, SETTLED + 1, dtype=np.float64), 2 / (1 - b2) - 1
    length = longest - 2 * step * b2**step / (1 - b2**step)
    inner = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return np.append(0.0, np.sqrt(np.where(length > 5, inner, 0.0)))


def _mean(settings: Settings, g: Array, slots: Slots) -> Array:
    return slots["exp_avg"] + (1 - settings.betas[0]) * (g - slots["exp_avg"])


@dataclass(frozen=True)
class Kind:
    """An optimiser: its rule, the arrays that it keeps of a parameter by torch's names, and torch's settings.

    Where it is `decoupled`, weights decay beside the rule and not through the gradient. Where it is `factored`,
    vectors have the last slot alone, and what has more axes the others: means along torch's last axis and the second
    to last.
    """

    rule: Rule
    slots: tuple[str, ...]
    epsilon: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.999)
    decoupled: bool = False
    factored: bool = False


MEANS = ("exp_avg", "exp_avg_sq")
KINDS = {
    "adamw": Kind(adam, MEANS, decoupled=True),
    "adam": Kind(adam, MEANS),
    "sgd": Kind(sgd, ()),
    "rmsprop": Kind(rmsprop, ("square_avg",)),
    "adagrad": Kind(adagrad, ("sum",), 1e-10),
    "adamax": Kind(adamax, ("exp_avg", "exp_inf")),
    "adadelta": Kind(adadelta, ("square_avg", "acc_delta"), 1e-6),
    "nadam": Kind(nadam, MEANS),
    "radam": Kind(radam, MEANS),
    "lion": Kind(lion, ("exp_avg",), betas=(0.9, 0.99), decoupled=True),
    "adafactor": Kind(adafactor, ("row_var", "col_var", "variance"), decoupled=True, factored=True),
}
