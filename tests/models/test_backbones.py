"""The grammar of backbone specs, and weights of every origin: hub files, HuggingFace, DINO and iBOT runs."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from convert import write_pt
from convert.checkpoint import Blueprint, blueprint, plan_model, read_checkpoint
from convert.state_dict import table, to_state
from slt_jax import load_dinov2_backbone
from slt_jax.config import build_section
from slt_jax.errors import UserError
from slt_jax.models.backbones import HUB_MODELS, CustomBackbone, parse_backbone
from slt_jax.models.params import describe, leaves, random_weights, split_model
from slt_jax.models.vit import VIT_SIZES, VisionTransformer, ViTConfig
from slt_jax.training.start import fresh_params
from tests.parity.torch_weights import quick_compilation, randomise, relative_error  # noqa: F401

SIZES = ViTConfig(embed_dim=64, depth=2, num_heads=1, image_size=56)
IMAGES = np.random.default_rng(0).normal(size=(2, 42, 70, 3)).astype(np.float32)


@nnx.jit
def features(module: nnx.Module) -> jax.Array:
    return module(jnp.asarray(IMAGES))


def hub_weights(sizes: ViTConfig = SIZES, seed: int = 1) -> tuple[dict[str, np.ndarray], VisionTransformer]:
    """A random ViT's state dict under hub names, and the ViT."""
    module = VisionTransformer(sizes, rngs=nnx.Rngs(seed))
    for _, variable in nnx.to_flat_state(nnx.state(module)):
        noise = np.random.default_rng(seed).normal(size=variable.shape)
        variable[...] = (variable[...] + 0.2 * noise).astype(np.float32)
    entries = table(leaves(module))
    return to_state(split_model(module)[1], entries), module


# --- the grammar --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, {"hub": "dinov2_vits14"}),
        ("torchhub::dinov2_vitb14", {"hub": "dinov2_vitb14"}),
        ("torchhub::facebookresearch/dinov2:dinov2_vitl14_reg:pretrained", {"hub": "dinov2_vitl14_reg"}),
        ("torchhub::facebookresearch/dinov2:dinov2_vitg14:random", {"hub": None, "model": "dinov2_vitg14"}),
        ("torchhub::dinov2_vits14:random", {"hub": None, "model": "dinov2_vits14"}),
        ("hf::facebook/dinov2-small", {"repo": "facebook/dinov2-small", "filename": None, "model": None}),
        ("hf::me/mine:weights.pth", {"repo": "me/mine", "filename": "weights.pth", "model": None}),
        (
            "hf::me/mine:weights.pth:dinov2_vits14",
            {"repo": "me/mine", "filename": "weights.pth", "model": "dinov2_vits14"},
        ),
        ("file::/a/b.pth", {"file": Path("/a/b.pth"), "model": None}),
        ("file::/a/b.pth:dinov2_vits14_reg", {"file": Path("/a/b.pth"), "model": "dinov2_vits14_reg"}),
        ("slt_jax.models.cnn:SmallCNN", {"sizes": CustomBackbone("slt_jax.models.cnn:SmallCNN")}),
        ({"type": "torchhub", "model": "dinov2_vitb14", "freeze": 6}, {"hub": "dinov2_vitb14", "freeze": 6}),
        ({"model": "dinov2_vitb14:random"}, {"hub": None, "model": "dinov2_vitb14"}),
        ({"type": "torchhub", "model": "dinov2_vits14", "pretrained": False}, {"hub": None}),
        ({"type": "file", "path": "/a/b.pth", "model": "vits14"}, {"file": Path("/a/b.pth"), "model": "dinov2_vits14"}),
        ({"path": "/a/b.pth"}, {"file": Path("/a/b.pth"), "model": None}),
        ({"type": "hf", "path": "me/mine", "filename": "w.pth"}, {"repo": "me/mine", "filename": "w.pth"}),
        (
            {"type": "class", "model": "slt_jax.models.cnn:SmallCNN", "kwargs": {"embed_dim": 8}},
            {"sizes": CustomBackbone("slt_jax.models.cnn:SmallCNN", {"embed_dim": 8})},
        ),
    ],
    ids=str,
)
def test_grammar(spec, expected):
    backbone = parse_backbone(spec, "model.face_backbone")
    assert {name: getattr(backbone, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision::resnet18", "torchvision backbones are not supported; use a DINOv2 one"),
        ("torchhub::facebookresearch/dino:dino_vits16", "only those of facebookresearch/dinov2; download the weights"),
        ("torchhub::dinov2_vitx14", "unknown DINOv2 model 'dinov2_vitx14'; known: dinov2_vits14"),
        ("file::/a/b.pth:dinov2_vitx14", "unknown DINOv2 model 'dinov2_vitx14'"),
        ("dinov2_vits14", "is not a backbone; use torchhub::"),
        ("torchhub::", "is not a backbone"),
        ("hf::a/b:c:dinov2_vits14:e", "too many parts"),
        ("no.such.module:Class", "cannot be imported"),
        ("slt_jax.models.cnn:Nothing", "has no Flax NNX class 'Nothing'"),
        ({"type": "file"}, "a mapping needs type"),
        ({"modle": "x"}, "unknown key 'modle' in model.face_backbone"),
    ],
    ids=str,
)
def test_wrong_specs_say_what_to_use(spec, message):
    with pytest.raises(UserError) as error:
        parse_backbone(spec, "model.face_backbone")
    assert message in str(error.value)
    assert "model.face_backbone" in str(error.value)


