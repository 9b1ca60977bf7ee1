"""Whether the model settings that a user gives agree with a checkpoint.

The checkpoint knows best. A given setting must equal the checkpoint's, and only what the checkpoint does not say is
taken from the user. Decoders and backbones are compared by what they are, not by where they were read from.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NoReturn

from convert.checkpoint import Blueprint, Checkpoint, blueprint
from convert.dinov2 import vit_sizes
from convert.infer import infer_fields
from slt_jax.config import build_section
from slt_jax.errors import UserError
from slt_jax.evaluation.request import ModelWish
from slt_jax.models.backbones import free_vit, parse_backbone
from slt_jax.models.decoders import decoder_settings
from slt_jax.models.trust import Trust, check_trusted, named_classes
from slt_jax.models.vit import REGISTER_RESIZE, ViTConfig
from slt_jax.streams import IMAGES, Stream, chosen

DECODER_KEYS = ("decoder_model", "decoder_config", "decoder_class")
BACKBONE_KEYS = ("backbone", *(stream.backbone_key for stream in IMAGES))
# Keys of a HuggingFace configuration that say where it comes from, not what it builds.
ORIGIN = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "tie_word_embeddings"}


def agreed_blueprint(checkpoint: Checkpoint, wish: ModelWish, trust: Trust = False) -> Blueprint:
    """The checkpoint's model. Raises UserError that names flag, both values and file if `wish` contradicts it.

    The file's own classes are imported only as far as `trust` reaches; see `slt_jax.models.trust`.
    """
    check_trusted(named_classes(checkpoint.model_fields), trust, checkpoint.path)
    return blueprint(checkpoint, additions(checkpoint, wish) or None, trust=trust)


def additions(checkpoint: Checkpoint, wish: ModelWish) -> dict[str, Any]:
    """The settings given by the user that the checkpoint itself does not know."""
    inferred = infer_fields(checkpoint.state)
    projectors = inferred.pop("projector")
    inferred.pop("projector_dropout", None)  # the weights show that there was dropout, but not how much
    settings = inferred | {key: value for key, value in checkpoint.model_fields.items() if value is not None}
    added = {}
    for key, value in wish.over(settings).items():
        if value is None or _same(value, settings.get(key)):
            continue
        if key in DECODER_KEYS:
            new = _decoder_is_new(checkpoint, settings, key, value, wish)
        elif key in BACKBONE_KEYS:
            new = _backbone_is_new(checkpoint, key, value, wish)
        elif key == "projector":
            new = _projector_is_new(checkpoint, value, projectors, wish)
        elif key in settings and key != "local_files_only":
            _contradiction(checkpoint, wish.name(key), value, settings[key])
        else:
            new = True
        if new:
            added[key] = value
    return added


def _contradiction(checkpoint: Checkpoint, flag: str, asked: Any, known: Any) -> NoReturn:
    raise UserError(f"{flag} {asked} contradicts {checkpoint.path}, which has {known}; leave {flag} out")


def _same(value: Any, known: Any) -> bool:
    """Whether two values are the same, even if YAML gives text for a number."""
    try:
        return value == known or float(value) == float(known)
    except (TypeError, ValueError):
        return False


def _projector_is_new(checkpoint: Checkpoint, value: Any, known: str | Mapping[str, str], wish: ModelWish) -> bool:
    """Always false: the weights tell, and `auto` agrees with everything."""
    for stream in IMAGES:
        asked = value.get(stream.key, "auto") if isinstance(value, Mapping) else value
        if asked != "auto" and asked != (known.get(stream.key) if isinstance(known, Mapping) else known):
            _contradiction(checkpoint, wish.name("projector"), value, known)
    return False


def _backbone_is_new(checkpoint: Checkpoint, key: str, value: Any, wish: ModelWish) -> bool:
    """Whether the file does not record its backbones. Weights tell everything about a ViT but its heads."""
    sizes = free_vit(value) if key == "backbone" else parse_backbone(value, f"model.{key}").sizes
    record = checkpoint.rest.get("architecture")
    for index, stream in enumerate(_streams_of(checkpoint)):
        if key not in ("backbone", stream.backbone_key) or sizes is None:
            continue
        if key == "backbone" and not any(name.startswith(stream.backbone_prefix) for name in checkpoint.state):
            continue  # a stream that the model does not have
        if isinstance(record, Mapping):
            known = record["backbones"][index]
        elif isinstance(sizes, ViTConfig):
            known = dataclasses.asdict(vit_sizes(checkpoint.state, stream.backbone_prefix, num_heads=1))
            del known["num_heads"]
        else:
            continue
        asked = dataclasses.asdict(sizes)
        for name, size in known.items():
            if key == "backbone" and name in REGISTER_RESIZE and name not in value:
                continue  # whoever does not say how positions are resized wants what the weights were trained with
            if asked.get(name) != size:
                _contradiction(checkpoint, wish.name(key), f"{value} ({name} {asked.get(name)})", f"{name} {size}")
    return record is None


def _streams_of(checkpoint: Checkpoint) -> tuple[Stream, ...]:
    """The streams of pictures in a checkpoint."""
    names = checkpoint.model_fields.get("streams") or infer_fields(checkpoint.state).get("streams")
    return tuple(stream for stream in chosen(names) if stream.images)


def _decoder_is_new(checkpoint: Checkpoint, settings: Mapping[str, Any], key: str, value: Any, wish: ModelWish) -> bool:
    """Whether the configuration that the file was trained with is gone."""
    others = {name: known for name, known in settings.items() if name not in DECODER_KEYS}
    record = checkpoint.rest.get("architecture")
    if isinstance(record, Mapping):
        known = record["decoder"]
    else:
        try:
            known = decoder_settings(build_section("model", settings), checked=False)
        except UserError:
            return True
    asked = decoder_settings(build_section("model", others | {key: value}), checked=key == "decoder_kwargs")
    names = ("decoder_class",) if "decoder_class" in {*known, *asked} else sorted(known.keys() & asked.keys() - ORIGIN)
    for name in names:
        if not _alike(known.get(name), asked.get(name)):
            given = f"{value} ({name} {asked.get(name)})"
            _contradiction(checkpoint, wish.name(key), given, f"{name} {known.get(name)}")
    return not isinstance(record, Mapping)


def _alike(known: Any, asked: Any) -> bool:
    """Make lists and tuples comparable; leave mappings out of records."""
    if isinstance(known, Mapping) or isinstance(asked, Mapping):
        return True
    return known == asked or (isinstance(known, list | tuple) and list(known) == list(asked or ()))
