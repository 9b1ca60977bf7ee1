"""The counted operations against torch's own counter on the same model, but for what nothing reads."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from convert.checkpoint import plan_model
from slt_jax.config import ModelConfig
from slt_jax.models.flops import matmul_flops, model_flops
from slt_jax.models.freeze import trained_paths
from tests.parity.torch_twin import TorchTwin, t5_from_flags

MODEL = {
    "image_size": 28, "projector_dim": 16, "d_model": 32, "pose_landmarks": 13, "sequence_length": 6,
    "temporal_nhead": 4, "temporal_layers": 2, "temporal_dim_feedforward": 48, "temporal_dropout": 0.0,
    "decoder_layers": 2, "decoder_heads": 4, "decoder_dropout": 0.0,
}  # fmt: skip
# The position grid is the image's, so that neither side resizes it: torch does not count that.
BACKBONE = {"embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 14, "image_size": 28}
VOCABULARY, TARGET = 31, 7


def counted(**changed) -> dict:
    config = ModelConfig(**MODEL, backbone=BACKBONE, vocab_size=VOCABULARY, **changed)
    plan = plan_model(config)
    structure, entries = plan.structure()
    trained = trained_paths(config, {entry.path for entry in entries}, structure.buffers)
    return model_flops(plan.build, config, trained, target_length=TARGET)


def torch_counts(frozen: tuple[str, ...] = ()) -> tuple[int, int]:
    twin = TorchTwin(
        MODEL, {"embed": 24, "depth": 3, "heads": 2, "grid": 2}, t5_from_flags(MODEL, VOCABULARY), identity=False
    )
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen or ("no such",)))
    frames = MODEL["sequence_length"]
    batch = {name: torch.randn(1, frames, 3, 28, 28) for name in ("face", "hand_l", "hand_r")}
    batch |= {"pose": torch.randn(1, frames, 39), "pad_mask": torch.ones(1, frames, dtype=torch.bool)}
    batch |= {f"miss_mask_{hand}": torch.zeros(1, frames, dtype=torch.bool) for hand in ("hl", "hr")}
    batch |= {"pose_conf_mask": torch.ones(1, frames, 13), "labels": torch.ones(1, TARGET, dtype=torch.long)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = twin.loss(batch)
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


def unread(backbones: int) -> int:
    """What torch computes, forward, of the last block's tokens but CLS, which nothing reads: attention and MLP."""
    width, patches = BACKBONE["embed_dim"], 4
    return 2 * backbones * MODEL["sequence_length"] * patches * (9 * width**2 + 2 * (1 + patches) * width)


def test_the_count_is_torchs():
    forward, training = torch_counts()
    total = counted()["total"]
    assert (total.forward, total.training) == (forward - unread(3), training - 3 * unread(3))


def test_frozen_parts_cost_their_forward_pass():
    frozen = (
        "encoder.hand_backbone_left.",
        "encoder.face_backbone.patch_embed.",
        "encoder.face_backbone.cls_token",
        "encoder.face_backbone.pos_embed",
        "encoder.face_backbone.blocks.0.",
    )
    parts = counted(
        freeze_hand_left_backbone=True, freeze_face_backbone=["patch_embed", "cls_token", "pos_embed", "blocks[:1]"]
    )
    forward, training = torch_counts(frozen)
    assert parts["total"].forward == forward - unread(3)
    # torch sends the gradient through the first trained block's qkv to the scale of its norm, ours has that from qkv's.
    to_scale = 2 * MODEL["sequence_length"] * 5 * 3 * BACKBONE["embed_dim"] ** 2
    assert parts["total"].training == training - 3 * unread(2) - unread(1) - to_scale
    left = parts["hand_backbone_left"]
    assert left.training == left.forward < parts["face_backbone"].training < parts["hand_backbone_right"].training


def test_parts_add_up_and_grow_with_the_clip():
    parts = counted()
    assert parts["total"].forward == sum(part.forward for name, part in parts.items() if name != "total")
    longer = MODEL | {"sequence_length": 2 * MODEL["sequence_length"]}
    plan = plan_model(ModelConfig(**longer, backbone=BACKBONE, vocab_size=VOCABULARY))
    twice = model_flops(plan.build, plan.config, (), target_length=TARGET)
    assert twice["face_backbone"].forward == 2 * parts["face_backbone"].forward
    encoder = dataclasses.replace(plan, decoder=None)
    assert "decoder" not in model_flops(encoder.build, plan.config, (), target_length=TARGET)


@pytest.mark.parametrize("remat", [False, True])
def test_loops_count_as_often_as_they_run(remat):
    weights, x = jnp.zeros((5, 8, 8)), jnp.zeros((3, 8))

    def looped(weights, x):
        step = jax.checkpoint(lambda x, w: (x @ w, None)) if remat else lambda x, w: (x @ w, None)
        return jax.lax.scan(step, x, weights)[0]

    assert matmul_flops(looped, weights, x) == 5 * 2 * 3 * 8 * 8


def test_convolutions_count_what_is_multiplied():
    image, kernel = jnp.zeros((2, 12, 12, 3)), jnp.zeros((4, 4, 3, 8))

    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    once = 2 * (2 * 3 * 3 * 8) * (4 * 4 * 3)
    assert matmul_flops(convolve, image, kernel) == once
    gradient = jax.grad(lambda *given: convolve(*given).sum(), (0, 1))
    assert matmul_flops(jax.value_and_grad(lambda *given: convolve(*given).sum(), 1), image, kernel) == 2 * once
    assert matmul_flops(gradient, image, kernel) == pytest.approx(3 * once, rel=0.01)