@pytest.mark.parametrize("name", HUB_MODELS)
def test_all_eight_sizes_have_the_parameters_of_transformers(name):
    sizes = VIT_SIZES[name.removeprefix("dinov2_")]
    registers = bool(sizes.num_register_tokens)
    config_class = Dinov2WithRegistersConfig if registers else Dinov2Config
    config = config_class(
        hidden_size=sizes.embed_dim,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.num_heads,
        image_size=518,
        patch_size=14,
        use_swiglu_ffn=sizes.ffn == "swiglu",
    )
    with torch.device("meta"):
        theirs = (Dinov2WithRegistersModel if registers else Dinov2Model)(config)
    _, found = describe(lambda: VisionTransformer(sizes, rngs=random_weights()))
    assert sum(int(np.prod(leaf.shape)) for leaf in found) == sum(p.numel() for p in theirs.parameters())


# --- weights ------------------------------------------------------------------------------------------------------


def dinov1(state: dict) -> dict:
    """What DINO's and iBOT's ViTs have: no LayerScale, and no mask token."""
    return {key: array for key, array in state.items() if ".ls" not in key and key != "mask_token"}


def under(prefix: str, state: dict) -> dict:
    return {f"{prefix}{key}": array for key, array in state.items()}


def chunked(state: dict) -> dict:
    return {key.replace("blocks.", "blocks.0.", 1): array for key, array in state.items()}


