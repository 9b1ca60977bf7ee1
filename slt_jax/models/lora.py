"""Low-rank adapters (LoRA, Hu et al., 2021) on the linear layers of a model that is built already.

The names and formulas are those of HuggingFace's PEFT: A begins as torch's nn.Linear does, B with zeros, so that a
model with new adapters computes what it did without them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from slt_jax.adapter_settings import Lora
from slt_jax.errors import UserError, shown
from slt_jax.models.families import text_encoders
from slt_jax.models.layers import Adapted
from slt_jax.streams import IMAGES

A, B, KERNEL = "lora_a", "lora_b", "kernel"  # the last parts of the paths of a layer with an adapter
PARTS = {"backbones": tuple(stream.backbone_prefix for stream in IMAGES), "decoder": ("decoder.",)}
HEAD = "lm_head"  # no layer of the decoder, but what comes after it


class DropoutKey(nnx.Variable):
    """The random key of an adapter's dropout in one step."""


def is_adapter(path: str) -> bool:
    """Whether the parameter at `path` is A or B of an adapter."""
    return path.endswith((f".{A}", f".{B}"))


def add_adapters(model: nnx.Module, lora: Lora, rngs: nnx.Rngs) -> None:
    """Replace the linear layers that `lora` targets. Raises UserError for a target that names none."""
    layers = dict(_linear_layers(model, ""))
    chosen = chosen_layers(list(layers), lora.targets)
    new: dict[int, Adapted] = {}  # a layer under two names stays one
    for path in chosen:
        owner, name = layers[path]
        base = owner[name] if isinstance(name, int) else getattr(owner, name)
        adapted = new.setdefault(id(base), Adapted(base, lora.rank, lora.scale, lora.dropout, rngs))
        if isinstance(name, int):
            owner[name] = adapted
        else:
            setattr(owner, name, adapted)


def chosen_layers(paths: Iterable[str], targets: Iterable[str]) -> list[str]:
    """Those of the `paths` of linear layers that are targeted. Raises UserError that lists what there is."""
    parts = [target for target in targets if target in PARTS] or list(PARTS)
    names = [target for target in targets if target not in PARTS]
    left_out = text_encoders()
    able = [p for p in paths if p.rpartition(".")[2] != HEAD and not p.startswith(left_out)]
    within = {part: [path for path in able if path.startswith(PARTS[part])] for part in parts}

    def named(path: str) -> bool:
        return not names or any(f".{path}".endswith(f".{name}") for name in names)

    chosen = {part: [path for path in within[part] if named(path)] for part in parts}
    for name in names:
        if not any(f".{path}".endswith(f".{name}") for found in within.values() for path in found):
            raise UserError(f"model.lora.targets: {shown(name)} is neither a part nor a linear layer; {_listed(able)}")
    for target in targets:
        if target in PARTS and not chosen[target]:
            raise UserError(f"model.lora.targets: '{target}' has no such linear layer; {_listed(able)}")
    return [path for found in chosen.values() for path in found]


def _listed(paths: Iterable[str]) -> str:
    """The parts and the names of their layers, for an error's line."""
    names = {
        part: sorted({p.rpartition(".")[2] for p in paths if p.startswith(start)}) for part, start in PARTS.items()
    }
    return "there are " + "; ".join(f"{part}: {', '.join(found) or 'none'}" for part, found in names.items())


def _linear_layers(module: Any, prefix: str) -> Iterator[tuple[str, tuple[Any, str | int]]]:
    """(path, (owner, name or number)) of every plain `nnx.Linear` below `module`."""
    items = enumerate(module) if isinstance(module, nnx.List) else list(vars(module).items())
    for name, value in items:
        if type(value) is nnx.Linear:  # another class may compute something else with its weights
            yield f"{prefix}{name}", (module, name)
        elif isinstance(value, nnx.Module):
            yield from _linear_layers(value, f"{prefix}{name}.")


def draw_dropout(model: nnx.Module, key: Array) -> None:
    """Give every adapter of `model` a key of its own: its next call is one of training."""
    adapters = [layer for _, layer in nnx.iter_graph(model) if isinstance(layer, Adapted)]
    for layer, own in zip(adapters, jax.random.split(key, len(adapters)), strict=True):
        layer.dropout_key = DropoutKey(own)


def merged(params: Mapping[str, Any], lora: Lora | None) -> dict[str, Any]:
    """The weights of the model without adapters that computes the same, on the host, float32: W + scale A B."""
    if lora is None:
        return dict(params)
    plain = {path: _wide(array) for path, array in params.items() if not is_adapter(path)}
    for path in params:
        if path.endswith(f".{A}"):
            stem = path.removesuffix(A)
            a, b = (np.asarray(params[stem + name], np.float32) for name in (A, B))
            plain[stem + KERNEL] = np.asarray(plain[stem + KERNEL]) + np.float32(lora.scale) * (a @ b)
    return plain


def _wide(array: Any) -> Any:
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def bases(paths: Iterable[str]) -> set[str]:
    """The paths that adapters leave as they are: all others of the parts that have some."""
    paths = list(paths)
    starts = tuple(
        s for starts in PARTS.values() for s in starts if any(is_adapter(p) for p in paths if p.startswith(s))
    )
    return {path for path in paths if path.startswith(starts) and not is_adapter(path)} if starts else set()
