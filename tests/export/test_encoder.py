"""The encoder's ONNX file through onnxruntime: v9's numbers, its interface, and the edges of its inputs."""

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import slt_jax
from slt_jax.decoding.inference import Translator
from slt_jax.export.verify import encoder_differences
from slt_jax.models.params import split_model
from tests.convert.models import SIZES, tiny
from tests.export.models import OnnxEncoder, encoder_file, weights
from tests.parity.goldens import T5_CASES, Golden, needs_goldens


def translator(**changes) -> Translator:
    plan, _ = tiny(**changes)
    return Translator(plan, split_model(plan.build(seed=1))[1])


def batch(frames: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    images = {name: rng.standard_normal((2, frames, 3, 28, 28), np.float32) for name in ("face", "hand_l", "hand_r")}
    masks = {name: rng.random((2, frames)) > 0.5 for name in ("miss_mask_hl", "miss_mask_hr")}
    pose = rng.standard_normal((2, frames, 15), np.float32)
    return images | masks | {"pose": pose, "pad_mask": np.ones((2, frames), bool)}


@needs_goldens
@pytest.mark.parametrize("name", [*T5_CASES, "bart"])
def test_v9s_numbers(name, tmp_path):
    golden = Golden(name)
    run = OnnxEncoder(encoder_file(slt_jax.load(golden.checkpoint, model=golden.model), tmp_path))
    given, expected = golden.batch(), golden.expected
    outputs = run(given | {"pose": given["pose"] * np.repeat(given["pose_conf_mask"], 3, axis=-1)})
    real = given["pad_mask"]
    assert np.abs(outputs["encoded"] - expected["encoded"])[real].max() < 1e-5
    assert np.abs(outputs["face_head"] - expected["face_projected"]).max() < 1e-5
    np.testing.assert_array_equal(outputs["hand_mask"], given["miss_mask_hl"] | given["miss_mask_hr"])
    np.testing.assert_array_equal(outputs["padding_mask"], ~real)

    bare = {mask: np.zeros_like(real) for mask in ("miss_mask_hl", "miss_mask_hr")} | {"pad_mask": np.ones_like(real)}
    assert np.abs(run(given | bare)["encoded"] - expected["encoded_no_masks"]).max() < 1e-5


BACKBONE = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 14, "image_size": 70}
REGISTERS = {"num_register_tokens": 3, "interpolate_antialias": True, "interpolate_offset": 0.0}
CNN = {f"{part}_backbone": "slt_jax.models.cnn:SmallCNN" for part in ("face", "hand_left", "hand_right")}


@pytest.mark.parametrize(
    ("changes", "opset"),
    [
        ({"backbone": BACKBONE, "projector_dropout": 0.2}, 17),  # positions are resized from 5 x 5 to 2 x 2
        ({"backbone": BACKBONE | REGISTERS | {"ffn": "swiglu"}}, 18),
        ({"projector": "identity", "projector_dim": 64, "temporal_layers": 2}, 23),
        ({"backbone": None, "image_size": 32, "projector_dim": 24} | CNN, 20),
    ],
    ids=["resized", "registers", "identity", "cnn"],
)
def test_all_kinds_of_models(changes, opset, tmp_path):
    model = translator(**changes)
    path = encoder_file(model, tmp_path, opset=opset)
    onnx.checker.check_model(path, full_check=True)
    assert onnx.load(path).opset_import[0].version == opset
    found = list(encoder_differences(OnnxEncoder(path), model))
    assert {(f.batch, f.frames) for f in found} == {(b, t) for b in (1, 2) for t in (1, 3, 4)}
    assert max(value for f in found for value in f.largest.values()) < 1e-5


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tiny translator and its encoder's file."""
    model = translator()
    return model, encoder_file(model, tmp_path_factory.mktemp("plain"))


