"""The gradient's way back through the blocks: right, and computed once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slt_jax.models.layers import residual
from slt_jax.models.params import split_model
from slt_jax.models.vit import VisionTransformer, ViTConfig


def operations(depth: int) -> float:
    """What the compiled gradient of a small ViT computes, recomputation included."""
    config = ViTConfig(embed_dim=32, depth=depth, num_heads=2, image_size=56)
    structure, params = split_model(VisionTransformer(config, rngs=nnx.Rngs(0)))
    gradient = jax.grad(lambda params, images: jnp.sum(structure.merge(params)(images) ** 2))
    return jax.jit(gradient).lower(params, jnp.ones((2, 56, 56, 3))).compile().cost_analysis()["flops"]


def test_work_grows_with_the_depth_and_not_with_its_square():
    four, eight, twelve = (operations(depth) for depth in (4, 8, 12))
    assert twelve - eight == pytest.approx(eight - four, rel=0.02)


def test_the_gradient_passes_as_it_is():
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(residual(x) ** 3)))(x)
    np.testing.assert_allclose(value, (x**3).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, 3 * x**2, rtol=1e-6)


def test_a_gpu_gets_the_gradient_as_one_row():
    """What of this a GPU's compiler keeps to is told in docs/performance.md."""
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(residual(x) ** 2)))
    lowered = jax.export.export(gradient, platforms=["cuda"])(jax.ShapeDtypeStruct((2, 3, 4), jnp.float32))
    assert re.search("optimization_barrier.*tensor<24xf32>", lowered.mlir_module())


def test_an_overflow_stays_one():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(residual(x) * jnp.inf)))(jnp.ones((2, 3)))
    assert not np.isfinite(gradient).any()
