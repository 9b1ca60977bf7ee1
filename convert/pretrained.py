"""The pretrained parts that a configuration names: backbones, and the decoder of `--decoder-model`."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convert.dinov2 import BackboneWeights, read_backbone
from convert.huggingface import decoder_state, has_own_head, read_folder
from convert.state_dict import Entry, table, to_params
from slt_jax.config import BackboneSpec, FreezeSpec, ModelConfig
from slt_jax.errors import UserError
from slt_jax.models.backbones import (
    Backbone,
    BackboneSizes,
    ImageBackbone,
    build_backbone,
    parse_backbone,
    stream_backbones,
)
from slt_jax.models.decoders import decoder_folder
from slt_jax.models.families import PREFIX
from slt_jax.models.freeze import Frozen, frozen_names
from slt_jax.models.params import describe, random_weights, resolve
from slt_jax.models.vit import VisionTransformer
from slt_jax.streams import IMAGES, Stream, images_of

logger = logging.getLogger(__name__)


def plan_backbones(config: ModelConfig) -> dict[str, BackboneSizes]:
    """What builds the backbone of each image stream, by the stream's name; weights tell where nothing else does."""
    read: dict[tuple, BackboneSizes] = {}
    keys = [stream.backbone_key for stream in IMAGES]
    if config.backbone is not None and (ignored := [key for key in keys if getattr(config, key) is not None]):
        logger.warning("model.backbone takes the place of %s (--set model.backbone=null)", ", ".join(ignored))

    def sizes(stream: Stream, backbone: Backbone) -> BackboneSizes:
        if backbone.sizes is not None:
            return backbone.sizes
        path = backbone.weights(f"model.{stream.backbone_key}", local_files_only=config.local_files_only)
        assert path is not None  # a random start has sizes
        if (path, backbone.model) not in read:
            read[path, backbone.model] = read_backbone(path, backbone.model).sizes
        return read[path, backbone.model]

    backbones = stream_backbones(config)
    return {stream.name: sizes(stream, backbones[stream.name]) for stream in images_of(config)}


def decoder_is_tied(config: ModelConfig) -> bool:
    """Whether the output layer of the decoder is its embedding: what its weights tell, and without any the user."""
    if config.decoder_model:
        return not has_own_head(read_folder(decoder_folder(config)))
    return config.decoder_kwargs.get("tie_word_embeddings") is not False


def pretrained_params(config: ModelConfig, entries: list[Entry], given: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays by path of all pretrained parts that are not among the torch keys `given`.

    Raises UserError if a part has no weights or they do not fit, with a +/- diff.
    """
    params: dict[str, np.ndarray] = {}
    read: dict[tuple, BackboneWeights] = {}
    backbones = stream_backbones(config)
    for stream in images_of(config):
        prefix, backbone = stream.backbone_prefix, backbones[stream.name]
        if not (part := _wanted(entries, prefix, given)):
            continue
        path = backbone.weights(f"model.{stream.backbone_key}", local_files_only=config.local_files_only)
        if path is None:
            continue
        if (path, backbone.model) not in read:
            weights = read[path, backbone.model] = read_backbone(path, backbone.model)
            if weights.note:
                logger.warning("%s: %s", path, weights.note)
        state = {prefix + name: array for name, array in read[path, backbone.model].state.items()}
        params |= _fit(state, part, path)
    if config.decoder_model and (part := _wanted(entries, PREFIX, given)):
        folder = decoder_folder(config)
        params |= _fit(decoder_state(read_folder(folder), part), part, folder)
    return params


def load_backbone(path: Path, model: str | None = None, *, dtype=jnp.float32) -> VisionTransformer:
    """The ViT in a weight file or HuggingFace folder, with its weights."""
    weights = read_backbone(path, model)
    if weights.note:
        logger.warning("%s: %s", path, weights.note)
    structure, leaves = describe(lambda: VisionTransformer(weights.sizes, dtype=dtype, rngs=random_weights()))
    return structure.merge(jax.tree.map(jnp.asarray, _fit(weights.state, table(leaves), path)))


def load_dinov2_backbone(
    spec: BackboneSpec = None,
    freeze: FreezeSpec = None,
    *,
    local_files_only: bool = False,
    dtype=jnp.float32,
    seed: int = 0,
) -> ImageBackbone:
    """A backbone with its weights: maps images (N, H, W, 3), float, normalised, to features (N, embed_dim).

    `spec` as in `slt_jax.models.backbones` (None: the pretrained ViT-S/14). `freeze` is v9's vocabulary (see
    slt_jax.models.freeze): the variables it names are `Frozen` instead of `nnx.Param`, so that `nnx.grad` and
    `nnx.Optimizer(..., wrt=nnx.Param)` leave them alone. Raises UserError if there are no weights.
    """
    backbone = parse_backbone(spec, "backbone")
    path = backbone.weights("backbone", local_files_only=local_files_only)
    module: ImageBackbone
    if path is None:
        assert backbone.sizes is not None  # a random start has sizes
        module = build_backbone(backbone.sizes, dtype=dtype, rngs=nnx.Rngs(seed))
    else:
        module = load_backbone(path, backbone.model, dtype=dtype)
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(nnx.state(module))}
    frozen = frozen_names(backbone.freeze, paths, "freeze") | frozen_names(freeze, paths, "freeze")
    for name in frozen:
        *parents, last = paths[name]
        owner, attribute = resolve(module, parents), str(last)
        setattr(owner, attribute, Frozen(getattr(owner, attribute).get_value()))
    return module


def _wanted(entries: list[Entry], prefix: str, given: Collection[str]) -> list[Entry]:
    """The entries of a part, or none where the part is all given."""
    part = [entry for entry in entries if entry.key.startswith(prefix)]
    return part if any(entry.key not in given for entry in part) else []


def _fit(state: Mapping[str, np.ndarray], entries: list[Entry], path: Path) -> dict[str, np.ndarray]:
    try:
        return to_params(state, entries)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
