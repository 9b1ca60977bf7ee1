"""What is written beside exported files: all that a program needs to feed them and to read what they give."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from convert.checkpoint import Blueprint, Checkpoint
from slt_jax.base.files import sha256
from slt_jax.decoding.search import Search
from slt_jax.errors import UserError
from slt_jax.export.encoder import encoder_inputs, encoder_outputs
from slt_jax.models.images import IMAGE_MEAN, IMAGE_STD
from slt_jax.streams import IMAGES
from slt_jax.training.start import trained_with_v9_masks

VERSION = 1
MIN_LENGTH, MAX_LENGTH = 2, 128  # of a translation in tokens, as v9's evaluation generates
MEANINGS = {
    "pad_mask": "true where a frame is real",
    "miss_mask_hl": "true where the left hand is missing",
    "miss_mask_hr": "true where the right hand is missing",
    "pose": "x, y, confidence of each landmark; all 0 where it is not to be trusted",
    "hand_left_head": "the projected stream, before fusion sets it to 0 where hand_mask is 1",
    "hand_right_head": "the projected stream, before fusion sets it to 0 where hand_mask is 1",
    "hand_mask": "1 where either hand is missing",
    "padding_mask": "1 where a frame is padding",
}


def describe(checkpoint: Checkpoint, plan: Blueprint, decoder: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part that does not depend on how it is exported; `decoder` is its configuration where it is exported too."""
    config, outputs = plan.config, encoder_outputs(plan)
    inputs = {name: _tensor(name, dtype, shape) for name, (dtype, shape) in encoder_inputs(plan).items()}
    for stream in IMAGES:
        inputs[stream.name]["normalization"] = {"type": "imagenet", "mean": list(IMAGE_MEAN), "std": list(IMAGE_STD)}
    settings = checkpoint.config or checkpoint.model_fields
    record: dict[str, Any] = {
        "metadata_version": VERSION,
        "generated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": {
            "path": str(checkpoint.path.resolve()),
            "sha256": sha256(checkpoint.path),
            "config": json.loads(json.dumps(settings, default=str)),
        },
        "model": {
            "image_size": config.image_size,
            "projector_dim": config.projector_dim,
            "d_model": config.d_model,
            "pose_landmarks": config.pose_landmarks,
            "sequence_length": config.sequence_length,
            "temporal": {
                "nhead": config.temporal_nhead,
                "layers": config.temporal_layers,
                "dim_feedforward": config.temporal_dim_feedforward,
                "dropout": config.temporal_dropout,
            },
            "backbones": plan.record()["backbones"],
        },
        "inputs": inputs,
        "outputs": {name: _tensor(name, np.float32, shape) for name, shape in outputs.items()},
        "dynamic_axes": {name: {"0": "B", "1": "T"} for name in (*inputs, *outputs)},
        # Such a model was trained with True where the hand is there, and is to be fed so.
        "v9_hand_masks": trained_with_v9_masks(checkpoint.config),
    }
    return record if decoder is None else record | {"generation": generation(decoder, checkpoint.config)}


def _tensor(name: str, dtype, shape) -> dict[str, Any]:
    tensor = {"dtype": np.dtype(dtype).name, "shape": list(shape)}
    return tensor | ({"meaning": MEANINGS[name]} if name in MEANINGS else {})


def generation(decoder: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """How `generate` searches by default with this decoder; lengths count the start token."""
    data = settings.get("data")
    if isinstance(data, Mapping) and data.get("prefix"):
        raise UserError("the model was trained with data.prefix, which no exported decoder is told; export the encoder")
    longest = data.get("max_target_length", MAX_LENGTH) if isinstance(data, Mapping) else MAX_LENGTH
    search = Search(max_length=longest, min_length=MIN_LENGTH).resolved(decoder)
    return {
        "decoder_start_token_id": search.start,
        "pad_token_id": search.pad,
        "eos_token_id": list(search.eos),
        "forced_bos_token_id": search.forced_bos,
        "forced_eos_token_id": list(search.forced_eos),
        "no_repeat_ngram_size": search.no_repeat_ngram_size,
        "min_length": search.min_length,
        "max_length": search.max_length,
    }
