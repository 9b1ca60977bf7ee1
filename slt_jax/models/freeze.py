"""Which parameters are trained: neither the frozen ones nor those that the loss never reaches."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flax import nnx

from slt_jax.config import FreezeSpec, ModelConfig
from slt_jax.errors import UserError
from slt_jax.models import families
from slt_jax.models.lora import bases, is_adapter
from slt_jax.models.multistream import ENCODER_PARTS
from slt_jax.streams import IMAGES

# DINOv2's mask token is only used in pre-training.
MASK_TOKEN = re.compile(r"encoder\.\w*backbone\w*\.mask_token$")


class Frozen(nnx.Variable):
    """A parameter that is not trained."""


def trained_paths(
    config: ModelConfig, paths: Collection[str], buffers: Collection[str], *, text_encoder: bool = False
) -> list[str]:
    """The sorted paths that get gradients and optimiser state. As in torch, the others get none and never move.

    `text_encoder`: the loss reaches the decoder's text encoder too.
    """
    frozen = frozen_paths(config, paths) | set(buffers)
    if config.lora is not None:
        frozen |= bases(paths)
    text_encoders = () if config.decoder_class or text_encoder else families.text_encoders()
    reached = (path for path in paths if not MASK_TOKEN.match(path) and not path.startswith(text_encoders))
    return sorted(path for path in reached if path not in frozen)


def frozen_paths(config: ModelConfig, paths: Collection[str]) -> set[str]:
    """The paths that the configuration freezes: those that do not require a gradient in torch. Adapters never are."""
    frozen: set[str] = set()
    if config.lora is not None:
        paths = [path for path in paths if not is_adapter(path)]
    for stream in IMAGES:
        prefix, key = stream.backbone_prefix, stream.backbone_key
        names = {path.removeprefix(prefix): path for path in paths if path.startswith(prefix)}
        asked = {f"model.{stream.freeze_key}": getattr(config, stream.freeze_key)}
        if config.backbone is None and isinstance(spec := getattr(config, key), Mapping):
            asked[f"model.{key}.freeze"] = spec.get("freeze")
        for where, freeze in asked.items():
            frozen |= {names[name] for name in frozen_names(freeze, names, where)}
    return frozen


def frozen_names(spec: FreezeSpec, names: Collection[str], key: str) -> set[str]:
    """The parameters of one backbone that `spec` freezes.

    `spec` is in v9's vocabulary: true; a number of first blocks; `patch_embed`, `head`, `blocks[:N]` or any name
    prefix; a list of these; a mapping of these to true (or `blocks: N`) with `exclude`. Raises UserError if a name
    fits nothing.
    """
    spec = _WORDS.get(spec.lower(), spec) if isinstance(spec, str) else spec
    if spec is None or spec is False:
        return set()
    if spec is True:
        return set(names)
    if isinstance(spec, int) or (isinstance(spec, str) and spec.isdigit()):
        spec = f"blocks[:{spec}]"
    if isinstance(spec, str):
        return _named(spec, names, key)
    if isinstance(spec, list):
        return set().union(*(frozen_names(part, names, key) for part in spec))
    spec = dict(spec)
    exclude = frozen_names(_as_list(spec.pop("exclude", None)), names, key)
    frozen = set()
    for name, value in spec.items():
        if name == "blocks" and isinstance(value, int) and not isinstance(value, bool):
            frozen |= _named(f"blocks[:{value}]", names, key)
        elif name == "blocks" and isinstance(value, list):
            frozen |= frozen_names([f"blocks.{n}" if isinstance(n, int) else n for n in value], names, key)
        elif value is True:
            frozen |= _named(name, names, key)
        elif value:
            frozen |= frozen_names(_as_list(value), names, key)
    return (frozen if spec else set(names)) - exclude


# YAML and the command line give these as text.
_WORDS = {"true": True, "all": True, "false": False, "none": False, "": False}


def _as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _named(name: str, names: Collection[str], key: str) -> set[str]:
    """The parameters at and under `name`, which may be ours (`norm.scale`) or torch's (`norm.weight`)."""
    if blocks := re.fullmatch(r"blocks\[:(\d+)\]", name):
        wanted = [f"blocks.{i}" for i in range(int(blocks[1]))]
    else:
        wanted = [name.rstrip(".")]
    matches = {path for path in names if any(_is_at(wish, path) for wish in wanted)}
    # Hub backbones have a `head` without parameters, so there is nothing to freeze.
    if not matches and name not in ("head", "blocks[:0]"):
        parts = ", ".join(sorted({path.split(".")[0] for path in names}))
        raise UserError(f"{key}: no parameter of the backbone starts with '{name}'; it has {parts}")
    return matches


def _is_at(wish: str, path: str) -> bool:
    stem, _, last = path.rpartition(".")
    torch_name = f"{stem}.weight" if last in ("kernel", "scale", "embedding") else path
    return f"{path}.".startswith(f"{wish}.") or torch_name == wish


# --- what trains, as a table --------------------------------------------------------------------------------------


def training_table(
    params: Mapping[str, Any],
    trained: Collection[str],
    slots: Mapping[str, Mapping[str, Any]],
    beside: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Lines that say how much of each part of the model trains, and its memory in training.

    `params` maps paths to arrays or their shapes, `slots` the names of what the optimiser keeps to as much of the
    trained ones, and `beside` those of other weights that a step reads. Memory is that of weights, gradients and
    optimiser state, without activations.
    """
    chosen = set(trained)
    rows: dict[str, list[int]] = {}
    for path, array in params.items():
        row = rows.setdefault(_part(path), [0, 0, 0])
        row[0 if path in chosen else 1] += int(np.prod(array.shape))
        row[2] += _bytes(array) * (2 if path in chosen else 1)
    for slot in slots.values():
        for path, array in slot.items():
            rows[_part(path)][2] += _bytes(array)
    for name, arrays in beside.items():
        rows[name] = [0, sum(int(np.prod(a.shape)) for a in arrays.values()), sum(map(_bytes, arrays.values()))]
    ordered = {part: rows[part] for part in (*ENCODER_PARTS, "decoder") if part in rows} | rows
    ordered["total"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    wide = max(map(len, ordered))
    lines = [f"{'part':<{wide}}  {'trained':>13}  {'not trained':>13}  {'memory':>11}"]
    for part, (train, still, memory) in ordered.items():
        lines.append(f"{part:<{wide}}  {train:>13,}  {still:>13,}  {memory / 2**20:>7,.1f} MiB")
    return lines


def _bytes(array: Any) -> int:
    return int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize


def _part(path: str) -> str:
    first, *rest = path.split(".")
    return rest[0] if first == "encoder" and rest else first
