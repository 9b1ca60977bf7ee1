"""Softmax attention: as XLA computes it, or by cuDNN."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Key

from slt_jax.models.layers import dropout
from slt_jax.models.platform import factors_on_cpu, on_cpu

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
    if bias is None and (dropout_key is None or dropout_rate == 0.0) and on_cpu():
        return _attention_on_cpu(query * scale, key, value)
    by_head = (x.swapaxes(1, 2) for x in (query, key, value))
    mixed = attention_by_head(*by_head, bias=bias, scale=scale, dropout_rate=dropout_rate, dropout_key=dropout_key)
    return mixed.swapaxes(1, 2)


def attention_by_head(
    query: Float[Array, "b h q d"],
    key: Float[Array, "b h k d"],
    value: Float[Array, "b h k d"],
    *,
    bias: Float[Array, "#b #h #q #k"] | None = None,
    scale: float = 1.0,
    dropout_rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "b h q d"]:
    """`attention` for arrays in which each head's rows lie together: so a cache is read without being transposed."""
    each_head = (0, 1), (0, 1)
    scores = jax.lax.dot_general(query * scale, key, (((3,), (3,)), each_head), preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    weights = dropout(jax.nn.softmax(scores, axis=-1), dropout_rate, dropout_key).astype(value.dtype)
    return jax.lax.dot_general(weights, value, (((3,), (2,)), each_head))


def unpacked(packed: Float[Array, "b n three_d"], heads: int) -> tuple[Float[Array, "b n {heads} head"], ...]:
    """Queries, keys and values by head, from what one product made of all three."""
    b, n, _ = packed.shape
    parts = packed.reshape(b, n, 3, heads, -1)
    if not on_cpu():
        return tuple(jnp.moveaxis(parts, 2, 0))
    # Gradients of parts are put side by side. Those of slices are padded and added, in which a CPU is slow.
    return tuple(part[:, :, 0] for part in jnp.split(parts, 3, axis=2))


@jax.custom_vjp
def _attention_on_cpu(query: Array, key: Array, value: Array) -> Array:
    """The same, with its products in another order than JAX takes them.

    A result of 257 rows of 64 numbers takes a CPU half the time of one of 64 rows of 257.
    """
    return _forward(query, key, value)[0]


def _forward(query: Array, key: Array, value: Array) -> tuple[Array, Residuals]:
    weights = jax.nn.softmax(_scores(query, key), axis=-1).astype(factors_on_cpu(value.dtype))
    return _by_query(weights, value), (query, key, value, weights)


def _backward(kept: Residuals, gradient: Array) -> tuple[Array, Array, Array]:
    query, key, value, weights = kept
    shares = weights * _scores(gradient, value)
    of_scores = (shares - weights * shares.sum(axis=-1, keepdims=True)).astype(weights.dtype)
    return _by_query(of_scores, key), _by_key(of_scores, query), _by_key(weights, gradient)


_attention_on_cpu.defvjp(_forward, _backward)


def _product(a: Array, b: Array, dimensions) -> Array:
    dtype = factors_on_cpu(a.dtype)
    return jax.lax.dot_general(a.astype(dtype), b.astype(dtype), dimensions, preferred_element_type=jnp.float32)


def _scores(query: Array, key: Array) -> Array:
    """Queries (b, q, h, d) times keys (b, k, h, d): (b, h, q, k)."""
    return _product(query, key, (((3,), (3,)), ((0, 2), (0, 2))))


def _by_query(table: Array, rows: Array) -> Array:
    """Table (b, h, q, k) times rows (b, k, h, d), summed over keys: (b, q, h, d)."""
    found = _product(table, rows, (((3,), (1,)), ((0, 1), (0, 2))))
    return found.transpose(0, 2, 1, 3).astype(rows.dtype)


def _by_key(table: Array, rows: Array) -> Array:
    """Table (b, h, q, k) times rows (b, q, h, d), summed over queries: (b, k, h, d)."""
    if table.dtype == jnp.bfloat16:  # XLA has no such product of a table of bfloat16 that is read by columns
        found = _product(rows, table, (((1,), (2,)), ((0, 2), (0, 1))))
        return found.transpose(0, 3, 1, 2).astype(rows.dtype)
    found = _product(table, rows, (((2,), (1,)), ((0, 1), (0, 2))))
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
