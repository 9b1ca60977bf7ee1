"""The student: a ViT with the heads of DINO (Caron et al., 2021) and iBOT (Zhou et al., 2022).

Attribute names are those of DINOv2's training code, so a state-dict key is a path of attributes.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from slt_jax.models.layers import gelu, linear, logits, torch_uniform
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.vit import VisionTransformer, ViTConfig, weights
from slt_jax.pretraining.settings import LossSettings


class Head(nnx.Module):
    """An MLP, then the cosines between its outputs and prototypes (a weight-normalised layer whose norms stay 1)."""

    def __init__(self, features: int, prototypes: int, settings: LossSettings, *, dtype, rngs: nnx.Rngs):
        layers, hidden, bottleneck = settings.head_nlayers, settings.head_hidden_dim, settings.head_bottleneck_dim
        widths = [features, *[hidden] * (layers - 1), bottleneck]
        # In torch a `Sequential`, in which every other layer is a GELU.
        self.mlp = nnx.Dict(
            {
                str(2 * number): linear(width, widths[number + 1], dtype=dtype, init=weights(width), rngs=rngs)
                for number, width in enumerate(widths[:-1])
            }
        )
        self.depth = layers
        self.dtype = dtype
        self.last_layer = Prototypes(bottleneck, prototypes, rngs=rngs)

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows prototypes"]:
        """Features to logits, float32."""
        x = x.astype(self.dtype)
        for number in range(self.depth):
            x = self.mlp[str(2 * number)](x)
            x = gelu(x) if number < self.depth - 1 else x
        return self.last_layer(unit(x.astype(jnp.float32)).astype(self.dtype))


class Prototypes(nnx.Module):
    """A linear layer without bias whose rows count by their directions alone (Salimans and Kingma, 2016)."""

    def __init__(self, features: int, prototypes: int, *, rngs: nnx.Rngs):
        self.weight_v = nnx.Param(torch_uniform(features)(rngs.params(), (prototypes, features)))

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows prototypes"]:
        """The cosines of unit vectors `x` with the prototypes, float32."""
        return logits(x, unit(self.weight_v[...]).astype(x.dtype))


def unit(x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
    """Vectors of length 1, and 0 for those that have none."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


class Student(nnx.Module):
    """A backbone with its heads; the teacher has the same parts."""

    def __init__(
        self, vit: ViTConfig, settings: LossSettings, *, dtype=jnp.float32, memory: Memory = KEEP_ALL, rngs: nnx.Rngs
    ):
        self.backbone = VisionTransformer(vit, dtype=dtype, memory=memory, rngs=rngs)
        self.dino_head = Head(vit.embed_dim, settings.out_dim, settings, dtype=dtype, rngs=rngs)
        if settings.algorithm == "ibot":
            self.ibot_head = Head(vit.embed_dim, settings.patch_out_dim, settings, dtype=dtype, rngs=rngs)