def test_names_types_and_free_sizes(plain):
    _, path = plain
    session = OnnxEncoder(path).session
    inputs = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    images = ("tensor(float)", ["B", "T", 3, 28, 28])
    assert inputs == {
        "face": images, "hand_l": images, "hand_r": images, "pose": ("tensor(float)", ["B", "T", 15]),
        "pad_mask": ("tensor(bool)", ["B", "T"]), "miss_mask_hl": ("tensor(bool)", ["B", "T"]),
        "miss_mask_hr": ("tensor(bool)", ["B", "T"]),
    }  # fmt: skip
    outputs = {value.name: (value.type, value.shape[2:]) for value in session.get_outputs()}
    heads = ("face_head", "hand_left_head", "hand_right_head", "pose_head")
    assert list(outputs) == ["encoded", *heads, "hand_mask", "padding_mask"]
    assert outputs == {
        "encoded": ("tensor(float)", [32]), "hand_mask": ("tensor(float)", []), "padding_mask": ("tensor(float)", []),
    } | dict.fromkeys(heads, ("tensor(float)", [24]))  # fmt: skip


def test_weights_keep_their_torch_keys(plain):
    model, path = plain
    state = weights(model)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    kept = stored.keys() & state.keys()
    for key in kept:
        np.testing.assert_array_equal(stored[key], state[key])
    changed = {key for key in state if key.startswith("encoder.")} - kept
    parts = ("cls_token", "pos_embed", "mask_token", "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias")
    assert changed == {
        f"encoder.{stream}.{part}"
        for stream in ("face_backbone", "hand_backbone_left", "hand_backbone_right")
        for part in parts
    }


def test_hand_heads_are_those_before_fusion(plain):
    """A missing left hand zeroes the right one in fusion, not in its head."""
    run, given = OnnxEncoder(plain[1]), batch(2)
    none = np.zeros((2, 2), bool)
    seen = run(given | {"miss_mask_hl": none, "miss_mask_hr": none})
    without_left = run(given | {"miss_mask_hl": ~none, "miss_mask_hr": none})
    np.testing.assert_array_equal(without_left["hand_right_head"], seen["hand_right_head"])
    assert np.abs(without_left["hand_left_head"] - seen["hand_left_head"]).max() > 1e-3
    np.testing.assert_array_equal(without_left["hand_mask"], np.ones((2, 2), np.float32))
    without_both = run(given | {"miss_mask_hl": ~none, "miss_mask_hr": ~none})
    np.testing.assert_allclose(without_left["encoded"], without_both["encoded"], atol=1e-6)


@pytest.mark.parametrize("sequence_length", [1, 4])
def test_too_many_frames_are_an_error(sequence_length, plain, tmp_path):
    """Also with one position, which would fit any length if it were broadcast."""
    model = plain[0] if sequence_length == SIZES["sequence_length"] else translator(sequence_length=sequence_length)
    run = OnnxEncoder(encoder_file(model, tmp_path))
    assert run(batch(sequence_length))["encoded"].shape == (2, sequence_length, 32)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="invalid index"):
        run(batch(sequence_length + 1))


@pytest.mark.parametrize("half", [False, True])
def test_a_row_of_padding_stays_finite(half, plain, tmp_path):
    model, _ = plain
    run = OnnxEncoder(encoder_file(model, tmp_path, half=half))
    given = batch(3)
    given["pad_mask"][1] = False
    outputs = run(given)
    assert all(np.isfinite(array).all() for array in outputs.values())
    expected = model.encode({name: jnp.asarray(array) for name, array in given.items()})
    np.testing.assert_allclose(outputs["encoded"], expected, atol=1e-2 if half else 1e-5)


def test_half_stores_the_weights_of_products_in_float16(plain, tmp_path):
    model, whole = plain
    path = encoder_file(model, tmp_path, half=True)
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert kinds["encoder.face_backbone.blocks.0.mlp.fc1.weight"] == onnx.TensorProto.FLOAT16
    assert kinds["encoder.face_backbone.norm.weight"] == onnx.TensorProto.FLOAT
    assert path.stat().st_size < 0.6 * whole.stat().st_size
