"""Which parameters are trained: not the frozen ones, and not those that the loss never reaches."""

import re
from collections.abc import Collection

from slt_jax.config import FreezeSpec, ModelConfig
from slt_jax.errors import UserError

# A DINOv2 mask token is only used in its pre-training; the decoder's own text encoder is replaced by ours.
UNREACHED = re.compile(r"encoder\.\w*backbone\w*\.mask_token$|decoder\.model\.(model\.)?encoder\.")

STREAMS = {
    "freeze_face_backbone": "encoder.face_backbone.",
    "freeze_hand_left_backbone": "encoder.hand_backbone_left.",
    "freeze_hand_right_backbone": "encoder.hand_backbone_right.",
}


def trained_paths(config: ModelConfig, paths: Collection[str], buffers: Collection[str]) -> list[str]:
    """The sorted paths that get gradients and optimiser state; torch gives none to the others, so they never move."""
    frozen = set(buffers)
    for key, prefix in STREAMS.items():
        names = {path.removeprefix(prefix): path for path in paths if path.startswith(prefix)}
        frozen |= {names[name] for name in frozen_names(getattr(config, key), names, f"model.{key}")}
    return sorted(path for path in paths if path not in frozen and not UNREACHED.match(path))


def frozen_names(spec: FreezeSpec, names: Collection[str], key: str) -> set[str]:
    """The parameters of one backbone that `spec` freezes.

    v9's vocabulary: true; a number of first blocks; `patch_embed`, `head`, `blocks[:N]` or any name prefix; a list of
    these; a mapping of these to true (or `blocks: N`) with `exclude`. Raises UserError where a name fits nothing.
    """
    if spec is None or spec is False:
        return set()
    if spec is True:
        return set(names)
    if isinstance(spec, int):
        spec = f"blocks[:{spec}]"
    if isinstance(spec, str):
        return _named(spec, names, key)
    if isinstance(spec, list):
        return set().union(*(frozen_names(part, names, key) for part in spec))
    spec = dict(spec)
    exclude = frozen_names(_as_list(spec.pop("exclude", [])), names, key)
    frozen = set()
    for name, value in spec.items():
        if name == "blocks" and isinstance(value, int) and not isinstance(value, bool):
            value, name = True, f"blocks[:{value}]"
        if value is True:
            frozen |= _named(name, names, key)
        elif value:
            frozen |= frozen_names(_as_list(value), names, key)
    return (frozen if spec else set(names)) - exclude


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def _named(name: str, names: Collection[str], key: str) -> set[str]:
    blocks = re.fullmatch(r"blocks\[:(\d+)\]", name)
    if blocks:
        prefixes = tuple(f"blocks.{i}." for i in range(int(blocks[1])))
    else:
        prefixes = (f"{name}.", name) if name in names else (f"{name.rstrip('.')}.",)
    found = {path for path in names if path.startswith(prefixes) or path == name} if prefixes else set()
    # Hub backbones have a `head` without parameters: freezing it is a wish already granted.
    if not found and name not in ("head", "blocks[:0]"):
        raise UserError(f"{key}: no parameter of the backbone starts with '{name}'")
    return found
