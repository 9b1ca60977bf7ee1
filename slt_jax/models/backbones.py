"""Which image backbone each stream gets, and where its weights are.

A spec is v9's, as text or as a mapping:

    torchhub::[repo:]model[:pretrained|random]   a DINOv2 hub model, dinov2_vits14 to dinov2_vitg14_reg
    hf::repo_id[:filename[:model]]               a HuggingFace repository: a Dinov2 model, or one file of it
    file::path[:model]                           a weight file, or a folder with a HuggingFace Dinov2 model
    package.module:Class                         any Flax NNX class: see `CustomBackbone`
    {type: torchhub|hf|file|class, model: ..., path: ..., freeze: ...}

`pretrained` is the default. Missing weights are an error, never a random start. A `model.backbone` mapping of free
sizes replaces all specs.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
from flax import nnx
from jax import Array

from slt_jax.base.hub import huggingface_file, huggingface_folder, torchhub_file
from slt_jax.config import BackboneSpec, FreezeSpec, ModelConfig
from slt_jax.errors import UserError, shortened, shown
from slt_jax.models.custom import build_custom, import_class
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.vit import REGISTER_RESIZE, VIT_SIZES, VisionTransformer, ViTConfig
from slt_jax.streams import IMAGES

DEFAULT_SPEC = "torchhub::facebookresearch/dinov2:dinov2_vits14:pretrained"
HUB_REPO = "facebookresearch/dinov2"
HUB_MODELS = tuple(f"dinov2_{name}" for name in VIT_SIZES)
MAPPING_KEYS = ("type", "model", "path", "repo", "filename", "pretrained", "freeze", "kwargs")


class ImageBackbone(Protocol):
    """A Flax NNX module that sees one image at a time."""

    embed_dim: int

    def __call__(self, images: Array, /) -> Array:
        """Features (N, embed_dim) of images (N, H, W, 3), normalised."""


@dataclass(frozen=True)
class CustomBackbone:
    """A Flax NNX class as a backbone: `Class(**kwargs, rngs=...)`, with `dtype=...` if its constructor takes one.

    Its instances are `ImageBackbone`s. It starts from random weights. slt_jax.models.cnn:SmallCNN is one.
    """

    name: str  # package.module:Class
    kwargs: Mapping[str, Any] = field(default_factory=dict)


# What builds a backbone.
BackboneSizes = ViTConfig | CustomBackbone


@dataclass(frozen=True)
class Backbone:
    """One stream's parsed spec. `sizes` is None if only the weights know them."""

    sizes: BackboneSizes | None
    model: str | None = None  # hub name that the weights must be
    hub: str | None = None  # at most one of hub, repo and file; none of them means a random start
    repo: str | None = None
    filename: str | None = None
    file: Path | None = None
    freeze: FreezeSpec = False

    def weights(self, key: str, *, local_files_only: bool = False) -> Path | None:
        """The weight file or folder, None for a random start. Raises UserError naming `key` if it does not exist."""
        if self.hub:
            return torchhub_file(self.hub, key, local_files_only=local_files_only)
        if self.repo and self.filename:
            return huggingface_file(self.repo, self.filename, key, local_files_only=local_files_only)
        if self.repo:
            return huggingface_folder(self.repo, key, local_files_only=local_files_only)
        if self.file and not self.file.exists():
            raise UserError(f"{key}: {self.file} does not exist")
        return self.file


def stream_backbones(config: ModelConfig) -> dict[str, Backbone]:
    """The backbone of each image stream, by the stream's name. Raises UserError that names the key."""
    if config.backbone is not None:
        return dict.fromkeys((stream.name for stream in IMAGES), Backbone(free_vit(config.backbone)))
    keys = {stream.name: stream.backbone_key for stream in IMAGES}
    return {name: parse_backbone(getattr(config, key), f"model.{key}") for name, key in keys.items()}


def build_backbone(
    sizes: BackboneSizes, *, dtype=jnp.float32, memory: Memory = KEEP_ALL, rngs: nnx.Rngs
) -> ImageBackbone:
    """A backbone with random weights. Raises UserError if a custom class does not follow the protocol."""
    if isinstance(sizes, ViTConfig):
        return VisionTransformer(sizes, dtype=dtype, memory=memory, rngs=rngs)
    module = build_custom(sizes.name, sizes.kwargs, f"backbone {sizes.name}", dtype=dtype, rngs=rngs)
    if not isinstance(getattr(module, "embed_dim", None), int):
        raise UserError(f"backbone {sizes.name}: it has no integer attribute embed_dim, the width of its features")
    return module


def backbone_width(sizes: BackboneSizes) -> int:
    """The width of a backbone's features, without computing an array."""
    if isinstance(sizes, ViTConfig):
        return sizes.embed_dim
    module: ImageBackbone = nnx.eval_shape(lambda: build_backbone(sizes, rngs=nnx.Rngs(0)))
    return module.embed_dim


