"""Programs are traced for the platform that they are planned for, whatever this machine has."""

import jax
import jax.numpy as jnp
from flax import nnx

from slt_jax.models.params import split_model
from slt_jax.models.platform import traced_for
from slt_jax.models.vit import VisionTransformer, ViTConfig


def program() -> str:
    """A step's gradient through two blocks, as JAX hands it to a compiler."""
    config = ViTConfig(embed_dim=32, depth=2, num_heads=2, image_size=28)
    structure, params = split_model(VisionTransformer(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    gradient = jax.grad(lambda params, images: jnp.sum(structure.merge(params)(images).astype(jnp.float32) ** 2))
    return jax.jit(gradient).lower(params, jnp.ones((2, 28, 28, 3))).as_text()


def test_what_a_cpu_needs_is_in_no_program_for_a_tpu():
    """Branches hide products from XLA's CPU compiler. A plan for a TPU must not count their memory."""
    here = program()
    with traced_for("tpu"):
        there = program()
    assert here.count("stablehlo.case") > there.count("stablehlo.case")
    assert program() == here  # blocks that were traced for the TPU are not taken for these