HEAD = {"head.mlp.0.weight": np.ones((3, 64), np.float32), "head.last_layer.weight_g": np.ones((3, 1), np.float32)}
WRAPPINGS = {
    "hub file": lambda state: state,
    "data parallel": lambda state: under("module.", state),
    "state_dict": lambda state: {"state_dict": under("encoder.", state), "epoch": 3},
    "model, trunk": lambda state: {"model": under("trunk.", state)},
    "teacher": lambda state: {
        "student": under("module.backbone.", under("x", state)),
        "epoch": 3,
        "teacher": under("backbone.", state) | HEAD,
    },
    "student": lambda state: {"student": under("module.", under("backbone.", state) | HEAD)},
    "dinov2 run": lambda state: {
        "model": {
            **under("student.backbone.", chunked(state)),
            **under("teacher.backbone.", chunked(state)),
            **under("teacher.dino_head.", HEAD),
            **under("teacher.ibot_head.", HEAD),
        }
    },
    "head beside": lambda state: {"state_dict": state | HEAD},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_exported_backbones_load(wrapping, tmp_path, caplog):
    state, expected = hub_weights()
    write_pt(tmp_path / "backbone.pth", WRAPPINGS[wrapping](state))
    with caplog.at_level(logging.WARNING):
        module = load_dinov2_backbone(f"file::{tmp_path}/backbone.pth")
    np.testing.assert_array_equal(features(module), features(expected))
    assert module.config == expected.config
    noted = "are left out" in caplog.text
    assert noted is (wrapping in ("teacher", "student", "dinov2 run", "head beside"))


@pytest.mark.parametrize("kind", ["dino", "ibot"])
def test_dino_and_ibot_backbones_are_completed(kind, tmp_path):
    """Patches of 16 on 224 px, no LayerScale; iBOT's mask token has another name."""
    sizes = dataclasses.replace(SIZES, patch_size=16, image_size=224)
    state, expected = hub_weights(sizes)
    for block in expected.blocks:
        block.ls1.gamma[...] = block.ls2.gamma[...] = np.ones(64, np.float32)
    extra = {"masked_embed": np.full((1, 64), 7, np.float32)} if kind == "ibot" else {}
    write_pt(tmp_path / "b.pth", {"teacher": under("backbone.", dinov1(state) | extra)})
    module = load_dinov2_backbone(f"file::{tmp_path}/b.pth")
    assert (module.config.patch_size, module.config.grid) == (16, 14)
    images = np.random.default_rng(0).normal(size=(2, 96, 64, 3)).astype(np.float32)
    run = nnx.jit(lambda m: m(jnp.asarray(images)))
    np.testing.assert_array_equal(run(module), run(expected))
    assert float(module.mask_token[0, 0]) == (7 if kind == "ibot" else 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"ffn": "swiglu"},
        {"mlp_ratio": 2.5},
        {"ffn": "swiglu", "mlp_ratio": 3.0},
        {"depth": 3, "patch_size": 8},
        {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0},
    ],
    ids=str,
)
def test_sizes_are_read_off_the_weights(changes, tmp_path):
    sizes = dataclasses.replace(SIZES, **changes)
    state, expected = hub_weights(sizes)
    write_pt(tmp_path / "b.pth", state)
    module = load_dinov2_backbone({"type": "file", "path": str(tmp_path / "b.pth")})
    shapes = [{k: v.shape for k, v in split_model(m)[1].items()} for m in (module, expected)]
    assert shapes[0] == shapes[1]
    assert dataclasses.replace(module.config, mlp_ratio=sizes.mlp_ratio) == sizes


@pytest.mark.parametrize(
    "kind",
    [(Dinov2Config, Dinov2Model), (Dinov2WithRegistersConfig, Dinov2WithRegistersModel)],
    ids=["plain", "registers"],
)
@pytest.mark.parametrize("swiglu", [False, True])
def test_huggingface_folders(kind, swiglu, tmp_path):
    config, model = kind
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    theirs = randomise(model(config(**sizes, use_swiglu_ffn=swiglu)), seed=5, std=0.2)
    theirs.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if swiglu else {}))
    with torch.no_grad():
        expected = theirs(torch.tensor(IMAGES).permute(0, 3, 1, 2)).last_hidden_state[:, 0].numpy()
    module = load_dinov2_backbone(f"file::{tmp_path}")
    assert module.embed_dim == 32
    assert relative_error(features(module), expected) <= 1e-5


def test_what_is_no_backbone_is_said(tmp_path):
    path = tmp_path / "b.pth"
    write_pt(path, {"model": {"conv1.weight": np.ones((2, 3, 7, 7), np.float32)}})
    with pytest.raises(UserError, match=r"b\.pth: has no vision transformer in it"):
        load_dinov2_backbone(f"file::{path}")
    state, _ = hub_weights()
    write_pt(path, state)
    with pytest.raises(UserError, match=r"is not a dinov2_vits14: its embed_dim is 64, not 384"):
        load_dinov2_backbone(f"file::{path}:dinov2_vits14")
    write_pt(path, {k: v for k, v in state.items() if k != "blocks.1.norm1.bias"} | {"extra": np.ones(2, np.float32)})
    with pytest.raises(UserError, match=r"(?s)- blocks\.1\.norm1\.bias.*\+ extra"):
        load_dinov2_backbone(f"file::{path}")
    with pytest.raises(UserError, match="does not exist"):
        load_dinov2_backbone(f"file::{tmp_path}/nothing.pth")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="is a bert model; a backbone is a dinov2"):
        load_dinov2_backbone(f"file::{tmp_path}/bert")


