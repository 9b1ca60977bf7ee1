"""What the decoder families share: the protocol, configs, activations, shifted labels, masks, the key/value cache.

The protocol of a decoder, which `T5` and `Bart` have and `generate` uses:

    model.config                                                             mapping of HuggingFace config fields
    model.shift_right(labels (B, S))                                         decoder inputs (B, S)
    model(encoded (B, T, d), encoder_mask (B, T), ids (B, S), mask (B, S))   logits (B, S, vocab), float32
    model.init_cache(encoded, encoder_mask, max_length)                      cache
    model.decode_step(tokens (B,), position (), cache)                       logits (B, vocab), cache
    model.spread_cache(cache, copies)                                        the same for `copies` beams a sentence
    model.grow_cache(cache, max_length)                                      the same with room for more tokens

A cache is `{"self": a (keys, values) pair a layer, each (rows, heads, max_length, head_dim); "cross": the same of the
encoded frames, (B, heads, T, head_dim); "encoder_mask": (B, T)}`. Beam search reorders "self" alone, which has a row
for each beam: the rest is the same for every beam of a sentence.

Matrix products run in `dtype`; the residual stream stays float32, as under torch's autocast (T5's outgrows float16).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Key, Shaped

from slt_jax.models.attention import attention_by_head
from slt_jax.models.layers import gelu, logits

Frames = Float[Array | np.ndarray, "b t d_model"]
FrameMask = Shaped[Array | np.ndarray, "b t"] | None  # True/1 = real; None where every frame is
States = Float[Array, "b s d_model"]
Position = Int[ArrayLike, ""]
KeysValues = tuple[Float[Array, "_ heads _ head_dim"], Float[Array, "_ heads _ head_dim"]]
Cache = dict
DecodeStep = Callable[[Int[Array, " b"], Position, Cache], tuple[Float[Array, "b vocab"], Cache]]


class AttentionSizes(NamedTuple):
    """What the caches of a decoder measure."""

    layers: int
    heads: int
    head_dim: int


class FrozenConfig(dict):
    """A config a module can hold: nnx hashes what is not an array, so lists become tuples and mappings are left out."""

    def __init__(self, config: Mapping):
        super().__init__(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in config.items()
            if not isinstance(value, Mapping)
        )

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        return hash(repr(sorted(self.items())))


# --- activations, by HuggingFace's names --------------------------------------------------------------------------


def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU in the approximation by tanh."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU in the approximation by a sigmoid."""
    return x * jax.nn.sigmoid(1.702 * x)


def identity(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` as it is."""
    return x


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": identity,
}


def activation(name: str):
    """An activation function by HuggingFace's name. Raises ValueError for an unknown one."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


# --- tokens and masks ---------------------------------------------------------------------------------------------


def shift_right(labels: Int[Array | np.ndarray, "b s"], start: int | None, pad: int | None) -> Int[Array, "b s"]:
    """Decoder inputs: `start`, then `labels` without the last; -100 becomes `pad`."""
    if start is None or pad is None:
        raise ValueError("the decoder config needs decoder_start_token_id and pad_token_id to shift labels")
    labels = jnp.asarray(labels)
    shifted = jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=start)
    return jnp.where(shifted == -100, pad, shifted)


def causal_keep(length: int, attention_mask: Shaped[Array | np.ndarray, "b s"] | None) -> Bool[Array, "#b 1 s s"]:
    """Each of `length` positions sees itself and the past, as far as `attention_mask` allows."""
    keep = jnp.tril(jnp.ones((length, length), bool))[None, None]
    return keep if attention_mask is None else keep & jnp.asarray(attention_mask, bool)[:, None, None, :]


def past_keep(length: int, position: Position) -> Bool[Array, "1 1 1 length"]:
    """The filled part of a cache, `position` included."""
    return (jnp.arange(length) <= position)[None, None, None, :]


def memory_keep(encoder_mask: Shaped[Array | np.ndarray, "b t"]) -> Bool[Array, "b 1 1 t"]:
    """What queries may look at: the real frames."""
    return jnp.asarray(encoder_mask, bool)[:, None, None, :]


# --- cache and logits ---------------------------------------------------------------------------------------------


def split_heads(x: Float[Array, "b s d"], heads: int) -> Float[Array, "b {heads} s head_dim"]:
    """`d` is heads * head_dim."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(1, 2)


def attend(
    query: Float[Array, "rows s d"],
    keys_values: KeysValues,
    bias: Float[Array, "#b #heads #s #k"] | None,
    *,
    scale: float = 1.0,
    rate: float,
    key: Key[Array, ""] | None,
) -> Float[Array, "rows s d"]:
    """What each query reads. The beams of a sentence, which lie together, read its keys and values together."""
    rows, length, width = query.shape
    sentences, heads, *_ = keys_values[0].shape
    query = split_heads(query.reshape(sentences, -1, width), heads)
    mixed = attention_by_head(query, *keys_values, bias=bias, scale=scale, dropout_rate=rate, dropout_key=key)
    return mixed.swapaxes(1, 2).reshape(rows, length, width)


def empty_cache(batch: int, length: int, heads: int, head_dim: int, dtype) -> KeysValues:
    """Keys and values (B, heads, length, head_dim), all 0."""
    keys = jnp.zeros((batch, heads, length, head_dim), dtype)
    return keys, jnp.zeros_like(keys)


def write_cache(cache: KeysValues, new: KeysValues, position: Position) -> KeysValues:
    """`cache` with `new` (B, heads, 1, head_dim) at `position`."""
    return jax.tree.map(lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, position, axis=2), cache, new)


def has_cache(model: Any) -> bool:
    """Whether a decoder goes on token by token by itself."""
    return getattr(model, "decode_step", None) is not None and getattr(model, "init_cache", None) is not None


def cache_for_beams(model: Any, cache: Cache, beams: int) -> Cache:
    """The `model`'s cache with rows for so many beams of each sentence: by its own rule, or by copies of all arrays."""
    if hasattr(model, "spread_cache"):
        return model.spread_cache(cache, beams)
    return _repeated(cache, beams)


def spread_cache(cache: Cache, copies: int) -> Cache:
    """`cache` with `copies` rows for each sentence, one after the other; what they all read stays as it is."""
    return cache | {"self": _repeated(cache["self"], copies)}


def _repeated(arrays: Any, copies: int) -> Any:
    return jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), arrays)


def grow_cache(cache: Cache, length: int) -> Cache:
    """`cache` with room for `length` tokens, empty after those that it had room for."""

    def longer(x: Float[Array, "b heads old head_dim"]) -> Float[Array, "b heads room head_dim"]:
        return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))

    return cache | {"self": jax.tree.map(longer, cache["self"])}


def vocabulary_logits(x: Float[Array, "b s d"], head: nnx.Embed | nnx.Linear, dtype) -> Float[Array, "b s vocab"]:
    """float32 logits of states: sums in float32 whatever `dtype` is."""
    weight = head.embedding[...] if isinstance(head, nnx.Embed) else head.kernel[...].T
    return logits(jnp.asarray(x, dtype), jnp.asarray(weight, dtype))
