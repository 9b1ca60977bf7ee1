"""The two halves of a ViT's block with their gradients written out, so that kernels can take any part of them.

`swapped` puts them into `slt_jax.models.vit`, for the process of a benchmark.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from slt_jax.models import vit
from slt_jax.models.layers import Adapted
from tools.benchmarks.kernels.choice import EPSILON, Choice, seen

Weights = tuple[Array, Array, Array, Array]  # kernel and bias of the first product, and of the last


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def feed_forward(x: Array, weights: Weights, choice: Choice) -> Array:
    """Rows (rows, d) plus what the MLP makes of them."""
    return _feed_forward(x, weights, choice)[0]


def _feed_forward(x: Array, weights: Weights, choice: Choice) -> tuple[Array, tuple]:
    first, first_bias, last, last_bias = weights
    y, z, known = choice.normed_gelu(x, first, first_bias)
    return choice.added(z, last, last_bias, x), (x, first, last, y, z, known)


def _feed_forward_gradient(choice: Choice, kept: tuple, of_out: Array) -> tuple[Array, Weights]:
    x, first, last, y, z, known = kept
    of_y, of_first_bias = choice.through_gelu(of_out, last, y)
    of_weights = seen(x, known).T @ of_y, of_first_bias, z.T @ of_out, of_out.sum(axis=0)
    return choice.through_norm(of_y, first, x, known, of_out), of_weights


feed_forward.defvjp(_feed_forward, _feed_forward_gradient)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def attention(x: Array, weights: Weights, shape: tuple[int, int, int], real: int, choice: Choice) -> Array:
    """Rows plus what attention makes of them; `shape` is (images, heads, head)."""
    return _attention(x, weights, shape, real, choice)[0]


def _attention(
    x: Array, weights: Weights, shape: tuple[int, int, int], real: int, choice: Choice
) -> tuple[Array, tuple]:
    first, first_bias, last, last_bias = weights
    packed, known = choice.normed(x, first, first_bias)
    mixed, kept = choice.attend(packed.reshape(shape[0], -1, 3, *shape[1:]), real)
    mixed = mixed.reshape(len(x), -1)
    return choice.added(mixed, last, last_bias, x), (x, first, last, mixed, known, kept)


def _attention_gradient(
    shape: tuple[int, int, int], _: int, choice: Choice, kept: tuple, of_out: Array
) -> tuple[Array, Weights]:
    x, first, last, mixed, known, kept_by_attention = kept
    of_mixed = (of_out @ last.T).reshape(shape[0], -1, *shape[1:])
    of_packed = choice.attend_back(kept_by_attention, of_mixed).reshape(len(x), -1)
    of_weights = seen(x, known).T @ of_packed, of_packed.sum(axis=0), mixed.T @ of_out, of_out.sum(axis=0)
    return choice.through_norm(of_packed, first, x, known, of_out), of_weights


attention.defvjp(_attention, _attention_gradient)


def _folded(layer: nnx.Linear, dtype: Any, norm: nnx.LayerNorm | None = None, scale: Any = None) -> tuple[Array, Array]:
    """The kernel and bias that `slt_jax.models.layers.product` multiplies with."""
    assert layer.bias is not None
    kernel, bias = layer.kernel[...], layer.bias[...]
    if norm is not None:
        assert norm.scale is not None
        assert norm.bias is not None
        bias = bias + jnp.sum(norm.bias[...][:, None] * kernel, axis=0)
        kernel = norm.scale[...][:, None] * kernel
    if scale is not None:
        kernel, bias = kernel * scale.gamma[...], bias * scale.gamma[...]
    return kernel.astype(dtype), bias.astype(dtype)


def _with_kernels(block: vit.Block, x: Array, real: int, choice: Choice) -> Array:
    n, tokens, d = x.shape
    heads, dtype = block.attn.num_heads, x.dtype
    rows = x.reshape(-1, d)
    weights = (*_folded(block.attn.qkv, dtype, block.norm1), *_folded(block.attn.proj, dtype, scale=block.ls1))
    rows = attention(rows, weights, (n, heads, d // heads), real, choice)
    mlp: Any = block.mlp
    weights = (*_folded(mlp.fc1, dtype, block.norm2), *_folded(mlp.fc2, dtype, scale=block.ls2))
    return feed_forward(rows, weights, choice).reshape(n, tokens, d)


@contextmanager
def swapped(choice: Choice) -> Iterator[None]:
    """ViTs in bfloat16 compute their blocks by the halves above, and are not padded where a kernel attends.

    As they are stay a last block of which one token is wanted, branches that are left out, adapters and SwiGLU.
    """
    plain, flash = vit.Block.__call__, vit.takes_flash_attention

    def call(block: vit.Block, x: Array, *, real: int, kept: int | None = None, branches: Any = None) -> Array:
        layers = block.attn.qkv, block.attn.proj
        ours = isinstance(block.mlp, vit.Mlp) and not any(isinstance(layer, Adapted) for layer in layers)
        if x.dtype != jnp.bfloat16 or kept is not None or branches is not None or not ours:
            return plain(block, x, real=real, kept=kept, branches=branches)
        assert block.norm1.epsilon == block.norm2.epsilon == EPSILON
        return _with_kernels(block, x, real, choice)

    def flash_attention_there(dtype: Any, head: int) -> bool:
        return (choice.attention is None or jnp.dtype(dtype) != jnp.bfloat16) and flash(dtype, head)

    with (
        mock.patch.object(vit.Block, "__call__", call),
        mock.patch.object(vit, "takes_flash_attention", flash_attention_there),
    ):
        yield
