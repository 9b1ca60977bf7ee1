"""v9's freeze vocabulary; frozen parts stay as they are to the last bit and have no optimiser state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convert.checkpoint import plan_model
from slt_jax import load_dinov2_backbone
from slt_jax.cli.train import configure, parse
from slt_jax.config import Config, DataConfig, OptimConfig, build_section
from slt_jax.errors import UserError
from slt_jax.models.freeze import Frozen, frozen_names, trained_paths, training_table
from slt_jax.models.multistream import frame_features
from slt_jax.models.params import split_model
from slt_jax.streams import IMAGES
from slt_jax.training.program import as_loaded
from slt_jax.training.translation_program import translation_program
from tests.parity.torch_weights import quick_compilation  # noqa: F401

MODEL = {
    "backbone": {"embed_dim": 16, "depth": 3, "num_heads": 1, "image_size": 28},
    "image_size": 28,
    "projector_dim": 16,
    "d_model": 16,
    "temporal_nhead": 2,
    "temporal_layers": 1,
    "temporal_dim_feedforward": 16,
    "decoder_layers": 1,
    "decoder_heads": 2,
    "vocab_size": 20,
    "sequence_length": 4,
    "pose_landmarks": 2,
}
PREFIX = "encoder.face_backbone."


@pytest.fixture(scope="module")
def names() -> list[str]:
    structure, _ = plan_model(build_section("model", MODEL)).structure()
    return [n.removeprefix(PREFIX) for n, _, _ in structure.variables if n.startswith(PREFIX)]


def parts(frozen: set[str]) -> set[str]:
    """blocks.N as they are, other parameters by their first name."""
    return {".".join(name.split(".")[: 2 if name.startswith("blocks") else 1]) for name in frozen}


EVERYTHING = {"cls_token", "pos_embed", "mask_token", "patch_embed", "norm", "blocks.0", "blocks.1", "blocks.2"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, set()),
        (False, set()),
        ("none", set()),
        (0, set()),
        ("head", set()),
        ([], set()),
        ({}, EVERYTHING),
        (True, EVERYTHING),
        ("all", EVERYTHING),
        ("true", EVERYTHING),
        (2, {"blocks.0", "blocks.1"}),
        ("2", {"blocks.0", "blocks.1"}),
        ("blocks[:1]", {"blocks.0"}),
        ("blocks", {"blocks.0", "blocks.1", "blocks.2"}),
        (99, {"blocks.0", "blocks.1", "blocks.2"}),
        ("patch_embed", {"patch_embed"}),
        ("patch_embed.", {"patch_embed"}),
        ("blocks.1", {"blocks.1"}),
        (["patch_embed", "blocks[:1]", "pos_embed"], {"patch_embed", "blocks.0", "pos_embed"}),
        ({"patch_embed": True, "blocks": 2}, {"patch_embed", "blocks.0", "blocks.1"}),
        ({"blocks": [0, 2]}, {"blocks.0", "blocks.2"}),
        ({"blocks": True, "norm": False}, {"blocks.0", "blocks.1", "blocks.2"}),
        ({"names": ["norm", "cls_token"]}, {"norm", "cls_token"}),
        ({"blocks": True, "exclude": ["blocks.2"]}, {"blocks.0", "blocks.1"}),
        ({"exclude": ["blocks", "norm"]}, EVERYTHING - {"blocks.0", "blocks.1", "blocks.2", "norm"}),
        ({"exclude": "norm"}, EVERYTHING - {"norm"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_vocabulary(names, spec, expected):
    assert parts(frozen_names(spec, names, "key")) == expected


def test_names_may_be_torchs_or_ours(names):
    assert frozen_names("norm.weight", names, "key") == {"norm.scale"} == frozen_names("norm.scale", names, "key")
    assert frozen_names("blocks.1.attn", names, "key") == {
        f"blocks.1.attn.{layer}.{kind}" for layer in ("qkv", "proj") for kind in ("kernel", "bias")
    }


@pytest.mark.parametrize("spec", ["blocs", "blocks.9", -1, ["norm", "nothing"], {"exclude": "nothing"}], ids=str)
def test_a_name_that_fits_nothing_is_an_error(names, spec):
    with pytest.raises(UserError, match=r"face: no parameter of the backbone starts with .*it has blocks, cls_token"):
        frozen_names(spec, names, "face")


def test_flags_take_the_vocabulary(tmp_path):
    def model(*arguments):
        return configure(parse(arguments))[0].model

    assert model("--freeze-face-backbone").freeze_face_backbone is True
    assert model("--freeze-face-backbone", "6").freeze_face_backbone == 6
    assert model("--freeze-hand-left-backbone", "blocks[:6]").freeze_hand_left_backbone == "blocks[:6]"
    assert model("--freeze-face-backbone", '{"blocks": 6}').freeze_face_backbone == {"blocks": 6}


def test_freeze_in_a_streams_mapping_acts_like_the_flag():
    spec = {"type": "torchhub", "model": "dinov2_vits14", "pretrained": False, "freeze": 1}
    fields = MODEL | {"backbone": None, "face_backbone": spec, "freeze_face_backbone": "norm"}
    paths = [
        f"encoder.{b}.{p}"
        for b in ("face_backbone", "hand_backbone_left")
        for p in ("blocks.0.ls1.gamma", "blocks.1.ls1.gamma", "norm.scale", "norm.bias")
    ]
    trained = trained_paths(build_section("model", fields), paths, ())
    assert set(paths) - set(trained) == {f"{PREFIX}{p}" for p in ("blocks.0.ls1.gamma", "norm.scale", "norm.bias")}


def training(freeze: dict):
    """The program of a model with `freeze`, a state to start from and a batch."""
    plan = plan_model(build_section("model", MODEL | freeze))
    optim = OptimConfig(weight_decay=0.1, grad_clip_norm=1.0)
    config = Config(DataConfig(precision="float32"), plan.config, optim)
    program = translation_program(config, plan, prepare=as_loaded)
    state = program.place(program.new_state(split_model(plan.build(seed=0))[1]))
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(size=(2, 4, 28, 28, 3)).astype(np.float32) for name in ("face", "hand_l", "hand_r")}
    batch |= {"pose": rng.normal(size=(2, 4, 6)).astype(np.float32), "labels": rng.integers(2, 20, (2, 3))}
    return program, state, batch


def test_frozen_backbones_cost_no_backward_pass():
    """With all three frozen, a step is little more arithmetic than their forward pass; trained, more than twice it."""

    def flops(function, *arguments) -> float:
        return jax.jit(function).lower(*arguments).cost_analysis()["flops"]

    program, state, batch = training({})
    all_trained = flops(program.functions.train_step, state, batch, jnp.float32(0.01))
    encoder = program.structure.merge(state.params).encoder
    forward = 3 * flops(frame_features, encoder.face_backbone, batch["face"])
    program, state, batch = training({stream.freeze_key: True for stream in IMAGES})
    all_frozen = flops(program.functions.train_step, state, batch, jnp.float32(0.01))
    assert all_trained > 2 * forward
    assert all_frozen < 1.2 * forward


def test_frozen_parts_are_bitwise_unchanged_and_cost_no_state():
    freeze = {
        "freeze_face_backbone": True,
        "freeze_hand_left_backbone": 2,
        "freeze_hand_right_backbone": {"blocks": True, "exclude": "blocks.2"},
    }
    program, state, batch = training(freeze)
    trained = sorted(state.trained)
    assert set(state.optimizer.slots["exp_avg"]) == set(trained)
    before = {path: np.array(array) for path, array in state.params.items()}
    for _ in range(2):
        state, _ = program.step(state, [batch], jnp.float32(0.01))

    moved = {path for path, array in state.trained.items() if not np.array_equal(array, before[path])}
    assert moved == set(trained)
    for path, array in state.frozen.items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)
    assert not any(path.startswith(PREFIX) for path in trained)
    left = parts({p.removeprefix("encoder.hand_backbone_left.") for p in trained if "hand_backbone_left" in p})
    assert left == EVERYTHING - {"blocks.0", "blocks.1", "mask_token"}
    right = parts({p.removeprefix("encoder.hand_backbone_right.") for p in trained if "hand_backbone_right" in p})
    assert right == EVERYTHING - {"blocks.0", "blocks.1", "mask_token"}


def test_table_of_what_trains():
    plan = plan_model(build_section("model", MODEL | {"freeze_face_backbone": True}))
    structure, _ = plan.structure()
    _, params = split_model(plan.build())
    trained = trained_paths(plan.config, list(params), structure.buffers)
    kept = {path: params[path] for path in trained}
    lines = training_table(params, trained, {"exp_avg": kept, "exp_avg_sq": kept}, {})
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    count = {name: sum(a.size for p, a in params.items() if p.startswith(f"encoder.{name}.")) for name in rows}
    assert rows["face_backbone"][:2] == ["0", f"{count['face_backbone']:,}"]
    assert rows["hand_backbone_left"][:2] == [f"{count['hand_backbone_left'] - 16:,}", "16"]  # the mask token
    assert next(iter(rows)) == "part"
    assert list(rows)[-2:] == ["decoder", "total"]
    whole = sum(array.size for array in params.values())
    in_training = sum(params[path].size for path in trained)
    assert rows["total"][:2] == [f"{in_training:,}", f"{whole - in_training:,}"]
    assert float(rows["total"][2]) == pytest.approx((4 * in_training + whole - in_training) * 4 / 2**20, abs=0.05)


def test_frozen_variables_of_a_loaded_backbone_have_another_type():
    module = load_dinov2_backbone({"type": "class", "model": "slt_jax.models.cnn:SmallCNN", "freeze": "stem.0"}, "proj")
    frozen = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(module, Frozen))}
    assert parts(frozen) == {"stem", "proj"}
    assert {name.split(".")[1] for name in frozen if name.startswith("stem")} == {"0"}
    gradients = nnx.grad(lambda m: m(jnp.ones((1, 32, 32, 3))).sum())(module)
    assert not any(path[0] == "proj" for path, _ in nnx.to_flat_state(gradients))
