"""The kernels of `tools/benchmark.py kernels`, by Pallas's interpreter, against what slt_jax computes."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slt_jax.models.attention import attention as plain_attention
from slt_jax.models.layers import gelu, standardised
from slt_jax.models.vit import VisionTransformer, ViTConfig
from tools.benchmarks.command import main
from tools.benchmarks.kernels import gelu as by_polynomial
from tools.benchmarks.kernels import products
from tools.benchmarks.kernels.attention_forward import Tiles
from tools.benchmarks.kernels.choice import Choice, statistics
from tools.benchmarks.kernels.halves import swapped
from tools.benchmarks.kernels.race import winners

DTYPES = (jnp.float32, jnp.bfloat16)
SMALL = ["--interpret", "--images", "16", "--tokens", "5", "--heads", "2", "--head-dim", "16", "--hidden", "64",
         "--rounds", "1", "--calls", "1"]  # fmt: skip


def drawn(*shape: int, dtype=jnp.float32, seed: int = 0, scale: float = 1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)


def check(found, exact) -> None:
    """float32 within 1e-5 of the largest value of an array; bfloat16 within 2 units in the last place of a row's.

    A row, the last axis, is summed from terms that were rounded to bfloat16 themselves, as training rounds them. Where
    these cancel, the sum is off by units of the terms and not of itself, so units are those of the row's largest value.
    """
    assert found.shape == exact.shape
    if found.dtype == jnp.float32:
        assert float(jnp.abs(found - exact).max()) <= 1e-5 * float(jnp.abs(exact).max())
        return
    rounded = np.asarray(exact.astype(jnp.bfloat16), np.float64)
    largest = np.abs(rounded).max(axis=-1, keepdims=True)
    unit = 2.0 ** (np.floor(np.log2(largest)) - 7)  # bfloat16 has 8 bits, the first of which is not written
    assert (np.abs(np.asarray(found, np.float64) - rounded) / unit).max() <= 2


def attention(packed, forward, backward):
    """What is attended to, and the function that leads its gradient back to `packed`."""
    choice = Choice((forward, backward), interpret=True)
    mixed, kept = choice.attend(packed, packed.shape[1])
    return mixed, lambda of_mixed: choice.attend_back(kept, of_mixed)


def exactly(arrays):
    return jax.tree.map(lambda array: array.astype(jnp.float32), arrays)


PLAIN, LOOPED = partial(Tiles, warps=4, stages=1), partial(Tiles, warps=4, stages=2, looped=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "forward", "backward"),
    [
        (5, PLAIN(64, 128, 16), PLAIN(64, 128, 16)),  # nothing but a rest
        (17, LOOPED(16, 16, 1), (LOOPED(16, 16, 1), LOOPED(16, 16, 1))),
        (197, LOOPED(64, 64, 16), (LOOPED(64, 32, 16), LOOPED(32, 64, 16))),
        (257, LOOPED(64, 64, 16), (LOOPED(64, 64, 16), LOOPED(64, 64, 16))),
        (257, PLAIN(64, 256, 1), PLAIN(64, 256, 1)),  # 256 in tiles, 1 as a vector
        (257, PLAIN(128, 128, 128), (PLAIN(128, 128, 128), PLAIN(128, 128, 128))),  # as if there were 384
    ],
)
def test_attention(tokens, forward, backward, dtype):
    packed, of_mixed = drawn(1, tokens, 3, 2, 16, dtype=dtype), drawn(1, tokens, 2, 16, dtype=dtype, seed=1)

    def today(packed):
        return plain_attention(*jnp.moveaxis(packed, 2, 0), scale=0.25)

    exact, pull_exact = jax.vjp(today, exactly(packed))
    mixed, pull = attention(packed, forward, backward)
    check(mixed, exact)
    check(pull(of_mixed), pull_exact(exactly(of_mixed))[0])


def test_attention_far_below_zero():
    """No weight overflows, those of padding neither. A unit of the exponents, some -2,300, is 2e-4 of a weight."""
    packed, of_mixed = drawn(1, 19, 3, 2, 16), drawn(1, 19, 2, 16, seed=1)
    packed, cut = packed.at[:, :, 0].add(20).at[:, :, 1].add(-20), PLAIN(16, 16, 16)
    exact, pull_exact = jax.vjp(lambda packed: plain_attention(*jnp.moveaxis(packed, 2, 0), scale=0.25), packed)
    for backward in (cut, (cut, cut)):
        mixed, pull = attention(packed, cut, backward)
        for found, expected in (mixed, exact), (pull(of_mixed), pull_exact(of_mixed)[0]):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * float(jnp.abs(expected).max()))


CUT = products.Tiles(rows=16, columns=32, summands=16, warps=4, stages=2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products(dtype):
    """LayerNorm before a product, GELU or the residual after it, and their gradients."""
    x, of_x = drawn(48, 48, dtype=dtype, scale=3) + 1, drawn(48, 48, dtype=dtype, seed=1)
    kernel, bias = drawn(48, 64, dtype=dtype, seed=2, scale=0.2), drawn(64, dtype=dtype, seed=3)
    residual = drawn(48, 64, dtype=dtype, seed=4)
    known = statistics(x)
    exact_x, exact_kernel, exact_bias, exact_of_x = exactly((x, kernel, bias, of_x))

    def normed(x):
        return standardised(x, 1e-6) @ exact_kernel + exact_bias

    (y,) = products.product(x, kernel, bias, CUT, True, added=residual)
    check(y, exact_x @ exact_kernel + exact_bias + exactly(residual))
    y, z = products.product(x, kernel, bias, CUT, True, statistics=known, with_gelu=True)
    exact, pull = jax.vjp(normed, exact_x)
    check(y, exact)
    check(z, gelu(exactly(y)))  # of what was rounded, as the backward pass sees it

    found = products.norm_gradient(residual, kernel, x, known, of_x, CUT, True)
    check(found, pull(exactly(residual))[0] + exact_of_x)
    found, sums = products.gelu_gradient(of_x, kernel.T, y, CUT, True)
    (exact,) = jax.vjp(lambda y: gelu(y) @ exact_kernel.T, exactly(y))[1](exact_of_x)
    check(found, exact)
    np.testing.assert_allclose(sums, exact.sum(axis=0), rtol=0, atol=1e-5 * float(jnp.abs(exact).sum(axis=0).max()))


def test_what_is_not_made_of_tiles_is_refused():
    with pytest.raises(ValueError, match="40 x 64 x 48 is not made of tiles of 16 x 32 x 16, 4 warps, 2 stages"):
        products.product(drawn(40, 48), drawn(48, 64), drawn(64), CUT, True)
    x = drawn(40, 48)
    with pytest.raises(ValueError, match="40 x 48 x 64"):
        products.norm_gradient(drawn(40, 64), drawn(48, 64), x, statistics(x), x, CUT, True)


def test_the_polynomial_is_a_gelu():
    x = jnp.linspace(-12, 12, 100_001)
    exact, pull = jax.vjp(gelu, x)
    assert float((jnp.abs(by_polynomial.gelu(x, jnp.exp2) - exact) / jnp.maximum(1, jnp.abs(x))).max()) < 5e-7
    assert float(jnp.abs(by_polynomial.gelu_slope(x, jnp.exp2) - pull(jnp.ones_like(x))[0]).max()) < 5e-7


@pytest.mark.slow
def test_a_vit_with_all_kernels():
    """Its loss and gradients are as near those in float32 as those that training computes."""
    config = ViTConfig(embed_dim=32, depth=2, num_heads=2, patch_size=4, image_size=8)
    images, weights_of = drawn(16, 8, 8, 3), drawn(16, 32, seed=1)
    attend = LOOPED(16, 16, 1)
    choice = Choice((attend, (attend, attend)), *[products.Tiles(16, 16, 16, 4, 2)] * 5, interpret=True)

    def loss_and_gradients(dtype):
        vit = VisionTransformer(config, dtype=dtype, rngs=nnx.Rngs(0))
        graph, weights = nnx.split(vit)
        weights = jax.tree.map(lambda array: array + drawn(*array.shape, seed=2, scale=0.05), weights)
        jax.clear_caches()  # blocks are traced once
        run = jax.value_and_grad(lambda weights: (nnx.merge(graph, weights)(images) * weights_of).mean())
        return jax.tree.leaves(jax.jit(run)(weights))

    def off(found):
        pairs = zip(found, exact, strict=True)
        return [float(jnp.abs(a - b).max()) for a, b in pairs], [float(jnp.abs(b).max()) for b in exact]

    exact, today = loss_and_gradients(jnp.float32), loss_and_gradients(jnp.bfloat16)
    with swapped(choice):
        found, same = loss_and_gradients(jnp.bfloat16), loss_and_gradients(jnp.float32)
    jax.clear_caches()
    for here, there, largest in zip(off(found)[0], *off(today), strict=True):
        assert here <= 2 * there + 0.01 * largest
    assert any(bool((a != b).any()) for a, b in zip(found, today, strict=True))
    assert all(bool((a == b).all()) for a, b in zip(same, exact, strict=True))  # float32 is left alone


def test_the_fastest_win():
    """Tiles that do for all operations of a kind; attention by the sum of its two passes."""
    kinds = {
        "add": [(2.0, {"a": 1.0, "b": 3.0}), (5.0, {"a": 5.0, "b": 1.0, "c": 0.1})],
        "norm": [(1.0, {"a": 1.1})],
        "norm_gelu": [(1.0, {})],
        "attention forward": [(1.0, {"a": 1.5})],
        "attention backward": [(3.0, {"b": 2.0, "c": 2.5})],
    }
    assert winners(kinds, 0.98) == {"add": "b", "attention": ("a", "b")}
    assert winners(kinds, math.inf) == {"add": "b", "norm": "a", "attention": ("a", "b")}
    assert winners(kinds, 0.5) == {}


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    """Every kernel agrees with today's way; what has no time left is told."""
    path = tmp_path / "kernels.json"
    assert main(["kernels", *SMALL, "--kernels-only", "--json", str(path)]) == 0
    results = json.loads(path.read_text())["operations"]
    assert len(results) == 9
    for result in results.values():
        assert not result["refused"]
        assert len(result["variants"]) >= 2
        assert all(one["seconds"]["median"] > 0 and one["off"] < 1e-2 for one in result["variants"].values())
    shown = capsys.readouterr().out
    assert "gradient of attention: today" in shown
    assert "queries 16 x 16, rest 16, 4 warps, 2 stages, looped; keys" in shown


def test_a_machine_without_a_hopper_gpu_is_told(capsys):
    assert main(["kernels", "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("kernels: needs a Hopper GPU, such as an H100 or H200; --interpret checks them without one")
