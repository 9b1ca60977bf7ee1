"""A small convolutional backbone for machines without an accelerator: `slt_jax.models.cnn:SmallCNN`.

A 224 px frame costs it 2.5 ms on two CPU cores, a ViT-S/14 137 ms. It starts from random weights.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from slt_jax.models.layers import torch_uniform


class SmallCNN(nnx.Module):
    """Normalised images to features: strided convolutions, then the mean over places."""

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64, 128), embed_dim: int = 256, *, dtype=jnp.float32, rngs: nnx.Rngs
    ):
        self.embed_dim = embed_dim
        channels = [3, *widths]
        self.stem = nnx.List(
            [
                Stage(before, after, stride=4 if i == 0 else 2, dtype=dtype, rngs=rngs)
                for i, (before, after) in enumerate(itertools.pairwise(channels))
            ]
        )
        init = torch_uniform(channels[-1])
        self.proj = nnx.Linear(channels[-1], embed_dim, dtype=dtype, kernel_init=init, bias_init=init, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n {self.embed_dim}"]:
        """Normalised images to features."""
        x = images
        for stage in self.stem:
            x = stage(x)
        return self.proj(x.mean(axis=(1, 2)))


class Stage(nnx.Module):
    """A convolution that makes the image smaller, normalised within groups of channels, and ReLU."""

    def __init__(self, before: int, after: int, *, stride: int, dtype, rngs: nnx.Rngs):
        size = stride + 1
        init = torch_uniform(before * size * size)
        self.conv = nnx.Conv(
            before,
            after,
            (size, size),
            strides=stride,
            padding=size // 2,
            dtype=dtype,
            kernel_init=init,
            bias_init=init,
            rngs=rngs,
        )
        groups = next(n for n in (8, 4, 2, 1) if after % n == 0)
        self.norm = nnx.GroupNorm(
            after, num_groups=groups, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs
        )

    def __call__(self, x: Float[Array, "n h w before"]) -> Float[Array, "n smaller_h smaller_w after"]:
        """Height and width are divided by the stride, rounded up."""
        return jax.nn.relu(self.norm(self.conv(x)))
