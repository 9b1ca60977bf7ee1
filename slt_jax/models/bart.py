"""BART (Lewis et al., 2020) and mBART: HuggingFace's Bart/MBartForConditionalGeneration in Flax NNX.

Attribute names are torch's, in torch's order. mBART normalises before each sublayer and once more after the last,
BART after each sublayer. See `seq2seq` for the protocol and the precision.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Key, Shaped

from slt_jax.config import ModelConfig
from slt_jax.models.attention import mask_bias
from slt_jax.models.layers import Buffer, dropout, layer_norm, linear, normal, residual, split
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.seq2seq import (
    AttentionSizes,
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

DEFAULTS = {
    "model_type": "bart",
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "encoder_layerdrop": 0.0,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "decoder_layerdrop": 0.0,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.02,
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
POSITION_OFFSET = 2  # rows 0 and 1 of the position tables have been unused since fairseq


def normalise_bart_config(raw: Mapping) -> dict:
    """Every field the model reads, with HuggingFace's defaults for `model_type` bart or mbart."""
    mbart = {"decoder_start_token_id": None} if raw.get("model_type") == "mbart" else {}
    return DEFAULTS | mbart | dict(raw)


def settings_from_flags(config: ModelConfig) -> dict:
    """The settings of v9's BART: those that its flags set, beside the ones that all families share."""
    return {
        "encoder_layers": config.decoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.decoder_heads,
        "decoder_attention_heads": config.decoder_heads,
        "encoder_ffn_dim": 4 * config.d_model,
        "decoder_ffn_dim": 4 * config.d_model,
        "dropout": config.decoder_dropout,
    }