# --- caches and the network ---------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """Empty caches under the returned folder, and no network."""
    import huggingface_hub.constants as constants

    import slt_jax.base.hub

    def unreachable(*_):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(slt_jax.base.hub, "_download", unreachable)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (
            None,
            "put https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth at {}/torch/hub/"
            "checkpoints/dinov2_vits14_pretrain.pth",
        ),
        (
            "torchhub::dinov2_vitb14_reg",
            "put https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_"
            "pretrain.pth at {}/torch/hub/checkpoints/dinov2_vitb14_reg4_pretrain.pth",
        ),
        ("hf::me/mine", "put config.json and model.safetensors of https://huggingface.co/me/mine into a folder"),
        ("hf::me/mine:w.pth", "put w.pth of https://huggingface.co/me/mine into a folder"),
    ],
    ids=str,
)
def test_offline_one_line_says_which_file_to_put_where(offline, spec, where):
    for local_files_only in (False, True):
        with pytest.raises(UserError) as error:
            load_dinov2_backbone(spec, local_files_only=local_files_only)
        text = str(error.value)
        assert where.format(offline) in text
        assert "\n" not in text
        assert ("--local-files-only" in text) is local_files_only


def test_hub_files_come_from_torchs_cache(offline):
    sizes = VIT_SIZES["vits14"]
    state, expected = hub_weights(dataclasses.replace(sizes, depth=1))
    first = {key.removeprefix("blocks.0."): array for key, array in state.items() if key.startswith("blocks.0.")}
    state |= {f"blocks.{i}.{key}": array for i in range(1, 12) for key, array in first.items()}
    folder = offline / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    write_pt(folder / "dinov2_vits14_pretrain.pth", state)
    module = load_dinov2_backbone(freeze=True)
    assert module.config == sizes
    np.testing.assert_array_equal(module.blocks[11].attn.qkv.kernel[...], expected.blocks[0].attn.qkv.kernel[...])


def test_huggingface_ids_come_from_the_cache(offline):
    state, expected = hub_weights()
    repo = offline / "hub" / "models--me--mine"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    write_pt(snapshot / "w.pth", state)
    np.testing.assert_array_equal(features(load_dinov2_backbone("hf::me/mine:w.pth")), features(expected))


# --- in a whole model ---------------------------------------------------------------------------------------------


def test_streams_start_from_their_files_and_checkpoints_need_them_no_more(tmp_path):
    face, _ = hub_weights()
    hand, _ = hub_weights(dataclasses.replace(SIZES, depth=1, patch_size=7, image_size=28), seed=2)
    write_pt(tmp_path / "face.pth", face)
    write_pt(tmp_path / "hand.pth", {"teacher": under("backbone.", hand)})
    config = build_section(
        "model",
        {
            "face_backbone": f"file::{tmp_path}/face.pth",
            "hand_left_backbone": f"file::{tmp_path}/hand.pth",
            "hand_right_backbone": {
                "type": "class",
                "model": "slt_jax.models.cnn:SmallCNN",
                "kwargs": {"widths": [8, 8]},
            },
            "image_size": 28,
            "projector_dim": 64,
            "d_model": 64,
            "temporal_layers": 1,
            "temporal_nhead": 2,
            "decoder_layers": 1,
            "decoder_heads": 2,
            "vocab_size": 20,
            "pose_landmarks": 2,
            "sequence_length": 6,
        },
    )
    plan = plan_model(config)
    assert plan.backbones["face"] == SIZES
    structure, entries = plan.structure()
    params = fresh_params(plan, entries, seed=0)
    state = to_state(params, entries)
    for prefix, weights in (("encoder.face_backbone.", face), ("encoder.hand_backbone_left.", hand)):
        for key, array in weights.items():
            np.testing.assert_array_equal(state[prefix + key], array, err_msg=key)
    # d_model is the face backbone's width: the frame positions start from its patch positions.
    np.testing.assert_array_equal(state["encoder.positional.embedding.weight"], face["pos_embed"][0, 1:7])

    write_pt(
        tmp_path / "last.pt",
        {"model_state": state, "config": {"model": dataclasses.asdict(config)}, "architecture": plan.record()},
    )
    for name in ("face.pth", "hand.pth"):
        (tmp_path / name).unlink()
    again = blueprint(read_checkpoint(tmp_path / "last.pt"))
    assert again.backbones == plan.backbones
    assert again.structure()[1] == entries
    assert Blueprint.from_record(config, json.loads(json.dumps(plan.record()))).backbones == plan.backbones
    assert structure.variables == again.structure()[0].variables
