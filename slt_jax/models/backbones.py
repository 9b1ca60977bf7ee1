"""Which ViT each stream gets, and where its weights are.

v9's grammar: `torchhub::[repo:]model[:pretrained|random]` and `file::path[:model]`, or a mapping with
`type`, `model`, `path`. A `model.backbone` mapping of free sizes takes the place of all three.
"""

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from slt_jax.config import BackboneSpec, ModelConfig
from slt_jax.errors import UserError
from slt_jax.models.vit import VIT_SIZES, ViTConfig

STREAM_KEYS = ("face_backbone", "hand_left_backbone", "hand_right_backbone")
DEFAULT_SPEC = "torchhub::facebookresearch/dinov2:dinov2_vits14:pretrained"
HUB_URL = "https://dl.fbaipublicfiles.com/dinov2/{name}/{name}{suffix}_pretrain.pth"


@dataclass(frozen=True)
class Backbone:
    """One stream's ViT: its sizes, and where its weights are (neither = random start)."""

    vit: ViTConfig
    hub_model: str | None = None
    file: Path | None = None

    def weights(self, key: str) -> Path | None:
        """The weight file, None for a random start. Raises UserError naming `key` where it is not there."""
        if self.hub_model:
            return hub_file(self.hub_model, key)
        if self.file and not self.file.exists():
            raise UserError(f"{key}: {self.file} does not exist")
        return self.file


def stream_backbones(config: ModelConfig) -> tuple[Backbone, Backbone, Backbone]:
    """The backbones of the face, left-hand and right-hand streams. Raises UserError naming the key."""
    if config.backbone is not None:
        return (Backbone(free_vit(config.backbone)),) * 3
    return tuple(parse_backbone(getattr(config, key), f"model.{key}") for key in STREAM_KEYS)


def vit_sizes(config: ModelConfig) -> tuple[ViTConfig, ViTConfig, ViTConfig]:
    return tuple(backbone.vit for backbone in stream_backbones(config))


def free_vit(sizes: dict) -> ViTConfig:
    """A ViT from a mapping such as `{"embed_dim": 96, "depth": 4, "num_heads": 3, "patch_size": 14}`."""
    known = [field.name for field in dataclasses.fields(ViTConfig)]
    for key in sizes:
        if key not in known:
            raise UserError(f"unknown key 'model.backbone.{key}'; known: {', '.join(known)}")
    try:
        return ViTConfig(**sizes)
    except (TypeError, ValueError) as error:
        raise UserError(f"model.backbone: {error}") from None


def parse_backbone(spec: BackboneSpec, key: str) -> Backbone:
    """One stream's spec, as text or as a mapping; None is v9's default, the pretrained ViT-S/14."""
    if isinstance(spec, dict):
        spec = _spec_from_mapping(spec, key)
    source, separator, rest = (spec or DEFAULT_SPEC).partition("::")
    if not separator or source not in ("torchhub", "file"):
        raise UserError(
            f"{key}: '{spec}' is not a backbone; use torchhub::[repo:]model[:pretrained|random], file::path[:model], "
            f"or set model.backbone to a mapping of sizes"
        )
    if source == "file":
        path, _, model = rest.rpartition(":") if re.search(r":\w+$", rest) else (rest, "", "dinov2_vits14")
        return Backbone(_hub_sizes(model, key), file=Path(path))
    parts = rest.split(":")
    random = parts[-1] == "random"
    if parts[-1] in ("random", "pretrained"):
        parts.pop()
    model = parts[-1]
    return Backbone(_hub_sizes(model, key), hub_model=None if random else model)


def _spec_from_mapping(spec: dict, key: str) -> str:
    kind, model, path = (spec.get(name) for name in ("type", "model", "path"))
    if kind == "file" and path:
        return f"file::{path}:{model}" if model else f"file::{path}"
    if kind in (None, "torchhub") and model:
        return f"torchhub::{model}"
    raise UserError(f"{key}: a mapping needs type (torchhub or file) and model or path, not {spec!r}")


def _hub_sizes(model: str, key: str) -> ViTConfig:
    size = VIT_SIZES.get(model.removeprefix("dinov2_"))
    if size is None:
        names = ", ".join(f"dinov2_{name}" for name in VIT_SIZES)
        raise UserError(f"{key}: unknown DINOv2 model '{model}'; known: {names}")
    return size


def hub_file(model: str, key: str) -> Path:
    """The cached weight file of a DINOv2 hub model. Raises UserError saying which file to put where."""
    name = f"{model}4" if model.endswith("_reg") else model
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    path = Path(home).expanduser() / "hub" / "checkpoints" / f"{name}_pretrain.pth"
    if not path.exists():
        url = HUB_URL.format(name=model.removesuffix("_reg"), suffix="_reg4" if model.endswith("_reg") else "")
        raise UserError(
            f"{key}: the pretrained weights are not in the local cache; download {url} to {path}, "
            f"or start from random weights with torchhub::{model}:random"
        )
    return path
