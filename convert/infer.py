"""What a state dict says about the model it belongs to."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.dinov2 import vit_sizes
from slt_jax.models.families import FAMILIES, PREFIX
from slt_jax.models.multistream import ENCODER_PARTS
from slt_jax.models.vit import ViTConfig
from slt_jax.streams import IMAGES, STREAMS, Stream


def with_encoder_prefix(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict, with `encoder.` before the keys if it is that of a bare encoder."""
    if state and all(key.split(".")[0] in ENCODER_PARTS for key in state):
        return {f"encoder.{key}": array for key, array in state.items()}
    return dict(state)


def encoder_only(state: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict holds an encoder and nothing of a decoder."""
    return bool(state) and all(key.startswith("encoder.") for key in state)


def infer_fields(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The model settings that the keys and shapes of a state dict tell."""
    fields: dict[str, Any] = {"projector": projectors(state)}
    last = "encoder.pose_projector.layers.1.weight"
    shapes = {
        "d_model": ("encoder.fusion.proj.weight", lambda s: s[0]),
        "projector_dim": (last, lambda s: s[0]),
        "pose_landmarks": (last, lambda s: s[1] // 3),
        "sequence_length": ("encoder.positional.embedding.weight", lambda s: s[0]),
        "temporal_dim_feedforward": ("encoder.temporal.encoder.layers.0.linear1.weight", lambda s: s[0]),
    }
    fields |= {field: rule(state[key].shape) for field, (key, rule) in shapes.items() if key in state}
    fields |= _streams(state, fields)
    pattern = r"encoder\.temporal\.encoder\.layers\.(\d+)\."
    if numbers := {int(match[1]) for key in state if (match := re.match(pattern, key))}:
        fields["temporal_layers"] = max(numbers) + 1
    fields |= _decoder_fields({key.removeprefix(PREFIX): state[key] for key in state if key.startswith(PREFIX)})
    if "encoder.pose_projector.layers.4.weight" in state:
        fields["projector_dropout"] = 0.1
    return fields


def _streams(state: Mapping[str, np.ndarray], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The streams of a model that has not all, and the width that the pose's projector would tell."""
    parts = {key.split(".")[1] for key in state if key.startswith("encoder.")}
    there = [stream.name for stream in STREAMS if {stream.backbone, stream.projector} & parts]
    if len(there) == len(STREAMS) or not there:
        return {}
    told: dict[str, Any] = {"streams": there}
    if "projector_dim" not in fields and "encoder.fusion.proj.weight" in state:
        told["projector_dim"] = state["encoder.fusion.proj.weight"].shape[1] // len(there)
    return told


def _decoder_fields(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The settings that a decoder's state dict tells, as far as its family's record says where."""
    fields = {}
    for family in FAMILIES.values():
        if family.head in state:
            fields["vocab_size"] = state[family.head].shape[0]
        if family.heads_in and family.heads_in in state:
            fields["decoder_heads"] = state[family.heads_in].shape[1]
        if numbers := family.layer_numbers(state):
            fields["decoder_layers"] = max(numbers) + 1
    return fields


def projectors(state: Mapping[str, np.ndarray]) -> str | dict[str, str]:
    """`model.projector` as the file has it. v9 has no projector for a stream with a hub backbone."""
    there = [s for s in IMAGES if any(key.startswith((s.backbone_prefix, f"encoder.{s.projector}.")) for key in state)]
    keys = {stream.key: f"encoder.{stream.projector}.layers.0.weight" for stream in there or IMAGES}
    kinds = {stream: "mlp" if key in state else "identity" for stream, key in keys.items()}
    return next(iter(kinds.values())) if len(set(kinds.values())) == 1 else kinds


def infer_vit(state: Mapping[str, np.ndarray], stream: Stream, num_heads: int | None = None) -> ViTConfig:
    """The sizes of a stream's backbone from its weights. Heads are 64 wide if `num_heads` is None.

    Without weights, they are v9's default.
    """
    if f"{stream.backbone_prefix}cls_token" not in state:
        return ViTConfig()
    return vit_sizes(state, stream.backbone_prefix, num_heads=num_heads)


def with_projector_index(state: Mapping[str, np.ndarray], keys) -> dict[str, np.ndarray]:
    """The state dict with its projectors' last layer under the number that the model's `keys` have.

    v9 counts the dropout if there is one, so the same tensors are `layers.3` or `layers.4`.
    """
    wanted = "4" if any(re.match(r"encoder\.\w+_projector\.layers\.4\.", key) for key in keys) else "3"
    other = re.compile(r"(encoder\.\w+_projector\.layers)\.[34]\.")
    return {other.sub(rf"\1.{wanted}.", key): array for key, array in state.items()}
