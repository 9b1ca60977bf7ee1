"""safetensors files and HuggingFace folders: hostile ones end in one line. timm's names of a ViT are known."""

import json
import os
import struct

import numpy as np
import pytest

from convert.dinov2 import hub_state, read_backbone, vit_sizes
from convert.huggingface import read_folder, read_safetensors
from convert.safetensors_file import read_ties
from slt_jax.errors import UserError

DEEP = "[" * 200_000 + "]" * 200_000


def safetensors(path, header: dict | str, data: bytes = b"\0" * 64):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def field(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "header",
    [
        DEEP,
        '{"a":' * 200_000 + "1" + "}" * 200_000,
        '{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 4]}}',
        {"a": field([1 << 62, 1 << 62], 0, 64)},
        {"a": field([1] * 100_000, 0, 4)},
        {"a": field(["x" * 100_000], 0, 4)},
        {"a": field([4], 0, 16), "b": field([4], 8, 24)},  # they overlap
        {"a": field([4], 0, 16, "F" * 100_000)},
        {"a" * 100_000: field([400], 0, 1600)},
        "[]",
        "3",
    ],
    ids=lambda header: str(header)[:40],
)
def test_hostile_safetensors_end_in_one_short_line(header, tmp_path):
    path = safetensors(tmp_path / "x.safetensors", header)
    with pytest.raises(UserError, match=r"x\.safetensors: is not a sound safetensors file") as error:
        read_safetensors(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500 + len(str(path))
    assert read_ties(path) == {}


def test_sound_safetensors_may_be_in_any_order(tmp_path):
    header = {"b": field([2], 8, 16), "none": field([0, 3], 8, 8), "a": field([2], 0, 8)}
    found = read_safetensors(safetensors(tmp_path / "x.safetensors", header, np.arange(4, dtype="<f4").tobytes()))
    assert {key: array.tolist() for key, array in found.items()} == {"b": [2, 3], "none": [], "a": [0, 1]}


def test_pipes_are_refused_and_do_not_hang(tmp_path):
    for name in ("model.safetensors", "index/model.safetensors.index.json", "backbone/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    safetensors(tmp_path / "backbone" / "model.safetensors", {"cls_token": field([1, 1, 4], 0, 16)})
    with pytest.raises(UserError, match=r"cannot be read .*not a regular file"):
        read_safetensors(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"index\.json: cannot be read .*not a regular file"):
        read_folder(tmp_path / "index")
    with pytest.raises(UserError, match=r"config\.json: cannot be read .*not a regular file"):
        read_backbone(tmp_path / "backbone")


@pytest.mark.parametrize(
    "index",
    [
        DEEP,
        '{"weight_map": ' + DEEP + "}",
        '{"weight_map": {"a": 5}}',
        '{"weight_map": {"a": ["x"]}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
        '{"weight_map": {"a": "x\\u0000.safetensors"}}',
        json.dumps({"weight_map": {"a": "x" * 5000}}),
        json.dumps({"weight_map": {"a": "../" + "x" * 500_000}}),
        "[]",
    ],
    ids=lambda text: text[:40],
)
def test_hostile_indices_end_in_one_short_line(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"index\.json: (is not an index|is nested|names a file)") as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("text", [DEEP, "[]", "{", "\udcff"], ids=["deep", "list", "half", "not UTF-8"])
def test_a_hostile_config_of_a_backbone_ends_in_one_line(text, tmp_path):
    safetensors(tmp_path / "model.safetensors", {"cls_token": field([1, 1, 4], 0, 16)})
    (tmp_path / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=r"config\.json: is (not|nested)") as error:
        read_backbone(tmp_path)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------- timm


def vit(width=64, depth=2, patches=9) -> dict[str, np.ndarray]:
    """A DINOv2 backbone with registers and SwiGLU, in the hub's names, with random numbers."""
    rng = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, width),
        "mask_token": (1, width),
        "register_tokens": (1, 4, width),
        "pos_embed": (1, 1 + patches, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for index in range(depth):
        block = f"blocks.{index}."
        shapes |= {f"{block}mlp.w12.weight": (2 * 176, width), f"{block}mlp.w12.bias": (2 * 176,)}
        shapes |= {f"{block}mlp.w3.weight": (width, 176), f"{block}mlp.w3.bias": (width,)}
        shapes |= {f"{block}attn.qkv.bias": (3 * width,), f"{block}ls1.gamma": (width,), f"{block}ls2.gamma": (width,)}
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def test_timms_names_of_a_backbone_give_the_hubs_tensors():
    hub = vit()
    names = {"register_tokens": "reg_token"}
    timm = {names.get(key, key).replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): hub[key] for key in hub}
    del timm["mask_token"]
    timm["cls_token"] = hub["cls_token"] + hub["pos_embed"][:, :1]  # as timm converts the hub's files
    timm["pos_embed"] = hub["pos_embed"][:, 1:]
    found, _ = hub_state(timm)
    assert found.keys() == hub.keys()
    assert np.array_equal(found["cls_token"] + found["pos_embed"][:, :1], hub["cls_token"] + hub["pos_embed"][:, :1])
    same = [key for key in hub if key not in ("cls_token", "pos_embed", "mask_token")]
    assert all(np.array_equal(found[key], hub[key]) for key in same)
    assert np.array_equal(found["pos_embed"][:, 1:], hub["pos_embed"][:, 1:])
    assert vit_sizes(found) == vit_sizes(hub)
