"""Softmax attention: as XLA computes it, or by cuDNN."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Key

from slt_jax.models.layers import dropout

Residuals = tuple[Array, Array, Array, Array]


def attention(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k h d"],
    value: Float[Array, "b k h d"],
    *,
    bias: Float[Array, "#b #h #q #k"] | None = None,
    scale: float = 1.0,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "b q h d"]:
    """Softmax attention with the softmax in float32; `bias` is added to the scores."""
    query = query * scale
    if bias is None and (dropout_key is None or dropout_rate == 0.0) and jax.default_backend() == "cpu":
        return _on_cpu(query, key, value)
    scores = _scores(query, key)
    if bias is not None:
        scores = scores + bias
    weights = dropout(jax.nn.softmax(scores, axis=-1), dropout_rate, dropout_key)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(value.dtype), value)


def _scores(query: Array, key: Array) -> Array:
    return jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _on_cpu(query: Array, key: Array, value: Array) -> Array:
    """The same, with its products in another order than JAX takes them.

    A result of 257 rows of 64 numbers takes a CPU half the time of one of 64 rows of 257.
    """
    return _forward(query, key, value)[0]


def _forward(query: Array, key: Array, value: Array) -> tuple[Array, Residuals]:
    weights = jax.nn.softmax(_scores(query, key), axis=-1)
    return _by_head(weights.astype(value.dtype), value, 3), (query, key, value, weights)


def _backward(kept: Residuals, gradient: Array) -> tuple[Array, Array, Array]:
    query, key, value, weights = kept
    shares = weights * _scores(gradient, value)
    of_scores = shares - weights * shares.sum(axis=-1, keepdims=True)
    return _by_head(of_scores, key, 3), _by_head(of_scores, query, 2), _by_head(weights, gradient, 2)


_on_cpu.defvjp(_forward, _backward)


def _by_head(table: Array, rows: Array, summed: int) -> Array:
    """Table (b, h, q, k) times rows (b, q or k, h, d), summed over axis `summed` of the table: (b, k or q, h, d)."""
    dimensions = (((summed,), (1,)), ((0, 1), (0, 2)))
    found = jax.lax.dot_general(table.astype(jnp.float32), rows.astype(jnp.float32), dimensions)
    return found.transpose(0, 2, 1, 3).astype(rows.dtype)


def takes_flash_attention(dtype, head: int) -> bool:
    """Whether `flash_attention` runs here: 16-bit floats on an NVIDIA GPU that is an Ampere or younger."""
    capability = getattr(jax.devices()[0], "compute_capability", "")
    ampere = re.fullmatch(r"\d+\.\d+", str(capability)) and float(capability) >= 8
    return bool(ampere) and np.dtype(dtype).itemsize == 2 and head % 8 == 0 and head <= 128


def flash_attention(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b n h d"],
    value: Float[Array, "b n h d"],
    *,
    real: int,
    scale: float,
) -> Float[Array, "b n h d"]:
    """`attention` to the first `real` keys by cuDNN, which never stores the scores. Takes even numbers of tokens.

    Dao et al., 2022.
    """
    lengths = jnp.full(len(key), real, jnp.int32)
    return jax.nn.dot_product_attention(
        query, key, value, scale=scale, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def mask_bias(keep: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """0 where `keep`, the smallest float32 elsewhere. Added to scores, a row that keeps nothing stays finite."""
    return jnp.where(keep, 0.0, jnp.finfo(jnp.float32).min)
