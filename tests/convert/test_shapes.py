"""Every shape of checkpoint that v9 users have loads; anything else is refused with a +/- diff."""

import ml_dtypes
import numpy as np
import pytest

import slt_jax
from convert import write_pt
from convert.checkpoint import blueprint, load_params
from convert.safetensors_file import write_safetensors
from convert.state_dict import StateDictMismatch
from slt_jax.errors import UserError
from slt_jax.models.vit import ViTConfig
from slt_jax.training.state_store import open_checkpoint
from tests.convert.models import BACKBONE, batch, settings, tiny


def opened(path, model=None):
    """The checkpoint's plan and its parameters by torch key, as `slt_jax.load` reads them."""
    checkpoint = open_checkpoint(path)
    plan = blueprint(checkpoint, model)
    _, entries = plan.structure()
    params = load_params(checkpoint, entries)
    return plan, {entry.key: entry.layout.to_torch(params[entry.path]) for entry in entries}


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(state[key], expected[key], err_msg=key)


WRAPPED = {
    "model_state": lambda state: {"epoch": 3, "model_state": state},
    "state_dict": lambda state: {"state_dict": state},
    "bare": lambda state: state,
    "module": lambda state: {"model_state": {f"module.{key}": a for key, a in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{key}": a for key, a in state.items()},
    "both": lambda state: {f"module._orig_mod.{key}": a for key, a in state.items()},
    "inside": lambda state: {key.replace("face_backbone.", "face_backbone._orig_mod."): a for key, a in state.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_dict_in_every_wrapping(name, tmp_path):
    plan, state = tiny()
    write_pt(tmp_path / "c.pt", WRAPPED[name](state))
    found, loaded = opened(tmp_path / "c.pt", {"temporal_nhead": 4})
    assert found.backbones == plan.backbones
    assert found.config.d_model == 32
    assert found.config.decoder_heads == 2
    assert found.config.vocab_size == 31
    assert_same(loaded, state)


def test_a_safetensors_file_is_opened_as_a_bare_state_dict_is(tmp_path):
    """As `slt-convert to-safetensors` writes it: what is tied is there once."""
    _, state = tiny()
    held, other = "decoder.model.shared.weight", "decoder.model.lm_head.weight"
    np.testing.assert_array_equal(state[held], state[other])
    path = tmp_path / "c.safetensors"
    write_safetensors(path, {key: array for key, array in state.items() if key != other}, {other: held})
    assert_same(open_checkpoint(path).state, state)
    _, loaded = opened(path, {"temporal_nhead": 4})
    assert_same(loaded, state)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.safetensors: "):
        open_checkpoint(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"projector_dropout": 0.2},
        {"projector_dim": 64, "projector": "identity"},
        {"projector_dim": 64, "projector": {"face": "identity", "hand_left": "mlp", "hand_right": "identity"}},
        {"backbone": BACKBONE | {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0}},
        {"decoder_kwargs": {"model_type": "mbart"}},
    ],
    ids=["dropout", "identity", "some missing", "registers", "mbart"],
)  # fmt: skip
def test_shapes_of_models(changes, tmp_path):
    plan, state = tiny(**changes)
    write_pt(tmp_path / "c.pt", {"model_state": state, "config": {"model": settings(**changes)}})
    found, loaded = opened(tmp_path / "c.pt")
    assert found.backbones == plan.backbones
    assert_same(loaded, state)

    # The shapes tell as much where there is no configuration.
    write_pt(tmp_path / "bare.pt", state)
    kwargs = changes.get("decoder_kwargs", {})
    found, loaded = opened(tmp_path / "bare.pt", {"decoder_kwargs": kwargs, "decoder_heads": 2})
    assert found.backbones == plan.backbones
    assert_same(loaded, state)


def test_registers_are_resized_as_the_hub_models_with_registers(tmp_path):
    _, state = tiny(backbone=BACKBONE | {"num_register_tokens": 3})
    write_pt(tmp_path / "c.pt", state)
    plan, _ = opened(tmp_path / "c.pt")
    expected = ViTConfig(**BACKBONE, num_register_tokens=3, interpolate_antialias=True, interpolate_offset=0.0)
    assert plan.backbones == dict.fromkeys(("face", "hand_l", "hand_r"), expected)


def test_projector_dropout_of_the_run_may_differ_from_the_files(tmp_path):
    _, state = tiny(projector_dropout=0.2)
    write_pt(tmp_path / "c.pt", state)
    _, loaded = opened(tmp_path / "c.pt", settings(projector_dropout=0.0))
    np.testing.assert_array_equal(
        loaded["encoder.face_projector.layers.3.weight"], state["encoder.face_projector.layers.4.weight"]
    )


def test_half_precision_files_become_float32(tmp_path):
    _, state = tiny()
    write_pt(tmp_path / "c.pt", {key: array.astype(ml_dtypes.bfloat16) for key, array in state.items()})
    _, loaded = opened(tmp_path / "c.pt")
    assert all(array.dtype == np.float32 for array in loaded.values())
    assert_same(loaded, {key: array.astype(ml_dtypes.bfloat16).astype(np.float32) for key, array in state.items()})


# --- encoders without a decoder ------------------------------------------------------------------------------------

ENCODERS = {
    "encoder.": lambda state: state,
    "bare keys": lambda state: {key.removeprefix("encoder."): a for key, a in state.items()},
    "encoder_state": lambda state: {"encoder_state": {key.removeprefix("encoder."): a for key, a in state.items()}},
    "module.encoder.": lambda state: {"state_dict": {f"module.{key}": a for key, a in state.items()}},
    "exported": lambda state: {"encoder_state": state, "encoder_config": {"image_size": 28, "temporal_nhead": 4}},
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """What the whole model encodes."""
    _, state = tiny()
    path = tmp_path_factory.mktemp("whole") / "c.pt"
    write_pt(path, {"model_state": state, "config": {"model": settings()}})
    return slt_jax.load(path).encode(batch())


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_alone_encode(name, tmp_path, encoded):
    _, state = tiny()
    encoder = {key: array for key, array in state.items() if key.startswith("encoder.")}
    write_pt(tmp_path / "c.pt", ENCODERS[name](encoder))
    translator = slt_jax.load(tmp_path / "c.pt", {"temporal_nhead": 4})
    np.testing.assert_allclose(translator.encode(batch()), encoded, rtol=1e-5, atol=1e-6)
    for call in (translator.logits, translator.generate):
        with pytest.raises(slt_jax.UserError, match=r"encoder without a decoder: only encode\(\) works") as error:
            call(batch())
        assert "\n" not in str(error.value)


# --- what does not fit ---------------------------------------------------------------------------------------------


def refused(path, content, model=None) -> str:
    write_pt(path, content)
    with pytest.raises(StateDictMismatch) as error:
        opened(path, model)
    return str(error.value)


def test_the_diff_has_both_sides(tmp_path):
    _, state = tiny()
    changed = {key: array for key, array in state.items() if key != "encoder.fusion.norm.bias"}
    changed["encoder.extra"] = np.zeros(3, np.float32)
    changed["encoder.pose_projector.layers.0.bias"] = np.zeros(1, np.float32)
    message = refused(tmp_path / "c.pt", changed, settings())
    assert f"{tmp_path}/c.pt: the state dict does not fit the model" in message
    assert "- encoder.fusion.norm.bias [96]  (in the model, not in the file)" in message
    assert "! encoder.pose_projector.layers.0.bias model [15], file [1]" in message
    assert "+ encoder.extra [3]  (in the file, not in the model)" in message


def test_a_long_diff_is_cut_on_both_sides(tmp_path):
    _, state = tiny()
    wrong = {key.replace("hand_left", "left_hand").replace("fusion", "mix"): array for key, array in state.items()}
    wrong |= {f"encoder.more.{i}": np.zeros(1, np.float32) for i in range(30)}
    message = refused(tmp_path / "c.pt", wrong, settings(projector="mlp"))
    assert "- encoder.fusion.norm.weight [96]" in message
    assert "+ encoder.mix.norm.weight [96]" in message
    assert "+ ... and 30 more" in message


def test_a_file_of_another_model(tmp_path):
    message = refused(tmp_path / "c.pt", {"cls_token": np.zeros((1, 1, 64), np.float32)})
    assert "is not the state dict of a v9 model" in message
    assert "- encoder.*" in message
    assert "+ cls_token [1, 1, 64]" in message


def test_tied_tensors_that_differ(tmp_path):
    _, state = tiny()
    other = state | {"decoder.model.decoder.embed_tokens.weight": state["decoder.model.shared.weight"] + 1}
    assert "embed_tokens.weight is tied to another tensor in the model but differs" in refused(
        tmp_path / "c.pt", other, settings()
    )


def test_a_mapping_overrides_the_files_own_configuration(tmp_path):
    _, state = tiny()
    write_pt(tmp_path / "c.pt", {"model_state": state, "config": {"model": settings()}})
    plan, _ = opened(tmp_path / "c.pt", {"image_size": 56})
    assert plan.config.image_size == 56
    assert plan.config.temporal_nhead == 4