def attention_sizes(settings: Mapping) -> AttentionSizes:
    """The sizes of the attention of a decoder with these settings."""
    config = normalise_bart_config(settings)
    heads = config["decoder_attention_heads"]
    return AttentionSizes(config["decoder_layers"], heads, config["d_model"] // heads)


class Bart(nnx.Module):
    """`model_type` in the config says bart or mbart."""

    def __init__(self, config: Mapping, *, dtype=jnp.float32, memory: Memory = KEEP_ALL, rngs: nnx.Rngs):
        config = FrozenConfig(normalise_bart_config(config))
        vocab, width = config["vocab_size"], config["d_model"]
        self.final_logits_bias = Buffer(jnp.zeros((1, vocab)))
        self.model = BartModel(config, dtype=dtype, memory=memory, rngs=rngs)
        if config["tie_word_embeddings"]:
            self.lm_head: nnx.Embed | nnx.Linear = self.model.shared
        else:
            init = normal(config["init_std"])
            self.lm_head = linear(width, vocab, use_bias=False, init=init, dtype=dtype, rngs=rngs)
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
            self.model.decoder(jnp.asarray(decoder_input_ids), keep, jnp.asarray(encoded), encoded_keep, key=key)
        )

    def encode(
        self, input_ids: Int[Array | np.ndarray, "b t"], mask: FrameMask = None, *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b t d_model"]:
        """States of a text."""
        return self.model.encoder(jnp.asarray(input_ids), None if mask is None else memory_keep(mask), key=key)

    def shift_right(self, labels: Int[Array | np.ndarray, "b s"]) -> Int[Array, "b s"]:
        """Decoder inputs of `labels` (B, S). mBART has no start token: the last label (language) comes first."""
        pad = self.config["pad_token_id"]
        if self.config["model_type"] != "mbart":
            return shift_right(labels, self.config["decoder_start_token_id"], pad)
        labels = jnp.where(jnp.asarray(labels) == -100, pad, labels)
        last = jnp.maximum((labels != pad).sum(axis=1, keepdims=True) - 1, 0)
        return jnp.concatenate([jnp.take_along_axis(labels, last, axis=1), labels[:, :-1]], axis=1)

    def init_cache(self, encoded: Frames, encoder_mask: FrameMask, max_length: int) -> Cache:
        """A cache for up to `max_length` tokens. Raises ValueError if the decoder has too few positions."""
        if max_length > self.config["max_position_embeddings"]:
            raise ValueError(
                f"max_length {max_length + 1} needs more positions than the decoder's max_position_embeddings "
                f"{self.config['max_position_embeddings']}; use at most one more than that"
            )
        batch, frames, width = encoded.shape
        layers, heads = self.model.decoder.layers, self.config["decoder_attention_heads"]
        return {
            "self": [empty_cache(batch, max_length, heads, width // heads, self.dtype) for _ in layers],
            "cross": [layer.encoder_attn.keys_values(jnp.asarray(encoded)) for layer in layers],
            "encoder_mask": jnp.ones((batch, frames), bool) if encoder_mask is None else encoder_mask,
        }

    def decode_step(
        self, tokens: Int[Array, " b"], position: Position, cache: Cache
    ) -> tuple[Float[Array, "b vocab"], Cache]:
        """Logits after `tokens` at `position`, and the cache with them in it."""
        x, filled = self.model.decoder.step(tokens, position, cache)
        return self._logits(x)[:, 0], cache | {"self": filled}

    def spread_cache(self, cache: Cache, copies: int) -> Cache:
        """`cache` for `copies` beams of each sentence, which share the encoded frames."""
        return spread_cache(cache, copies)

    def grow_cache(self, cache: Cache, max_length: int) -> Cache:
        """`cache` with room for `max_length` tokens."""
        return grow_cache(cache, max_length)

    def _logits(self, x: States) -> Float[Array, "b s vocab"]:
        return vocabulary_logits(x, self.lm_head, self.dtype) + self.final_logits_bias[...]


class BartModel(nnx.Module):
    """Encoder and decoder, and their shared embedding."""

    def __init__(self, config: Mapping, *, dtype, memory: Memory, rngs: nnx.Rngs):
        def embed() -> nnx.Embed:
            return embedding(config["vocab_size"], config, rngs, zero_row=config["pad_token_id"])

        self.shared = embed()
        # One Embed under every name, or (transformers 5) a table for each name where the config unties them.
        tied = config["tie_word_embeddings"]
        share = {"dtype": dtype, "memory": memory, "rngs": rngs}
        self.encoder = Stack(config, "encoder", self.shared if tied else embed(), **share)
        self.decoder = Stack(config, "decoder", self.shared if tied else embed(), **share)


def embedding(rows: int, config: Mapping, rngs: nnx.Rngs, zero_row: int | None = None) -> nnx.Embed:
    """An embedding of `rows`, drawn from N(0, init_std); row `zero_row` is 0."""
    draw = normal(config["init_std"])

    def init(key, shape, dtype):
        table = draw(key, shape, dtype)
        return table if zero_row is None else table.at[zero_row].set(0)

    return nnx.Embed(rows, config["d_model"], embedding_init=init, rngs=rngs)


class Stack(nnx.Module):
    """The text encoder or the decoder, as `part` says."""

    def __init__(self, config: Mapping, part: str, embed: nnx.Embed, *, dtype, memory: Memory, rngs: nnx.Rngs):
        self.embed_tokens = embed
        self.embed_positions = embedding(config["max_position_embeddings"] + POSITION_OFFSET, config, rngs)
        self.layers = nnx.List([Layer(config, part, dtype=dtype, rngs=rngs) for _ in range(config[f"{part}_layers"])])
        self.layernorm_embedding = layer_norm(config["d_model"], 1e-5, dtype=jnp.float32, rngs=rngs)
        self.has_final_norm = config["model_type"] == "mbart"
        if self.has_final_norm:
            self.layer_norm = layer_norm(config["d_model"], 1e-5, dtype=jnp.float32, rngs=rngs)
        self.pad = config["pad_token_id"]
        self.scale = config["d_model"] ** 0.5 if config["scale_embedding"] else 1.0
        self.rate = config["dropout"]
        self.layerdrop = config[f"{part}_layerdrop"]
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
        if ids.shape[1] > self.embed_positions.num_embeddings - POSITION_OFFSET:
            limit = self.embed_positions.num_embeddings - POSITION_OFFSET
            raise ValueError(f"{ids.shape[1]} tokens are more than the {limit} positions of max_position_embeddings")
        embed_key, drop_key, *layer_keys = split(key, len(self.layers) + 2)
        bias = None if keep is None else mask_bias(keep)
        cross_bias = None if encoded_keep is None else mask_bias(encoded_keep)

        x = dropout(self._embed(ids, jnp.arange(ids.shape[1])), self.rate, embed_key)
        for layer, layer_key, skip_key in zip(self.layers, layer_keys, split(drop_key, len(layer_keys)), strict=True):
            cross = None if encoded is None else layer.encoder_attn.keys_values(encoded)
            deeper, _ = self.memory.block(layer)(residual(x), bias, cross, cross_bias, key=layer_key)
            if skip_key is not None and self.layerdrop > 0:
                deeper = jnp.where(jax.random.bernoulli(skip_key, self.layerdrop), x, deeper)
            x = deeper
        return self.layer_norm(x) if self.has_final_norm else x

    def step(
        self, tokens: Int[Array, " b"], position: Position, cache: Cache
    ) -> tuple[Float[Array, "b 1 d_model"], list[KeysValues]]:
        """The state of one token a sentence, and the self-attention caches with it in them."""
        length = cache["self"][0][0].shape[2]
        bias, cross_bias = mask_bias(past_keep(length, position)), mask_bias(memory_keep(cache["encoder_mask"]))

        x = self._embed(tokens[:, None], jnp.asarray(position)[None])
        filled = []
        for layer, past, cross in zip(self.layers, cache["self"], cache["cross"], strict=True):
            x, past = layer(x, bias, cross, cross_bias, past=past, position=position)
            filled.append(past)
        return self.layer_norm(x) if self.has_final_norm else x, filled

    def _embed(self, ids: Int[Array, "b s"], positions: Int[Array, " s"]) -> States:
        """Normalised sum of token and position embeddings; reading the padding's row sends no gradient to it."""
        tokens = self.embed_tokens(ids)
        tokens = jnp.where((ids == self.pad)[..., None], jax.lax.stop_gradient(tokens), tokens)
        return self.layernorm_embedding(tokens * self.scale + self.embed_positions(positions + POSITION_OFFSET))


class Layer(nnx.Module):
    """Self-attention, attention to the frames (decoder only), feed-forward; each added to what it read."""

    def __init__(self, config: Mapping, part: str, *, dtype, rngs: nnx.Rngs):
        width, hidden = config["d_model"], config[f"{part}_ffn_dim"]
        init = normal(config["init_std"])

        def norm() -> nnx.LayerNorm:
            return layer_norm(width, 1e-5, dtype=jnp.float32, rngs=rngs)

        def attend() -> Attention:
            return Attention(config, config[f"{part}_attention_heads"], dtype=dtype, rngs=rngs)

        self.self_attn = attend()
        self.self_attn_layer_norm = norm()
        if part == "decoder":
            self.encoder_attn = attend()
            self.encoder_attn_layer_norm = norm()
        self.fc1 = linear(width, hidden, init=init, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, width, init=init, dtype=dtype, rngs=rngs)
        self.final_layer_norm = norm()
        self.norm_first = config["model_type"] == "mbart"
        self.act = activation(config["activation_function"])
        self.rate = config["dropout"]
        self.activation_rate = config["activation_dropout"]

    def __call__(
        self,
        x: States,
        bias: Float[Array, "#b 1 #s k"] | None,
        cross: KeysValues | None,
        cross_bias: Float[Array, "_ 1 1 t"] | None,
        *,
        past: KeysValues | None = None,
        position: Position | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[States, KeysValues]:
        """`x` and the self-attention's keys and values; with `past`, that cache with `x` written in."""
        self_key, cross_key, hidden_key, *output_keys = split(key, 6)

        inner = self._before(self.self_attn_layer_norm, x)
        keys_values = self.self_attn.keys_values(inner)
        if past is not None and position is not None:
            keys_values = write_cache(past, keys_values, position)
        attended = self.self_attn(inner, keys_values, bias, key=self_key)
        x = self._after(self.self_attn_layer_norm, x + dropout(attended, self.rate, output_keys[0]))

        if cross is not None:
            inner = self._before(self.encoder_attn_layer_norm, x)
            attended = self.encoder_attn(inner, cross, cross_bias, key=cross_key)
            x = self._after(self.encoder_attn_layer_norm, x + dropout(attended, self.rate, output_keys[1]))

        inner = self._before(self.final_layer_norm, x)
        hidden = dropout(self.act(self.fc1(inner)), self.activation_rate, hidden_key)
        x = self._after(self.final_layer_norm, x + dropout(self.fc2(hidden), self.rate, output_keys[2]))
        return x, keys_values

    def _before(self, norm: nnx.LayerNorm, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        return norm(x) if self.norm_first else x

    def _after(self, norm: nnx.LayerNorm, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        return x if self.norm_first else norm(x)


class Attention(nnx.Module):
    """Multi-head attention with biases, over the states themselves or over an encoder's."""

    def __init__(self, config: Mapping, heads: int, *, dtype, rngs: nnx.Rngs):
        width = config["d_model"]
        if width % heads:
            raise ValueError(f"d_model {width} is not divisible by the number of attention heads {heads}")

        def projection() -> nnx.Linear:
            return linear(width, width, init=normal(config["init_std"]), dtype=dtype, rngs=rngs)

        self.k_proj = projection()
        self.v_proj = projection()
        self.q_proj = projection()
        self.out_proj = projection()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.rate = config["attention_dropout"]

    def keys_values(self, memory: Float[Array, "b k d_model"]) -> KeysValues:
        """Of `memory`: each (B, heads, K, head_dim)."""
        return split_heads(self.k_proj(memory), self.heads), split_heads(self.v_proj(memory), self.heads)

    def __call__(
        self, x: States, keys_values: KeysValues, bias: Float[Array, "#n #h #s k"] | None, *, key: Key[Array, ""] | None
    ) -> States:
        """What each state reads from `keys_values`."""
        mixed = attend(self.q_proj(x), keys_values, bias, scale=self.scale, rate=self.rate, key=key)
        return self.out_proj(mixed)
