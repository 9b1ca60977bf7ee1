"""T5 (Raffel et al., 2020), T5 v1.1 and mT5: HuggingFace's T5ForConditionalGeneration in Flax NNX.

Attribute names are torch's, in torch's order. In training the frames take the place of the text encoder's output;
the text encoder is here because checkpoints hold the whole model. See `seq2seq` for the protocol and the precision.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Int32, Key, Shaped

from slt_jax.models.attention import mask_bias
from slt_jax.models.layers import dropout, linear, normal, residual, split
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.seq2seq import (
    Cache,
    FrameMask,
    Frames,
    FrozenConfig,
    KeysValues,
    Position,
    States,
    activation,
    attend,
    causal_keep,
    empty_cache,
    grow_cache,
    memory_keep,
    past_keep,
    shift_right,
    split_heads,
    spread_cache,
    vocabulary_logits,
    write_cache,
)
from slt_jax.models.t5_config import normalise_t5_config


class T5(nnx.Module):
    """HuggingFace's `T5ForConditionalGeneration` (also mT5): the decoder reads encoded frames instead of text."""

    def __init__(self, config: Mapping, *, dtype=jnp.float32, memory: Memory = KEEP_ALL, rngs: nnx.Rngs):
        config = FrozenConfig(normalise_t5_config(config))
        vocab, width = config["vocab_size"], config["d_model"]
        embedding_init = normal(config["initializer_factor"])

        # One Embed under every name: nnx keeps a shared module's arrays once, as torch keeps one storage.
        self.shared = nnx.Embed(vocab, width, embedding_init=embedding_init, rngs=rngs)
        share = {"dtype": dtype, "memory": memory, "rngs": rngs}
        self.encoder = Stack(config, config["num_layers"], self.shared, causal=False, **share)
        self.decoder = Stack(config, config["num_decoder_layers"], self.shared, causal=True, **share)
        if config["tie_word_embeddings"]:
            self.lm_head: nnx.Embed | nnx.Linear = self.shared
        else:
            self.lm_head = linear(width, vocab, use_bias=False, init=embedding_init, dtype=dtype, rngs=rngs)
        self.config = config
        self.dtype = dtype

    def __call__(
        self,
        encoded: Frames,
        encoder_mask: FrameMask,
        decoder_input_ids: Int[Array | np.ndarray, "b s"],
        decoder_attention_mask: Shaped[Array | np.ndarray, "b s"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "b s vocab"]:
        """Logits, float32, of frames and tokens; masks True/1 = real."""
        keep = causal_keep(decoder_input_ids.shape[1], decoder_attention_mask)
        encoded_keep = None if encoder_mask is None else memory_keep(encoder_mask)
        return self._logits(
            self.decoder(jnp.asarray(decoder_input_ids), keep, jnp.asarray(encoded), encoded_keep, key=key)
        )

    def encode(
        self, input_ids: Int[Array | np.ndarray, "b t"], mask: FrameMask = None, *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b t d_model"]:
        """States of a text."""
        return self.encoder(jnp.asarray(input_ids), None if mask is None else memory_keep(mask), key=key)

    def shift_right(self, labels: Int[Array | np.ndarray, "b s"]) -> Int[Array, "b s"]:
        """Decoder inputs of `labels`."""
        return shift_right(labels, self.config["decoder_start_token_id"], self.config["pad_token_id"])

    def init_cache(self, encoded: Frames, encoder_mask: FrameMask, max_length: int) -> Cache:
        """A cache for up to `max_length` tokens, with the keys and values of the encoded frames."""
        batch, frames, _ = encoded.shape
        sizes = batch, max_length, self.config["num_heads"], self.config["d_kv"], self.dtype
        return {
            "self": [empty_cache(*sizes) for _ in self.decoder.block],
            "cross": [block.layer[1].EncDecAttention.keys_values(jnp.asarray(encoded)) for block in self.decoder.block],
            "encoder_mask": jnp.ones((batch, frames), bool) if encoder_mask is None else encoder_mask,
        }

    def decode_step(
        self, tokens: Int[Array, " b"], position: Position, cache: Cache
    ) -> tuple[Float[Array, "b vocab"], Cache]:
        """Logits after `tokens` at `position`, and the cache with them in it."""
        x, filled = self.decoder.step(tokens, position, cache)
        return self._logits(x)[:, 0], cache | {"self": filled}

    def spread_cache(self, cache: Cache, copies: int) -> Cache:
        """`cache` for `copies` beams of each sentence, which share the encoded frames."""
        return spread_cache(cache, copies)

    def grow_cache(self, cache: Cache, max_length: int) -> Cache:
        """`cache` with room for `max_length` tokens."""
        return grow_cache(cache, max_length)

    def _logits(self, x: States) -> Float[Array, "b s vocab"]:
        if self.config["scale_decoder_outputs"]:
            x = x * self.config["d_model"] ** -0.5
        return vocabulary_logits(x, self.lm_head, self.dtype)


class Stack(nnx.Module):
    """The text encoder, or the decoder where `causal`."""

    def __init__(
        self, config: Mapping, layers: int, embed: nnx.Embed, *, causal: bool, dtype, memory: Memory, rngs: nnx.Rngs
    ):
        self.embed_tokens = embed
        self.block = nnx.List(
            [Block(config, causal=causal, has_bias=i == 0, dtype=dtype, rngs=rngs) for i in range(layers)]
        )
        self.final_layer_norm = RMSNorm(config, dtype=dtype)
        self.causal = causal
        self.rate = config["dropout_rate"]
        self.memory = memory

    def __call__(
        self,
        ids: Int[Array, "b s"],
        keep: Bool[Array, "#b 1 #s s"] | None,
        encoded: Float[Array, "b t d_model"] | None = None,
        encoded_keep: Bool[Array, "b 1 1 t"] | None = None,
        *,
        key: Key[Array, ""] | None,
    ) -> States:
        """States of `ids`; each sees what `keep` allows, and of the frames what `encoded_keep` does."""
        first_key, last_key, *block_keys = split(key, len(self.block) + 2)
        positions = jnp.arange(ids.shape[1])
        bias = self._bias(positions, positions, keep)
        cross_bias = None if encoded_keep is None else mask_bias(encoded_keep)

        x = dropout(self.embed_tokens(ids), self.rate, first_key)
        for block, block_key in zip(self.block, block_keys, strict=True):
            cross = block.layer[1].EncDecAttention.keys_values(encoded) if self.causal else None
            x, _ = self.memory.block(block)(residual(x), bias, cross, cross_bias, key=block_key)
        return dropout(self.final_layer_norm(x), self.rate, last_key)

    def step(
        self, tokens: Int[Array, " b"], position: Position, cache: Cache
    ) -> tuple[Float[Array, "b 1 d_model"], list[KeysValues]]:
        """The state of one token a sentence, and the self-attention caches with it in them."""
        length = cache["self"][0][0].shape[2]
        bias = self._bias(jnp.asarray(position)[None], jnp.arange(length), past_keep(length, position))
        cross_bias = mask_bias(memory_keep(cache["encoder_mask"]))

        x = self.embed_tokens(tokens[:, None])
        filled = []
        for block, past, cross in zip(self.block, cache["self"], cache["cross"], strict=True):
            x, past = block(x, bias, cross, cross_bias, past=past, position=position)
            filled.append(past)
        return self.final_layer_norm(x), filled

    def _bias(
        self, queries: Int[Array, " q"], keys: Int[Array, " k"], keep: Bool[Array, "#b 1 #q k"] | None
    ) -> Float[Array, "#b h q k"]:
        """What the first block's table says of the distances, for all blocks; float32."""
        attend = self.block[0].layer[0].SelfAttention
        distance = queries[:, None] - keys[None, :]
        table = jnp.asarray(distance_buckets(len(keys), attend.buckets, attend.max_distance, self.causal))
        if self.causal:
            bucket = table[jnp.maximum(distance, 0)]
        else:  # the second half of the buckets is for the future
            bucket = table[jnp.abs(distance)] + jnp.where(distance < 0, attend.buckets // 2, 0)
        bias = jnp.moveaxis(attend.relative_attention_bias(bucket), -1, 0)[None]
        return bias if keep is None else bias + mask_bias(keep)


def distance_buckets(length: int, buckets: int, max_distance: int, causal: bool) -> Int32[np.ndarray, " length"]:
    """The bucket of each distance 0 .. length - 1: exact for near ones, logarithmic up to `max_distance`.

    On the host, in float32: the borders fall on powers of two, where a last bit of a device's log would decide.
    """
    buckets = buckets if causal else buckets // 2
    exact = buckets // 2
    distance = np.arange(length)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    log_steps = ratio / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + log_steps.astype(np.int32), buckets - 1)
    return np.where(distance < exact, distance, far).astype(np.int32)


class Block(nnx.Module):
    """Self-attention, attention to the frames (decoder only), feed-forward; normalised before, added after each."""

    def __init__(self, config: Mapping, *, causal: bool, has_bias: bool, dtype, rngs: nnx.Rngs):
        layers: list[Any] = [SelfAttentionLayer(config, has_bias, dtype=dtype, rngs=rngs)]
        if causal:
            layers.append(CrossAttentionLayer(config, dtype=dtype, rngs=rngs))
        layers.append(FeedForwardLayer(config, dtype=dtype, rngs=rngs))
        self.layer = nnx.List(layers)

    def __call__(
        self,
        x: States,
        bias: Float[Array, "#b h s k"],
        cross: KeysValues | None,
        cross_bias: Float[Array, "_ 1 1 t"] | None,
        *,
        past: KeysValues | None = None,
        position: Position | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[States, KeysValues]:
        """`x` and the self-attention's keys and values; with `past`, that cache with `x` written in."""
        self_key, cross_key, ff_key = split(key, 3)
        x, past = self.layer[0](x, bias, past, position, key=self_key)
        if cross is not None:
            x = self.layer[1](x, cross, cross_bias, key=cross_key)
        return self.layer[-1](x, key=ff_key), past


class SelfAttentionLayer(nnx.Module):
    """Norm, self-attention and residual."""

    def __init__(self, config: Mapping, has_bias: bool, *, dtype, rngs: nnx.Rngs):
        self.SelfAttention = Attention(config, has_bias=has_bias, dtype=dtype, rngs=rngs)
        self.layer_norm = RMSNorm(config, dtype=dtype)
        self.rate = config["dropout_rate"]

    def __call__(
        self,
        x: States,
        bias: Float[Array, "#b h s k"],
        past: KeysValues | None,
        position: Position | None,
        *,
        key: Key[Array, ""] | None,
    ) -> tuple[States, KeysValues]:
        """The next states, and the keys and values that were read."""
        attention_key, output_key = split(key, 2)
        normed = self.layer_norm(x)
        keys_values = self.SelfAttention.keys_values(normed)
        if past is not None and position is not None:
            keys_values = write_cache(past, keys_values, position)
        attended = self.SelfAttention(normed, keys_values, bias, key=attention_key)
        return x + dropout(attended, self.rate, output_key), keys_values


class CrossAttentionLayer(nnx.Module):
    """Norm, attention to the encoded frames, and residual."""

    def __init__(self, config: Mapping, *, dtype, rngs: nnx.Rngs):
        self.EncDecAttention = Attention(config, has_bias=False, dtype=dtype, rngs=rngs)
        self.layer_norm = RMSNorm(config, dtype=dtype)
        self.rate = config["dropout_rate"]

    def __call__(
        self, x: States, keys_values: KeysValues, bias: Float[Array, "#n #h #s k"] | None, *, key: Key[Array, ""] | None
    ) -> States:
        """The next states; `keys_values` are the encoded frames'."""
        attention_key, output_key = split(key, 2)
        attended = self.EncDecAttention(self.layer_norm(x), keys_values, bias, key=attention_key)
        return x + dropout(attended, self.rate, output_key)


class FeedForwardLayer(nnx.Module):
    """Norm, feed-forward part and residual."""

    def __init__(self, config: Mapping, *, dtype, rngs: nnx.Rngs):
        self.DenseReluDense = FeedForward(config, dtype=dtype, rngs=rngs)
        self.layer_norm = RMSNorm(config, dtype=dtype)
        self.rate = config["dropout_rate"]

    def __call__(self, x: States, *, key: Key[Array, ""] | None) -> States:
        """The next states."""
        hidden_key, output_key = split(key, 2)
        return x + dropout(self.DenseReluDense(self.layer_norm(x), key=hidden_key), self.rate, output_key)


class Attention(nnx.Module):
    """Unscaled dot products: the initialisation of `q` holds the 1/sqrt(d_kv)."""

    def __init__(self, config: Mapping, *, has_bias: bool, dtype, rngs: nnx.Rngs):
        width, heads, head_dim = config["d_model"], config["num_heads"], config["d_kv"]
        factor = config["initializer_factor"]

        def projection(in_features: int, out_features: int, variance: float) -> nnx.Linear:
            init = normal(factor * variance**0.5)
            return linear(in_features, out_features, use_bias=False, init=init, dtype=dtype, rngs=rngs)

        self.q = projection(width, heads * head_dim, 1 / (width * head_dim))
        self.k = projection(width, heads * head_dim, 1 / width)
        self.v = projection(width, heads * head_dim, 1 / width)
        self.o = projection(heads * head_dim, width, 1 / (heads * head_dim))
        self.buckets = config["relative_attention_num_buckets"]
        self.max_distance = config["relative_attention_max_distance"]
        if has_bias:
            init = normal(factor * width**-0.5)
            self.relative_attention_bias = nnx.Embed(self.buckets, heads, embedding_init=init, rngs=rngs)
        self.heads = heads
        self.rate = config["dropout_rate"]

    def keys_values(self, memory: Float[Array, "b k d_model"]) -> KeysValues:
        """Of `memory`: each (B, heads, K, d_kv)."""
        return split_heads(self.k(memory), self.heads), split_heads(self.v(memory), self.heads)

    def __call__(
        self, x: States, keys_values: KeysValues, bias: Float[Array, "#n #h #s k"] | None, *, key: Key[Array, ""] | None
    ) -> States:
        """What each state reads from `keys_values`."""
        return self.o(attend(self.q(x), keys_values, bias, rate=self.rate, key=key))


class FeedForward(nnx.Module):
    """Two projections with an activation between them, or three with a gate."""

    def __init__(self, config: Mapping, *, dtype, rngs: nnx.Rngs):
        width, hidden, factor = config["d_model"], config["d_ff"], config["initializer_factor"]

        def projection(in_features: int, out_features: int, dtype) -> nnx.Linear:
            init = normal(factor * in_features**-0.5)
            return linear(in_features, out_features, use_bias=False, init=init, dtype=dtype, rngs=rngs)

        if config["is_gated_act"]:
            self.wi_0 = projection(width, hidden, dtype)
            self.wi_1 = projection(width, hidden, dtype)
        else:
            self.wi = projection(width, hidden, dtype)
        # Its outputs leave float16's range in large models; HuggingFace keeps it in float32 as well.
        self.wo = projection(hidden, width, jnp.float32 if dtype == jnp.float16 else dtype)
        self.act = activation(config["dense_act_fn"])
        self.gated = config["is_gated_act"]
        self.rate = config["dropout_rate"]

    def __call__(self, x: States, *, key: Key[Array, ""] | None) -> States:
        """What is added to each state."""
        hidden = self.act(self.wi_0(x)) * self.wi_1(x) if self.gated else self.act(self.wi(x))
        return self.wo(dropout(hidden, self.rate, key))


class RMSNorm(nnx.Module):
    """T5's LayerNorm: no mean, no bias; statistics in float32."""

    def __init__(self, config: Mapping, *, dtype):
        self.weight = nnx.Param(jnp.full(config["d_model"], config["initializer_factor"], jnp.float32))
        self.epsilon = config["layer_norm_epsilon"]
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*rows d_model"]) -> Float[Array, "*rows d_model"]:
        """In the dtype of the computation."""
        x = x.astype(jnp.float32)
        x = x * (jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon) ** -0.5
        return (self.weight[...] * x).astype(self.dtype)
