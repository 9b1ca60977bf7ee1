"""`torch.nn.TransformerEncoder` as v9 builds it: post-norm, ReLU, batch first, no final norm."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Key

from slt_jax.models.attention import attention, mask_bias, unpacked
from slt_jax.models.layers import affine, dropout, layer_norm, linear, residual, split, uniform
from slt_jax.models.remat import KEEP_ALL, Memory


class TemporalEncoder(nnx.Module):
    """Frames in context; padded frames are never attended to."""

    def __init__(
        self,
        features: int,
        heads: int,
        layers: int,
        hidden: int,
        rate: float,
        *,
        dtype,
        memory: Memory = KEEP_ALL,
        rngs: nnx.Rngs,
    ):
        self.memory = memory
        self.encoder = TransformerEncoder(features, heads, layers, hidden, rate, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t d"], pad_mask: Bool[Array, "b t"] | None, *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b t d"]:
        """`pad_mask`: True = real frame; `key` turns dropout on."""
        bias = None if pad_mask is None else mask_bias(pad_mask[:, None, None, :])
        layers = self.encoder.layers
        for layer, layer_key in zip(layers, split(key, len(layers)), strict=True):
            x = self.memory.block(layer)(residual(x), bias, key=layer_key)
        return x


class TransformerEncoder(nnx.Module):
    """Only the name between `temporal` and `layers` in v9's state dict."""

    def __init__(self, features: int, heads: int, layers: int, hidden: int, rate: float, *, dtype, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [TransformerEncoderLayer(features, heads, hidden, rate, dtype=dtype, rngs=rngs) for _ in range(layers)]
        )


class TransformerEncoderLayer(nnx.Module):
    """torch's layer with the norms after the residuals."""

    def __init__(self, features: int, heads: int, hidden: int, rate: float, *, dtype, rngs: nnx.Rngs):
        self.self_attn = MultiheadAttention(features, heads, rate, dtype=dtype, rngs=rngs)
        self.linear1 = linear(features, hidden, dtype=dtype, rngs=rngs)
        self.linear2 = linear(hidden, features, dtype=dtype, rngs=rngs)
        self.norm1 = layer_norm(features, 1e-5, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(features, 1e-5, dtype=dtype, rngs=rngs)
        self.rate = rate

    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "b 1 1 t"] | None, *, key: Key[Array, ""] | None
    ) -> Float[Array, "b t d"]:
        """Frames to frames; `bias` hides padded ones."""
        attention_key, residual_key, hidden_key, output_key = split(key, 4)
        attended = self.self_attn(x, bias, key=attention_key)
        x = self.norm1(x + dropout(attended, self.rate, residual_key))
        hidden = dropout(jax.nn.relu(self.linear1(x)), self.rate, hidden_key)
        return self.norm2(x + dropout(self.linear2(hidden), self.rate, output_key))


class MultiheadAttention(nnx.Module):
    """torch's packed projection: `in_proj_weight` (3 * features, features) keeps torch's layout."""

    def __init__(self, features: int, heads: int, rate: float, *, dtype, rngs: nnx.Rngs):
        xavier = (6 / (features + 3 * features)) ** 0.5
        self.in_proj_weight = nnx.Param(uniform(xavier)(rngs.params(), (3 * features, features)))
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * features))
        self.out_proj = linear(features, features, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.rate = rate
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "b 1 1 t"] | None, *, key: Key[Array, ""] | None
    ) -> Float[Array, "b t d"]:
        """Frames to frames; `bias` hides padded ones."""
        b, t, d = x.shape
        packed = affine(x, self.in_proj_weight[...].T, self.in_proj_bias[...])
        query, value_key, value = unpacked(packed, self.heads)
        mixed = attention(
            query, value_key, value, bias=bias, scale=(d // self.heads) ** -0.5, dropout_rate=self.rate, dropout_key=key
        )
        return self.out_proj(mixed.reshape(b, t, d))
