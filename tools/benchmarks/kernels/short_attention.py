"""Attention of a ViT's block as one function with a gradient: `attention_forward.py` and `attention_gradient.py`."""

from functools import partial

import jax
from jax import Array
from jaxtyping import Float

from tools.benchmarks.kernels.attention_forward import Tiles, attend
from tools.benchmarks.kernels.attention_gradient import Passes, gradient


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def attention(
    packed: Float[Array, "n tokens 3 heads head"], scale: float, forward: Tiles, backward: Passes, interpret: bool
) -> Float[Array, "n tokens heads head"]:
    """Attention with the softmax in float32, as `slt_jax.models.attention.attention` computes it without a bias."""
    return attend(packed, scale, forward, interpret)[0]


def _kept(
    packed: Array, scale: float, forward: Tiles, _: Passes, interpret: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
    mixed, total = attend(packed, scale, forward, interpret)
    return mixed, (packed, mixed, total)


def _gradient(
    scale: float, _: Tiles, backward: Passes, interpret: bool, kept: tuple[Array, Array, Array], of_mixed: Array
) -> tuple[Array]:
    return (gradient(*kept, of_mixed, scale, backward, interpret),)


attention.defvjp(_kept, _gradient)
