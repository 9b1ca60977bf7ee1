"""The products and activations of a ViT block against the layers they stand for, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from slt_jax.models import attention, layers, platform, vit

RNG = np.random.default_rng(0)


def random(*shape) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape, np.float32))


def close(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_a_product_takes_norm_and_scale_into_its_weights(normed, scaled):
    layer = layers.linear(24, 40, dtype=jnp.float32, rngs=nnx.Rngs(0))
    norm = layers.layer_norm(24, 1e-6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = 1 + random(24), random(24)
    weights, gamma, x = random(5, 7, 40), 1 + random(40), 3 + random(5, 7, 24)
    graph, state = nnx.split((layer, norm))

    def total(call, state, gamma, x):
        return jnp.sum(weights * call(*nnx.merge(graph, state), gamma, x))

    def ours(layer, norm, gamma, x):
        return layers.product(x, layer, norm=norm if normed else None, scale=gamma if scaled else None)

    def plain(layer, norm, gamma, x):
        return layer(norm(x) if normed else x) * (gamma if scaled else 1)

    found, expected = (
        jax.value_and_grad(lambda *given, call=call: total(call, *given), (0, 1, 2))(state, gamma, x)
        for call in (ours, plain)
    )
    close(found[0], expected[0])
    close(found[1], expected[1])


def test_one_traced_product_serves_whatever_is_trained():
    """Its weights alone, then its input too, then its input alone; in plain and in memory that is computed again."""
    layer = layers.linear(6, 6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    x, weights = random(6, 6), random(6, 6)
    traced = jax.jit(lambda state, x: layers.product(x, nnx.merge(graph, state)))
    calls = traced, jax.checkpoint(traced), lambda s, x: jax.lax.map(jax.checkpoint(lambda x: traced(s, x)), x[None])[0]
    for call in calls:
        for trained in ((0,), (0, 1), (1,)):
            found, expected = (
                jax.grad(lambda *given, call=call: jnp.sum(weights * jnp.sin(call(*given))), trained)(state, x)
                for call in (call, lambda state, x: nnx.merge(graph, state)(x))
            )
            close(found, expected)


@pytest.fixture(params=["float32", "float16", "bfloat16", "bfloat16 without instructions"])
def dtype(request, monkeypatch) -> str:
    """What a CPU may have to multiply; some have instructions for bfloat16."""
    name, *without = request.param.split(" ", 1)
    monkeypatch.setattr(platform, "multiplies_bfloat16", lambda: not without)
    return name


@pytest.mark.parametrize("rows", [(40, 7), (40,), (1,)])
@pytest.mark.parametrize(("wide", "narrow"), [(24, 9), (9, 24), (16, 1)])
def test_a_product_and_its_gradients_are_the_formulas(rows, dtype, wide, narrow):
    """In float64, of the same rounded numbers: x w + b, and its gradients. Weights may lie the other way round."""
    x, kernel, bias, weights = (
        np.asarray(random(*shape).astype(dtype), np.float64)
        for shape in ((*rows, wide), (narrow, wide), (narrow,), (*rows, narrow))
    )
    flat, slopes = x.reshape(-1, wide), weights.reshape(-1, narrow)
    expected = x @ kernel.T + bias, weights @ kernel, slopes.T @ flat, slopes.sum(0)

    @jax.jit
    def both(x, kernel, bias, weights):
        found, gradients = jax.vjp(lambda x, kernel, bias: layers.affine(x, kernel.T, bias), x, kernel, bias)
        return found, *gradients(weights)

    given = jnp.asarray(x, dtype), jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32)
    found = both(*given, jnp.asarray(weights, dtype))
    close(found, expected, {"float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}[dtype])
    assert [array.dtype for array in found] == [dtype, dtype, jnp.float32, jnp.float32]


def test_the_gelu_is_torchs():
    x = jnp.linspace(-7, 7, 4001)
    there = torch.tensor(np.asarray(x), requires_grad=True)
    torch.nn.functional.gelu(there).sum().backward()
    with torch.no_grad():
        expected = torch.nn.functional.gelu(there).numpy()
    # Far out its value is a difference of numbers near 1, in torch as here.
    np.testing.assert_allclose(layers.gelu(x), expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: layers.gelu(x).sum())(x)
    np.testing.assert_allclose(gradient, there.grad.numpy(), rtol=1e-5, atol=1e-6)
    assert layers.gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("frozen", [True, False])
def test_padding_for_flash_attention_changes_nothing(monkeypatch, frozen):
    """17 tokens become 24 where cuDNN is to take them; here JAX's own attention stands in for it."""
    sizes = vit.ViTConfig(embed_dim=32, depth=3, num_heads=2, patch_size=7, image_size=28)
    graph, state = nnx.split(vit.VisionTransformer(sizes, rngs=nnx.Rngs(0)))
    count = 3 if frozen else 4  # a shape for each test: what was traced in the other is not traced again
    images, weights = random(count, 28, 28, 3), random(count, 32)

    def total(state, images):
        return jnp.sum(weights * nnx.merge(graph, state)(images))

    def found():
        return jax.jit(partial(total) if frozen else jax.value_and_grad(total))(state, images)

    expected, seen = found(), []
    of_jax = jax.nn.dot_product_attention

    def attend(query, *others, implementation, **options):
        seen.append((implementation, query.shape))
        return of_jax(query, *others, **options)

    monkeypatch.setattr(vit, "takes_flash_attention", lambda dtype, head: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    close(found(), expected)
    # Blocks that are alike are traced once; the last has one query an image, and does it itself.
    assert seen == [("cudnn", (count, 24, 2, 16))]


def test_flash_attention_is_for_16_bits_on_a_gpu(monkeypatch):
    assert not attention.takes_flash_attention(jnp.bfloat16, 64)  # this is a CPU

    class Device:
        compute_capability = "9.0"

    monkeypatch.setattr(jax, "devices", lambda: [Device])
    assert attention.takes_flash_attention(jnp.bfloat16, 64)
    assert attention.takes_flash_attention(jnp.float16, 64)
    assert not attention.takes_flash_attention(jnp.float32, 64)
    assert not attention.takes_flash_attention(jnp.bfloat16, 20)
    assert not attention.takes_flash_attention(jnp.bfloat16, 256)
    Device.compute_capability = "7.5"
    assert not attention.takes_flash_attention(jnp.bfloat16, 64)
    Device.compute_capability = "gfx942"
    assert not attention.takes_flash_attention(jnp.bfloat16, 64)


@pytest.mark.parametrize(("queries", "heads"), [(17, 3), (17, 1), (1, 3)])
def test_attention_and_its_gradients_are_the_formulas(queries, heads, dtype):
    """In float64: softmax(q k / 4) v, and what numpy makes of its gradients."""
    query, key, value, weights = (
        np.asarray(random(2, count, heads, 16).astype(dtype), np.float64) for count in (queries, 17, 17, queries)
    )
    scores = np.einsum("bqhd,bkhd->bhqk", query / 4, key)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    slopes = np.einsum("bqhd,bkhd->bhqk", weights, value)
    slopes = shares * (slopes - (shares * slopes).sum(-1, keepdims=True))
    expected = (
        np.einsum("bhqk,bkhd->bqhd", shares, value),
        np.einsum("bhqk,bkhd->bqhd", slopes, key) / 4,
        np.einsum("bhqk,bqhd->bkhd", slopes, query) / 4,
        np.einsum("bhqk,bqhd->bkhd", shares, weights),
    )
    given = [jnp.asarray(array, dtype) for array in (query, key, value)]

    @jax.jit  # what XLA refuses of bfloat16 depends on what is beside it
    def both(given, weights):
        found, gradients = jax.vjp(lambda *given: attention.attention(*given, scale=0.25), *given)
        return found, *gradients(weights)

    found = both(given, jnp.asarray(weights, dtype))
    close(found, expected, {"float32": 1e-5, "float16": 2e-3, "bfloat16": 0.02}[dtype])
    assert all(array.dtype == dtype for array in found)
