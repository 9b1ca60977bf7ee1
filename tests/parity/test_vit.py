"""Our VisionTransformer against transformers' Dinov2 models with random weights, and its position resize against torch.

transformers resizes the position table to a size; the DINOv2 hub code gives torch a scale factor with an offset of 0.1.
"""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from convert.dinov2 import hub_state, vit_sizes
from convert.state_dict import table, to_params
from slt_jax.models.params import describe
from slt_jax.models.vit import VisionTransformer, ViTConfig, antialiased_cubic, plain_cubic
from tests.parity.torch_weights import quick_compilation, randomise, relative_error  # noqa: F401

TOLERANCE = 1e-5
MODELS = {"plain": (Dinov2Config, Dinov2Model), "registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel)}


def huggingface_model(kind: str, *, swiglu: bool = False) -> torch.nn.Module:
    config, model = MODELS[kind]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "use_swiglu_ffn": swiglu}
    return randomise(model(config(**sizes, image_size=518, patch_size=14)), seed=len(kind), std=0.2)


def ours(model: torch.nn.Module) -> tuple:
    """Our ViT's structure and arrays with the weights of a transformers model."""
    state, _ = hub_state({key: value.detach().numpy() for key, value in model.state_dict().items()})
    sizes = vit_sizes(state, num_heads=2, interpolate_offset=0.0)
    structure, leaves = describe(lambda: VisionTransformer(sizes, rngs=nnx.Rngs(0)))
    return structure, to_params(state, table(leaves))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("height_width", [(224, 224), (518, 518), (98, 98), (98, 154), (224, 112)], ids=str)
def test_features_match_transformers(kind, height_width):
    check_features(huggingface_model(kind), height_width)


@pytest.mark.parametrize("kind", MODELS)
def test_swiglu_features_match_transformers(kind):
    check_features(huggingface_model(kind, swiglu=True), (98, 70))


@pytest.mark.parametrize("kind", MODELS)
def test_masked_patches_and_all_tokens_match_transformers(kind):
    model = huggingface_model(kind)
    with torch.no_grad():
        model.embeddings.mask_token.normal_(generator=torch.Generator().manual_seed(1))
    images = np.random.default_rng(0).normal(size=(2, 56, 42, 3)).astype(np.float32)
    masked = np.random.default_rng(1).random((2, 12)) < 0.4
    with torch.no_grad():
        pixels = torch.tensor(images).permute(0, 3, 1, 2)
        expected = model(pixels, bool_masked_pos=torch.tensor(masked)).last_hidden_state.numpy()
    structure, params = ours(model)
    cls, patches = jax.jit(lambda params, *inputs: structure.merge(params).tokens(inputs[0], masked=inputs[1]))(
        params, images, masked
    )
    assert relative_error(np.asarray(cls), expected[:, 0]) <= TOLERANCE
    assert relative_error(np.asarray(patches), expected[:, -12:]) <= TOLERANCE


def test_the_attention_of_the_cls_token_matches_transformers():
    model = huggingface_model("registers")
    model.set_attn_implementation("eager")
    images = np.random.default_rng(0).normal(size=(2, 56, 42, 3)).astype(np.float32)
    with torch.no_grad():
        maps = model(torch.tensor(images).permute(0, 3, 1, 2), output_attentions=True).attentions[-1].numpy()
    structure, params = ours(model)
    found = jax.jit(lambda params, images: structure.merge(params).cls_attention(images))(params, images)
    assert relative_error(np.asarray(found), maps[:, :, 0, 5:]) <= TOLERANCE


def test_drop_path_leaves_branches_out_and_keeps_their_mean():
    vit = VisionTransformer(
        ViTConfig(embed_dim=16, depth=1, num_heads=2, patch_size=7, image_size=14), rngs=nnx.Rngs(0)
    )
    image = jax.random.normal(jax.random.key(0), (1, 14, 14, 3))
    images = jax.numpy.repeat(image, 512, axis=0)
    branches = vit._branches(512, 0.25, jax.random.key(1))
    kept, whole = vit.encode(vit.embed(images), branches=branches), vit.encode(vit.embed(image))
    attention = vit.encode(vit.embed(images), branches=branches.at[:, 1].set(0)) - vit.embed(images)
    sizes = np.linalg.norm(np.asarray(attention).reshape(512, -1), axis=1)
    dropped = sizes < 1e-6
    assert 0.2 < dropped.mean() < 0.3
    alone = vit.encode(vit.embed(image), branches=jax.numpy.array([[[1.0], [0.0]]])) - vit.embed(image)
    np.testing.assert_allclose(attention[~dropped][0], alone[0] / 0.75, rtol=1e-4, atol=1e-6)
    assert kept.shape == (512, *whole.shape[1:])
    for key, rate in ((None, 0.5), (jax.random.key(0), 0.0)):
        np.testing.assert_array_equal(vit.tokens(image, drop_path=rate, key=key)[0], vit.tokens(image)[0])
    np.testing.assert_allclose(vit.tokens(image)[0], vit(image), rtol=1e-5, atol=1e-6)


def check_features(model: torch.nn.Module, height_width: tuple[int, int]) -> None:
    images = np.random.default_rng(0).normal(size=(2, *height_width, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.tensor(images).permute(0, 3, 1, 2)).last_hidden_state[:, 0].numpy()
    structure, params = ours(model)
    actual = jax.jit(lambda params, images: structure.merge(params)(images))(params, images)
    assert actual.shape == (2, 32)
    assert relative_error(actual, expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("grid", "target"), [(37, 16), (37, 7), (37, 36), (37, 38), (37, 74), (37, 1), (16, 37), (16, 7), (14, 16), (7, 16)]
)
def test_resize_matches_torch(grid, target):
    table = torch.randn(1, 3, grid, grid, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    for resize, offset, options in (
        (plain_cubic, 0.1, {"scale_factor": ((target + 0.1) / grid, (5 + 0.1) / grid)}),
        (plain_cubic, 0.0, {"size": (target, 5)}),
        (antialiased_cubic, 0.0, {"size": (target, 5), "antialias": True}),
    ):
        expected = torch.nn.functional.interpolate(table, mode="bicubic", align_corners=False, **options).numpy()
        down, across = resize(grid, target, offset), resize(grid, 5, offset)
        actual = np.einsum("ri,cj,bdij->bdrc", down, across, table.numpy().astype(np.float64))
        assert relative_error(actual, expected) <= TOLERANCE, (resize.__name__, offset)


def test_position_table_is_used_as_it_is_at_its_own_size():
    vit = VisionTransformer(ViTConfig(embed_dim=16, depth=1, num_heads=2, image_size=70), rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(vit.positions(5, 5), vit.pos_embed[...])
    assert vit.positions(3, 8).shape == (1, 25, 16)
