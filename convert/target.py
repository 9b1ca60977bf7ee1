"""What weights are written as: a `.pt` in v9's layout or a safetensors file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (gives NumPy bfloat16 by name)
import numpy as np

from convert.adapters import LORA_OPTIMIZER, LORA_STATE
from convert.checkpoint import blueprint
from convert.optimizer import regrouped
from convert.safetensors_file import write_safetensors
from convert.source import Source, cast, find_ties
from convert.state_dict import differences
from convert.torch_file import write_pt
from slt_jax.base.places import check_file
from slt_jax.errors import UserError
from slt_jax.models.freeze import frozen_paths
from slt_jax.models.trust import Trust

TRAINING = ("optimizer_state", "scaler_state", "ema_state", "gloss_state", "contrastive_state", LORA_STATE,
            LORA_OPTIMIZER)  # fmt: skip

# Called with the bytes done so far and the bytes there are.
Progress = Callable[[int, int], None]


def to_torch(
    source: Source,
    target: Path,
    *,
    dtype: np.dtype | None = None,
    prefix: str = "",
    weights_only: bool = False,
    layout: str = "v9",
    model: Mapping | None = None,
    trust: Trust = False,
    progress: Progress | None = None,
) -> None:
    """Write a `.pt` as v9 does: the weights, and what lies beside them in `source`, or by themselves.

    `layout` is how the optimiser's state numbers parameters, v9 or later-v9; `model` as for `blueprint`.
    """
    state = {prefix + key: array for key, array in cast(source.tensors, dtype).items()}
    rest = {key: value for key, value in source.rest.items() if not (weights_only and key in TRAINING)}
    if not weights_only:
        rest |= _optimizer_state(source, layout, model, trust)
    content = {"epoch": 0, "model_state": state} | rest if rest else state
    write_pt(target, content, progress=adding_up(progress, total_bytes(state, rest)))


def _optimizer_state(source: Source, layout: str, model: Mapping | None, trust: Trust) -> dict[str, Any]:
    """The optimiser's state in this layout, as a part of what lies beside the weights."""
    saved = source.rest.get("optimizer_state")
    if not isinstance(saved, Mapping):
        if layout != "v9":
            raise UserError(f"--layout {layout}: {source.path} has no optimiser state")
        return {}
    groups = saved["param_groups"]
    if layout == "v9" and sum(len(group["params"]) for group in groups) == _distinct(source.tensors):
        settings = {(group.get("initial_lr", group["lr"]), group["weight_decay"]) for group in groups}
        if len(groups) == 1 or (source.written_here and len(settings) == len(groups)):
            return {}  # all parameters have a number, as v9 wants it, in the groups of this run's rates
    try:
        plan = blueprint(source.checkpoint, model, trust=trust)
        _, entries = plan.structure()
        frozen = frozen_paths(plan.config, {entry.path for entry in entries})
        return {"optimizer_state": regrouped(saved, layout, entries, frozen)}
    except UserError as error:
        named = str(error).removeprefix(f"{source.path}: ")
        raise UserError(f"{source.path}: {named}; --weights-only leaves out the optimiser's state") from None


def to_safetensors(
    source: Source, target: Path, *, dtype: np.dtype | None = None, prefix: str = "", progress: Progress | None = None
) -> dict[str, str]:
    """Write the weights, and in the metadata what builds the model and which names are tied; returns the latter."""
    state = {prefix + key: array for key, array in cast(source.tensors, dtype).items()}
    ties = find_ties(state)
    total = total_bytes({key: array for key, array in state.items() if key not in ties})
    write_safetensors(target, state, ties, adding_up(progress, total), _of_model(source.rest))
    return ties


def _of_model(rest: Mapping[str, Any]) -> dict[str, Any]:
    """Of what lies beside the weights, that which builds the model. They do not tell all of it, such as its heads."""
    kept = {}
    for name in ("config", "architecture"):
        try:
            json.dumps(rest.get(name))
        except (TypeError, ValueError):  # somebody else's configuration, with more than JSON can hold
            continue
        if isinstance(rest.get(name), dict):
            kept[name] = rest[name]
    return kept


def model_differences(source: Source, model: Mapping | None, trust: Trust = False) -> list[str]:
    """The +/- diff between the file and the model that `model` (or the file's own configuration) describes."""
    checkpoint = source.checkpoint
    _, entries = blueprint(checkpoint, model, trust=trust).structure()
    shapes = {key: tuple(array.shape) for key, array in checkpoint.state.items()}
    return differences({entry.key: entry.shape for entry in entries}, shapes)


def check_target_file(target: Path, *, overwrite: bool) -> None:
    """Raises UserError if `target` exists and must not be replaced by a file."""
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists; --overwrite replaces it")
    check_file("", target)


def adding_up(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    """`progress` for a caller who knows only how many bytes each piece had."""
    if progress is None:
        return None
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return add


def total_bytes(*trees: Any) -> int:
    """Bytes of all arrays; tied ones, which a file holds once, count once."""
    return sum(nbytes for _, nbytes in _places(trees))


def _distinct(tensors: Mapping[str, np.ndarray]) -> int:
    """The number of tensors; tied ones count once."""
    return len(_places(tensors))


def _places(trees: Any) -> set[tuple[int, int]]:
    arrays = (leaf for leaf in jax.tree.leaves(trees) if isinstance(leaf, np.ndarray))
    return {(array.ctypes.data, array.nbytes) for array in arrays}
