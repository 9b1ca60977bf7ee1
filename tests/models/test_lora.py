"""`model.lora`: which settings there are, which layers they mean, and what trains then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slt_jax.adapter_settings import Lora
from slt_jax.config import build_config, build_section
from slt_jax.errors import UserError
from slt_jax.models.freeze import frozen_paths, trained_paths
from slt_jax.models.lora import add_adapters, chosen_layers, draw_dropout, is_adapter, merged
from slt_jax.models.params import random_weights, split_model
from slt_jax.models.vit import VisionTransformer, ViTConfig

VIT, T5 = "encoder.face_backbone.blocks.0", "decoder.model.decoder.block.0.layer"
LAYERS = [
    f"{VIT}.attn.qkv", f"{VIT}.mlp.fc1", f"{T5}.0.SelfAttention.q", f"{T5}.0.SelfAttention.v",
    f"{T5}.1.EncDecAttention.q", f"{T5}.2.DenseReluDense.wo", "decoder.model.encoder.block.0.layer.0.SelfAttention.q",
    "decoder.model.lm_head", "encoder.fusion.proj.q", "encoder.temporal.encoder.layers.0.out_proj",
]  # fmt: skip


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["decoder"], LAYERS[2:6]),
        (["backbones"], LAYERS[:2]),
        (["backbones", "decoder"], LAYERS[:6]),
        (["q"], [LAYERS[2], LAYERS[4]]),
        (["fc1", "wo"], [LAYERS[1], LAYERS[5]]),
        (["decoder", "q", "v"], LAYERS[2:5]),
        (["SelfAttention.q"], [LAYERS[2]]),
        (["decoder.block.0.layer.1.EncDecAttention.q"], [LAYERS[4]]),
    ],
)
def test_targets_are_parts_names_of_layers_or_both(targets, expected):
    assert chosen_layers(LAYERS, targets) == expected


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (
            ["encoder"],
            "'encoder' is neither a part nor a linear layer; there are backbones: fc1, qkv; decoder: q, v, wo",
        ),
        (["q", "qv"], "'qv' is neither"),
        (["elfAttention.q"], "'elfAttention.q' is neither"),
        (["lm_head"], "'lm_head' is neither"),
        (["decoder", "qkv"], "'qkv' is neither"),
        (["backbones", "decoder", "q"], "'backbones' has no such linear layer; there are backbones: fc1, qkv"),
    ],
)
def test_a_target_that_names_nothing_is_one_line_that_lists_what_there_is(targets, said):
    with pytest.raises(UserError) as error:
        chosen_layers(LAYERS, targets)
    assert said in str(error.value)


def test_a_model_without_linear_layers_says_so():
    with pytest.raises(UserError, match="there are backbones: none; decoder: q"):
        chosen_layers(LAYERS[2:3], ["backbones"])


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"ranks": 4}, "unknown configuration key 'model.lora.ranks'; did you mean 'rank'?"),
        ({"rank": 0}, "model.lora.rank must be a whole number from 1"),
        ({"rank": "4"}, "model.lora.rank must"),
        ({"rank": True}, "model.lora.rank must"),
        ({"alpha": 0}, "model.lora.alpha must be a number above 0"),
        ({"alpha": 1e400}, "lora must hold finite numbers"),
        ({"dropout": 1}, "model.lora.dropout must be from 0 to below 1"),
        ({"rslora": 1}, "model.lora.rslora must be true or false"),
        ({"frozen_dtype": "int8"}, "model.lora.frozen_dtype must be float32 or bfloat16"),
        ({"targets": []}, "model.lora.targets must be names"),
        ({"targets": {"decoder": 1}}, "model.lora.targets must be names"),
        ({"targets": ["decoder", 3]}, "model.lora.targets must be names"),
        (8, "lora must be dict or null"),
    ],
)
def test_wrong_settings_are_one_line(lora, said):
    with pytest.raises(UserError) as error:
        build_config({"model": {"lora": lora}})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_scale():
    """alpha / rank, and alpha / sqrt(rank); alpha is the rank where only that is given."""
    assert Lora.parse(None) is None
    assert Lora.parse({}) == Lora(8, 8.0, ("decoder",))
    assert Lora.parse({"rank": 4}).scale == 1
    assert Lora.parse({"rank": 16, "alpha": 32}).scale == 2
    assert Lora.parse({"rank": 16, "alpha": 32, "rslora": True}).scale == 8
    assert Lora.parse({"rank": 4, "dropout": 0.1}).same_function(Lora.parse({"rank": 4, "frozen_dtype": "bfloat16"}))
    assert not Lora.parse({"rank": 4}).same_function(Lora.parse({"rank": 4, "rslora": True}))


def test_parts_with_adapters_train_nothing_else():
    """Flags that freeze a backbone mean its own weights; parts without adapters train as they are told to."""
    face, hand = "encoder.face_backbone.norm.scale", "encoder.hand_backbone_left.norm.scale"
    adapter = [f"{VIT}.attn.qkv.lora_a", f"{VIT}.attn.qkv.lora_b"]
    paths = [face, hand, "encoder.fusion.norm.scale", "decoder.model.shared.embedding", *adapter]
    config = build_section("model", {"lora": {"targets": ["backbones"]}, "freeze_face_backbone": True})
    assert trained_paths(config, paths, ()) == sorted({*paths} - {face})
    assert frozen_paths(config, paths) == {face}
    decoder = ["decoder.model.shared.embedding", f"{T5}.0.SelfAttention.q.lora_a"]
    assert trained_paths(build_section("model", {"lora": {}}), [face, *decoder], ()) == sorted([face, decoder[1]])
    assert trained_paths(build_section("model", {}), [face, *decoder], ()) == sorted([face, *decoder])


def test_merging():
    rng = np.random.default_rng(0)
    kernel, a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 7), (5, 2), (2, 7)))
    params = {"x.kernel": kernel, "x.lora_a": a, "x.lora_b": b, "y.kernel": kernel}
    plain = merged(params, Lora(2, 6.0))
    assert plain.keys() == {"x.kernel", "y.kernel"}
    np.testing.assert_allclose(plain["x.kernel"], kernel + 3 * (a @ b), atol=1e-6)
    np.testing.assert_array_equal(plain["y.kernel"], kernel)
    assert merged(params, None) == params


def test_an_adapter_on_a_layer_of_ones_own_computes_as_that_layer_was_told_to():
    """Its dtype, precision and product; a new adapter changes no number."""
    precisions = []

    def dot_general(x, kernel, dimensions, precision=None, **others):
        precisions.append(precision)
        return jax.lax.dot_general(x, kernel, dimensions, precision=precision, **others)

    own = nnx.Module()
    own.project = nnx.Linear(
        8, 4, use_bias=False, dtype=jnp.bfloat16, precision="highest", dot_general=dot_general, rngs=nnx.Rngs(0)
    )
    holder = nnx.Module()
    holder.encoder = nnx.Module()
    holder.encoder.face_backbone = own
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)
    before = own.project(x)
    add_adapters(holder, Lora(2, 2.0, ("backbones",)), nnx.Rngs(1))
    after = own.project(x)
    assert after.dtype == before.dtype == jnp.bfloat16
    np.testing.assert_array_equal(after, before)
    assert precisions == ["highest"] * 2


def test_a_backbone_with_adapters_is_its_merged_one():
    """Through `product`, which folds norms and scales into weights; dropout draws anew with each key, and only then."""

    def build(adapters: bool) -> VisionTransformer:
        rngs = random_weights(1)
        vit = VisionTransformer(ViTConfig(embed_dim=12, depth=1, num_heads=2, patch_size=14, image_size=28), rngs=rngs)
        if adapters:
            holder = nnx.Module()
            holder.encoder = nnx.Module()
            holder.encoder.face_backbone = vit
            add_adapters(holder, lora, rngs)
        return vit

    lora = Lora(3, 6.0, ("backbones",), dropout=0.5)
    (plain, _), (structure, params) = (split_model(build(adapters)) for adapters in (False, True))
    rng = np.random.default_rng(0)
    params = {path: jnp.asarray(rng.normal(size=array.shape), jnp.float32) / 2 for path, array in params.items()}
    assert sum(map(is_adapter, params)) == 2 * 4
    images = jnp.asarray(rng.normal(size=(2, 28, 28, 3)), jnp.float32)
    features = structure.merge(params)(images)
    expected = plain.merge(jax.tree.map(jnp.asarray, merged(params, lora)))(images)
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())

    def trained(seed: int) -> np.ndarray:
        module = structure.merge(params)
        draw_dropout(module, jax.random.key(seed))
        return np.asarray(module(images))

    np.testing.assert_array_equal(trained(0), trained(0))
    assert np.abs(trained(0) - trained(1)).max() > 0.01
    assert np.abs(trained(0) - features).max() > 0.01
