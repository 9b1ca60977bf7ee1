"""Programs are traced for the platform that they are planned for, and for what this machine's CPU can do."""

import io
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from slt_jax.models import platform
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


@pytest.fixture
def traced_anew():
    """Nothing that was traced for this machine's CPU is taken in the test, and nothing of the test after it."""

    def forget() -> None:
        platform.multiplies_bfloat16.cache_clear()
        jax.clear_caches()

    forget()
    yield
    forget()


@pytest.mark.parametrize(
    ("features", "factors"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni", "bf16"),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", "bf16"),
        ("flags\t\t: fpu avx2 avx512f avx512bw", "f32"),
        ("Features\t: fp asimd", "f32"),
    ],
)
def test_a_cpu_multiplies_what_it_has_instructions_for(monkeypatch, traced_anew, features, factors):
    """Where there are none for bfloat16, XLA's products of it are slower than those of float32."""
    monkeypatch.setattr(platform, "open", lambda *_, **__: io.StringIO(f"processor\t: 0\n{features}\n"), raising=False)
    products = re.findall(r"stablehlo\.dot_general.*: \(tensor<\S*x(\w+)>, tensor<\S*x(\w+)>\)", program())
    assert set(products) == {(factors, factors)}
