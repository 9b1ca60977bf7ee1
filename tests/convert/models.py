"""Tiny models for the tests of conversion: torch state dicts of random weights, with nothing compiled."""

import functools

import jax
import numpy as np

from convert.checkpoint import Blueprint, plan_model
from convert.state_dict import to_state
from slt_jax.config import ModelConfig
from slt_jax.models.params import split_model

BACKBONE = {"embed_dim": 64, "depth": 1, "num_heads": 1, "patch_size": 14, "image_size": 28}
SIZES = {
    "image_size": 28, "projector_dim": 24, "d_model": 32, "pose_landmarks": 5, "sequence_length": 4,
    "temporal_nhead": 4, "temporal_layers": 1, "temporal_dim_feedforward": 40, "decoder_layers": 1, "decoder_heads": 2,
    "vocab_size": 31,
}  # fmt: skip


def settings(**changes) -> dict:
    """The section `model` of a configuration."""
    return SIZES | {"backbone": BACKBONE} | changes


@functools.cache
def _model(items: tuple) -> tuple[Blueprint, dict[str, np.ndarray]]:
    changes = {key: dict(value) if isinstance(value, tuple) else value for key, value in items}
    plan = plan_model(ModelConfig(**settings(**changes)))
    _, entries = plan.structure()
    _, params = split_model(plan.build(seed=1))
    return plan, to_state(jax.device_get(params), entries)


def tiny(**changes) -> tuple[Blueprint, dict[str, np.ndarray]]:
    """A model and its torch state dict; `changes` are model settings. Not to be changed."""
    frozen = {key: tuple(value.items()) if isinstance(value, dict) else value for key, value in changes.items()}
    return _model(tuple(frozen.items()))


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    frames = {name: rng.normal(size=(2, 4, 3, 28, 28)).astype(np.float32) for name in ("face", "hand_l", "hand_r")}
    return frames | {
        "pose": rng.normal(size=(2, 4, 15)).astype(np.float32),
        "pad_mask": np.array([[True] * 4, [True] * 2 + [False] * 2]),
        "labels": np.array([[4, 5, 1], [6, 1, -100]]),
    }
