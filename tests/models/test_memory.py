"""Rematerialisation and frame chunks: the same gradients from less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slt_jax.models.bart import Bart
from slt_jax.models.cnn import SmallCNN
from slt_jax.models.multistream import frame_features
from slt_jax.models.params import split_model
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.t5 import T5
from slt_jax.models.temporal import TemporalEncoder
from slt_jax.models.vit import VisionTransformer, ViTConfig

SMALL_VIT = ViTConfig(embed_dim=24, depth=2, num_heads=2, image_size=56)
RULES = (Memory("block"), Memory("stream"), Memory("none", 3), Memory("block", 4, shards=2), Memory("none", 64))


def assert_gradients_agree(build, call, rules: tuple[Memory, ...]) -> None:
    """`call(module, memory)` of `build(memory)` under every rule, against keeping everything: by each parameter."""

    def gradients(memory: Memory) -> dict:
        structure, params = split_model(build(memory))

        def weighed(params):  # by chance: the plain sum of what a LayerNorm gives, or of its squares, is a constant
            found = call(structure.merge(params), memory)
            return (found * jax.random.normal(jax.random.key(1), found.shape)).mean()

        with jax.default_matmul_precision("highest"):
            return jax.jit(jax.grad(weighed))(params)

    expected = gradients(KEEP_ALL)
    largest = max(float(np.abs(gradient).max()) for gradient in expected.values())
    for memory in rules:
        found = gradients(memory)
        assert found.keys() == expected.keys()
        for path, gradient in expected.items():
            # Some gradients are 0 but for rounding, as that of an attention's key bias.
            limit = 1e-5 * np.abs(gradient).max() + 1e-7 * largest
            np.testing.assert_allclose(found[path], gradient, rtol=0, atol=limit, err_msg=f"{memory} {path}")


@pytest.mark.parametrize("kind", ["vit", "custom"])
def test_a_backbones_gradients_do_not_depend_on_what_is_kept(kind):
    frames = jax.random.normal(jax.random.key(0), (2, 5, 28, 28, 3))  # no multiple of the chunks

    def build(memory: Memory) -> nnx.Module:
        if kind == "vit":
            return VisionTransformer(SMALL_VIT, memory=memory, rngs=nnx.Rngs(0))
        return SmallCNN((8, 16), 24, rngs=nnx.Rngs(0))

    assert_gradients_agree(build, lambda backbone, memory: frame_features(backbone, frames, memory), RULES)


SIZES = {"d_model": 16, "vocab_size": 31}
T5_SIZES = SIZES | {"d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
BART_SIZES = SIZES | {
    "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 16,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["t5", "bart", "temporal"])
def test_layers_draw_the_same_dropout_when_they_are_computed_again(kind):
    encoded = jax.random.normal(jax.random.key(0), (2, 5, 16))
    ids = jax.random.randint(jax.random.key(2), (2, 7), 2, 31)

    def build(memory: Memory) -> nnx.Module:
        if kind == "temporal":
            return TemporalEncoder(16, 2, 1, 32, 0.3, dtype=jnp.float32, memory=memory, rngs=nnx.Rngs(0))
        kinds = {"t5": (T5, T5_SIZES | {"dropout_rate": 0.3}), "bart": (Bart, BART_SIZES | {"dropout": 0.3})}
        decoder, sizes = kinds[kind]
        return decoder(sizes, memory=memory, rngs=nnx.Rngs(0))

    def call(module: nnx.Module, memory: Memory):
        key = jax.random.key(1)
        return module(encoded, None, key=key) if kind == "temporal" else module(encoded, None, ids, key=key)

    assert_gradients_agree(build, call, (Memory("block"),))


def test_chunks_bound_the_memory_of_a_step():
    """By XLA's own count. On the CPU it merges what is computed twice, so that only loops keep memory low there."""
    backbone = VisionTransformer(SMALL_VIT, rngs=nnx.Rngs(0))
    structure, params = split_model(backbone)
    temporaries = {}
    for frames in (32, 128):
        for memory in (KEEP_ALL, Memory("none", 4)):

            def loss(params, images, memory=memory):
                return frame_features(structure.merge(params), images, memory).sum()

            images = jax.ShapeDtypeStruct((1, frames, 28, 28, 3), jnp.float32)
            compiled = jax.jit(jax.grad(loss)).lower(params, images).compile()
            temporaries[frames, memory] = compiled.memory_analysis().temp_size_in_bytes
    grown = {memory: temporaries[128, memory] - temporaries[32, memory] for memory in (KEEP_ALL, Memory("none", 4))}
    assert grown[Memory("none", 4)] < grown[KEEP_ALL] / 4, temporaries


def test_what_is_kept_between_the_passes():
    """By JAX's own account, before a compiler sees it: what a TPU or GPU has to hold."""
    config = ViTConfig(embed_dim=24, depth=2, num_heads=2, patch_size=2, image_size=28)
    frames = jnp.zeros((1, 8, 28, 28, 3))
    kept = []
    for memory in (KEEP_ALL, Memory("block"), Memory("stream")):
        structure, params = split_model(VisionTransformer(config, memory=memory, rngs=nnx.Rngs(0)))

        def backward(params, structure=structure, memory=memory):
            return jax.vjp(lambda params: frame_features(structure.merge(params), frames, memory), params)[1]

        kept.append(sum(array.size for array in jax.tree.leaves(jax.eval_shape(backward, params))))
    assert kept == sorted(set(kept), reverse=True)
