"""Which kernels the two halves of a block use, and what XLA computes in place of those they do not.

An operation without tiles is XLA's, written as `slt_jax.models` writes it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from slt_jax.models.attention import attention, flash_attention, takes_flash_attention
from slt_jax.models.layers import gelu
from tools.benchmarks.kernels import products
from tools.benchmarks.kernels.attention_forward import Tiles, attend
from tools.benchmarks.kernels.attention_gradient import Passes, gradient
from tools.benchmarks.kernels.products import Statistics

EPSILON = 1e-6


@dataclass(frozen=True)
class Choice:
    """Tiles of each operation's kernel; None is XLA's way, for attention cuDNN's where it is there."""

    attention: tuple[Tiles, Passes] | None = None
    norm: products.Tiles | None = None  # LayerNorm before queries, keys and values
    norm_gelu: products.Tiles | None = None  # LayerNorm before and GELU after the first product of the MLP
    add: products.Tiles | None = None  # the residual after the last product of either half
    gelu_gradient: products.Tiles | None = None
    norm_gradient: products.Tiles | None = None
    interpret: bool = False

    def normed(self, x: Array, kernel: Array, bias: Array) -> tuple[Array, Statistics]:
        """`standardised(x) @ kernel + bias`, and its statistics."""
        known = statistics(x)
        if self.norm is None:
            return seen(x, known) @ kernel + bias, known
        (y,) = products.product(x, kernel, bias, self.norm, self.interpret, statistics=known)
        return y, known

    def normed_gelu(self, x: Array, kernel: Array, bias: Array) -> tuple[Array, Array, Statistics]:
        """The same, the GELU of that, and the statistics."""
        known = statistics(x)
        if self.norm_gelu is None:
            y = seen(x, known) @ kernel + bias
            return y, gelu(y), known
        how: dict[str, Any] = {"statistics": known, "with_gelu": True}
        y, z = products.product(x, kernel, bias, self.norm_gelu, self.interpret, **how)
        return y, z, known

    def added(self, x: Array, kernel: Array, bias: Array, residual: Array) -> Array:
        """`residual + x @ kernel + bias`."""
        if self.add is None:
            return residual + (x @ kernel + bias)
        return products.product(x, kernel, bias, self.add, self.interpret, added=residual)[0]

    def through_gelu(self, of_z: Array, kernel: Array, y: Array) -> tuple[Array, Array]:
        """What reaches `y` of `gelu(y) @ kernel`, and its sum over rows."""
        if self.gelu_gradient is None:
            (of_y,) = jax.vjp(gelu, y)[1](of_z @ kernel.T)
            return of_y, of_y.sum(axis=0)
        of_y, sums = products.gelu_gradient(of_z, kernel, y, self.gelu_gradient, self.interpret)
        return of_y, sums.astype(y.dtype)

    def through_norm(self, of_y: Array, kernel: Array, x: Array, known: Statistics, of_x: Array) -> Array:
        """What reaches `x` of `standardised(x) @ kernel`, plus `of_x`."""
        if self.norm_gradient is None:
            found = (of_y @ kernel.T).astype(jnp.float32)
            y = products.standardised(x, known[0][:, None], known[1][:, None])
            level, slope = found.mean(axis=1, keepdims=True), (found * y).mean(axis=1, keepdims=True)
            return of_x + (known[1][:, None] * (found - level - y * slope)).astype(x.dtype)
        return products.norm_gradient(of_y, kernel, x, known, of_x, self.norm_gradient, self.interpret)

    def attend(self, packed: Array, real: int) -> tuple[Array, Any]:
        """Attention of (n, tokens, 3, heads, head) to its `real` first tokens, and what `attend_back` needs."""
        scale = packed.shape[-1] ** -0.5
        if self.attention is None:
            return jax.vjp(partial(attention_today, real=real), packed)
        mixed, total = attend(packed, scale, self.attention[0], self.interpret)
        return mixed, (packed, mixed, total)

    def attend_back(self, kept: Any, of_mixed: Array) -> Array:
        """The gradient of `packed`."""
        if self.attention is None:
            return kept(of_mixed)[0]
        packed, mixed, total = kept
        scale = packed.shape[-1] ** -0.5
        return gradient(packed, mixed, total, of_mixed, scale, self.attention[1], self.interpret)


def attention_today(packed: Array, *, real: int) -> Array:
    """What `slt_jax.models.vit.Attention` computes of (n, tokens, 3, heads, head)."""
    query, key, value = jnp.moveaxis(packed, 2, 0)
    scale = packed.shape[-1] ** -0.5
    if takes_flash_attention(packed.dtype, packed.shape[-1]):
        return flash_attention(query, key, value, real=real, scale=scale)
    return attention(query, key[:, :real], value[:, :real], scale=scale)


def statistics(x: Array) -> Statistics:
    """Mean and reciprocal deviation of each row, float32, the variance in two passes."""
    y = x.astype(jnp.float32)
    mean = y.mean(axis=1)
    return mean, jax.lax.rsqrt(jnp.square(y - mean[:, None]).mean(axis=1) + EPSILON)


def seen(x: Array, known: Statistics) -> Array:
    """Standardised rows, in `x`'s dtype."""
    return products.standardised(x, known[0][:, None], known[1][:, None]).astype(x.dtype)