def free_vit(sizes: dict) -> ViTConfig:
    """A ViT from a mapping such as `{"embed_dim": 96, "depth": 4, "num_heads": 3, "patch_size": 14}`.

    With registers it resizes its positions as DINOv2's register models do, unless the mapping says otherwise.
    """
    known: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(ViTConfig)}
    for key, value in sizes.items():
        if key not in known:
            raise UserError(f"unknown key 'model.backbone.{shortened(str(key))}'; known: {', '.join(known)}")
        kind = type(known[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"model.backbone: {key} must be {kind.__name__}, not {shown(value)}")
    resize = REGISTER_RESIZE if sizes.get("num_register_tokens") else {}
    try:
        return ViTConfig(**resize | {key: type(known[key])(value) for key, value in sizes.items()})
    except (TypeError, ValueError) as error:
        raise UserError(f"model.backbone: {error}") from None


# --- the grammar --------------------------------------------------------------------------------------------------


def parse_backbone(spec: BackboneSpec, key: str) -> Backbone:
    """Parse one stream's spec, text or a mapping. None is v9's default, the pretrained ViT-S/14."""
    if isinstance(spec, Mapping):
        return _parse_mapping(spec, key)
    if name := custom_class(spec):
        import_class(name, f"{key} {name}")
        return Backbone(CustomBackbone(name))
    source, _, rest = (spec or DEFAULT_SPEC).partition("::")
    if source == "torchhub" and rest:
        return _parse_torchhub(rest, key)
    if source == "hf" and rest:
        repo, *more = rest.split(":")
        if len(more) > 2:
            raise UserError(f"{key}: {shown(spec)} has too many parts; use hf::repo_id[:filename[:model]]")
        filename, model = [*more, None, None][:2]
        return Backbone(None, _hub_name(model, key), repo=repo, filename=filename or None)
    if source == "file" and rest:
        path, colon, model = rest.rpartition(":")
        if not colon or "/" in model or (Path(rest).expanduser().exists() and model not in HUB_MODELS):
            path, model = rest, None
        return Backbone(None, _hub_name(model, key), file=Path(path).expanduser())
    if source == "torchvision":
        raise UserError(
            f"{key}: torchvision backbones are not supported; use a DINOv2 one (torchhub::dinov2_vits14), "
            f"slt_jax.models.cnn:SmallCNN, or a Flax class of your own as package.module:Class"
        )
    raise UserError(
        f"{key}: {shown(spec)} is not a backbone; use torchhub::[repo:]model[:pretrained|random], "
        f"hf::repo_id[:filename[:model]], file::path[:model], package.module:Class, "
        f"or set model.backbone to a mapping of sizes"
    )


def custom_class(spec: str | Mapping[str, Any] | None) -> str | None:
    """The `package.module:Class` that a spec names; None for every other kind of backbone."""
    if isinstance(spec, Mapping):
        return spec.get("model") if spec.get("type") == "class" else None
    return spec if spec and re.fullmatch(r"\w+(\.\w+)*:[A-Za-z_]\w*", spec) else None


def _parse_torchhub(rest: str, key: str) -> Backbone:
    *parts, last = rest.split(":")
    random = last == "random"
    if last in ("random", "pretrained"):
        *parts, last = parts or [""]
    if parts and parts[0] != HUB_REPO:
        raise UserError(
            f"{key}: hub models of '{parts[0]}' are not supported, only those of {HUB_REPO}; download the weights and "
            f"use file::PATH"
        )
    model = _hub_name(last, key)
    return Backbone(VIT_SIZES[last.removeprefix("dinov2_")], model, hub=None if random else model)


def _parse_mapping(spec: Mapping[str, Any], key: str) -> Backbone:
    for name in spec:
        if name not in MAPPING_KEYS:
            raise UserError(f"unknown key '{shortened(str(name))}' in {key}; known: {', '.join(MAPPING_KEYS)}")
    for name in ("type", "model", "path", "repo", "filename"):
        if not isinstance(spec.get(name), str | None):
            raise UserError(f"{key}: {name} must be text, not {shown(spec[name])}")
    if not isinstance(spec.get("kwargs"), Mapping | None):
        raise UserError(f"{key}: kwargs must be a mapping, not {shown(spec['kwargs'])}")
    kind, model, path = spec.get("type"), spec.get("model"), spec.get("path")
    kind = kind or ("file" if path else "torchhub" if model else None)
    if kind == "torchhub" and model:
        random = ":random" if spec.get("pretrained") is False else ""
        backbone = parse_backbone(f"torchhub::{model}{random}", key)
    elif kind == "file" and path:
        backbone = Backbone(None, _hub_name(model, key), file=Path(path).expanduser())
    elif kind == "hf" and (repo := spec.get("repo") or path):
        backbone = Backbone(None, _hub_name(model, key), repo=repo, filename=spec.get("filename"))
    elif own := custom_class(spec):
        import_class(own, f"{key} {own}")
        backbone = Backbone(CustomBackbone(own, dict(spec.get("kwargs") or {})))
    else:
        raise UserError(
            f"{key}: a mapping needs type torchhub with model, file or hf with path, or class with model; "
            f"not {shown(dict(spec))}"
        )
    return dataclasses.replace(backbone, freeze=spec.get("freeze", False))


def _hub_name(model: str | None, key: str) -> str | None:
    if model is None or model in HUB_MODELS:
        return model
    if model in VIT_SIZES:
        return f"dinov2_{model}"
    raise UserError(f"{key}: unknown DINOv2 model {shown(model)}; known: {', '.join(HUB_MODELS)}")
