"""v9's checkpoint files as the parts that training and inference need.

A checkpoint is a dict with `model_state`, a dict with `state_dict`, or the state dict itself (REFERENCE, section 2).
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from convert.state_dict import Entry, strip_prefixes, table, to_params
from convert.torch_file import read_pt
from slt_jax.config import ModelConfig, build_section
from slt_jax.errors import UserError
from slt_jax.models.backbones import STREAM_KEYS, stream_backbones
from slt_jax.models.decoders import decoder_settings
from slt_jax.models.params import Structure, describe
from slt_jax.models.translator import SignTranslator
from slt_jax.models.vit import ViTConfig

BACKBONES = ("face_backbone", "hand_backbone_left", "hand_backbone_right")


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a `.pt` file: the state dict without wrapper prefixes, and all that lies beside it."""

    path: Path
    state: dict[str, np.ndarray]
    rest: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration it was trained with; empty where the file has none."""
        config = self.rest.get("config")
        return config if isinstance(config, dict) else {}


@dataclass(frozen=True)
class Blueprint:
    """All that builds a model but its arrays: used by training, loading and conversion alike."""

    config: ModelConfig
    backbones: tuple[ViTConfig, ...]
    decoder: Mapping[str, Any]

    def build(self, *, dtype=jnp.float32, seed: int = 0) -> SignTranslator:
        return SignTranslator(self.config, self.backbones, self.decoder, dtype=dtype, rngs=nnx.Rngs(seed))

    def structure(self, *, dtype=jnp.float32) -> tuple[Structure, list[Entry]]:
        """The structure and the torch table, with no array computed."""
        structure, leaves = describe(lambda: self.build(dtype=dtype))
        return structure, table(leaves)


def plan_model(config: ModelConfig) -> Blueprint:
    """The model that a configuration describes."""
    backbones = tuple(backbone.vit for backbone in stream_backbones(config))
    for vit in backbones:
        if config.image_size % vit.patch_size:
            raise UserError(f"--image-size {config.image_size} is not a multiple of the patch size {vit.patch_size}")
        if config.projector == "identity" and config.projector_dim != vit.embed_dim:
            raise UserError(
                f"model.projector identity needs model.projector_dim {config.projector_dim} to equal the backbone's "
                f"width {vit.embed_dim}; set --projector-dim {vit.embed_dim}"
            )
    return Blueprint(config, backbones, decoder_settings(config))


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a `.pt` in any of v9's shapes. Raises UserError (TorchFileError) with one line."""
    content = read_pt(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint or a state dict")
    for name in ("model_state", "state_dict"):
        if isinstance(content.get(name), dict):
            rest = {key: value for key, value in content.items() if key != name}
            return Checkpoint(Path(path), _tensors(path, content[name]), rest)
    return Checkpoint(Path(path), _tensors(path, content), {})


def _tensors(path, state: Mapping) -> dict[str, np.ndarray]:
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    if not arrays or len(arrays) != len(state):
        raise UserError(f"{path}: has no state dict (neither model_state, nor state_dict, nor tensors by name)")
    return strip_prefixes(arrays)


def blueprint(checkpoint: Checkpoint, model: ModelConfig | Mapping | None = None) -> Blueprint:
    """The model a checkpoint holds: `model` where given, else its own configuration; the rest is read off the weights.

    Raises UserError where neither says what the weights cannot (attention heads of unusual sizes).
    """
    given = model if model is not None else checkpoint.config.get("model", {})
    fields = dataclasses.asdict(given) if isinstance(given, ModelConfig) else dict(given)
    if isinstance(model, Mapping):
        unknown = None  # a mapping given by the caller is checked strictly
    else:
        unknown = [key for key in fields if key not in ModelConfig.__dataclass_fields__]
    for key in unknown or ():
        del fields[key]
    inferred = infer_fields(checkpoint.state)
    fields = inferred | {key: value for key, value in fields.items() if value is not None}
    if fields.get("projector", "auto") == "auto":
        fields["projector"] = inferred["projector"]
    fields["decoder_config"] = _beside(checkpoint.path, fields.get("decoder_config"))
    config = build_section("model", fields)
    try:
        vits = tuple(backbone.vit for backbone in stream_backbones(config))
    except UserError:
        vits = tuple(infer_vit(checkpoint.state, f"encoder.{name}.") for name in BACKBONES)
        config = dataclasses.replace(config, backbone=dataclasses.asdict(vits[0]), **dict.fromkeys(STREAM_KEYS))
    tied = not _differ(checkpoint.state, "decoder.model.shared.weight", "decoder.model.lm_head.weight")
    return Blueprint(config, vits, decoder_settings(config, tie_word_embeddings=tied))


def load_params(checkpoint: Checkpoint, entries: list[Entry]) -> dict[str, np.ndarray]:
    """The checkpoint's arrays by path; strict, with a +/- diff where it does not fit."""
    try:
        return to_params(checkpoint.state, entries)
    except UserError as error:
        raise type(error)(f"{checkpoint.path}: {error}") from None


def _beside(path: Path, source):
    """A relative `decoder_config` is looked for in the current folder, then beside the checkpoint."""
    if isinstance(source, str) and not Path(source).exists() and (path.parent / source).exists():
        return str(path.parent / source)
    return source


def _differ(state: Mapping[str, np.ndarray], first: str, second: str) -> bool:
    return first in state and second in state and not np.array_equal(state[first], state[second])


def infer_fields(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The model settings that the shapes of a state dict tell."""
    fields: dict[str, Any] = {"projector": "mlp" if "encoder.face_projector.layers.0.weight" in state else "identity"}
    shapes = {
        "d_model": ("encoder.fusion.proj.weight", lambda s: s[0]),
        "projector_dim": ("encoder.pose_projector.layers.1.weight", lambda s: s[0]),
        "pose_landmarks": ("encoder.pose_projector.layers.1.weight", lambda s: s[1] // 3),
        "sequence_length": ("encoder.positional.embedding.weight", lambda s: s[0]),
        "temporal_dim_feedforward": ("encoder.temporal.encoder.layers.0.linear1.weight", lambda s: s[0]),
        "vocab_size": ("decoder.model.lm_head.weight", lambda s: s[0]),
        "decoder_heads": (
            "decoder.model.decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", lambda s: s[1],
        ),
    }
    fields |= {field: rule(state[key].shape) for field, (key, rule) in shapes.items() if key in state}
    for field, pattern in (
        ("temporal_layers", r"encoder\.temporal\.encoder\.layers\.(\d+)\."),
        ("decoder_layers", r"decoder\.model\.(?:model\.)?decoder\.(?:block|layers)\.(\d+)\."),
    ):
        if numbers := _numbers(state, pattern):
            fields[field] = max(numbers) + 1
    if "encoder.pose_projector.layers.4.weight" in state:
        fields["projector_dropout"] = 0.1
    return fields


def infer_vit(state: Mapping[str, np.ndarray], prefix: str) -> ViTConfig:
    """The sizes of a DINOv2 backbone from its weights; the heads are 64 wide in every published one."""
    try:
        width, patch = state[f"{prefix}patch_embed.proj.weight"].shape[0::3]
        grid = round((state[f"{prefix}pos_embed"].shape[1] - 1) ** 0.5)
    except KeyError as error:
        raise UserError(f"the state dict has no {error.args[0]}; it is not a v9 checkpoint") from None
    if width % 64:
        raise UserError(f"the heads of a backbone {width} wide cannot be told from its weights; give model.backbone")
    registers = state[f"{prefix}register_tokens"].shape[1] if f"{prefix}register_tokens" in state else 0
    return ViTConfig(
        embed_dim=width,
        depth=max(_numbers(state, rf"{re.escape(prefix)}blocks\.(\d+)\.")) + 1,
        num_heads=width // 64,
        patch_size=patch,
        image_size=grid * patch,
        num_register_tokens=registers,
        ffn="swiglu" if f"{prefix}blocks.0.mlp.w12.weight" in state else "mlp",
        interpolate_antialias=registers > 0,
        interpolate_offset=0.0 if registers else 0.1,
    )


def _numbers(state: Mapping[str, np.ndarray], pattern: str) -> set[int]:
    return {int(match[1]) for key in state if (match := re.match(pattern, key))}
