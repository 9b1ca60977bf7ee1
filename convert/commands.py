"""What `to-torch`, `to-jax` and `to-safetensors` do."""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (gives NumPy bfloat16 by name)
import numpy as np
from tqdm import tqdm

from convert.checkpoint import Blueprint, blueprint, load_params
from convert.compatibility import v9_notes
from convert.inspect import optimizer_kind
from convert.optimizer import from_torch
from convert.safetensors_file import write_safetensors
from convert.source import Source, cast, find_ties
from convert.state_dict import differences
from convert.torch_file import write_pt
from slt_jax.config import SECTIONS, Config, build_config
from slt_jax.errors import UserError
from slt_jax.models.freeze import trained_paths
from slt_jax.training.optim import build_optimizer
from slt_jax.training.position import Position
from slt_jax.training.scaler import scaler_state
from slt_jax.training.start import assemble, trained_with_v9_masks
from slt_jax.training.state_store import StateStore
from slt_jax.training.workdir import state_folder

LARGE = 64 << 20  # bytes from which on a bar is shown
TRAINING = ("optimizer_state", "scaler_state")


def to_torch(source: Source, target: Path, *, dtype: np.dtype | None, prefix: str, weights_only: bool) -> None:
    """Write a `.pt` in v9's layout: the weights, and what lies beside them in `source`, or by themselves."""
    state = {prefix + key: array for key, array in cast(source.tensors, dtype).items()}
    rest = {key: value for key, value in source.rest.items() if not (weights_only and key in TRAINING)}
    content = {"epoch": 0, "model_state": state} | rest if rest else state
    with bar(target.name, _size(state, rest)) as progress:
        write_pt(target, content, progress=progress)


def to_safetensors(source: Source, target: Path, *, dtype: np.dtype | None, prefix: str) -> dict[str, str]:
    """Write the weights; returns the tied names, which the file holds in its metadata."""
    state = {prefix + key: array for key, array in cast(source.tensors, dtype).items()}
    ties = find_ties(state)
    with bar(target.name, _size({key: array for key, array in state.items() if key not in ties})) as progress:
        write_safetensors(target, state, ties, progress)
    return ties


def to_jax(source: Source, target: Path, *, model: Mapping | None, dtype: np.dtype | None, weights_only: bool) -> None:
    """Write a folder of training states: `--resume` continues from it and `slt_jax.load` reads it."""
    from slt_jax.training.run import notes  # brings the data loader with it

    checkpoint = source.checkpoint
    plan = blueprint(checkpoint, model)
    if plan.decoder is None:
        raise UserError(f"{source.path}: holds an encoder without a decoder, which is not a state of training")
    structure, entries = plan.structure()
    params = load_params(dataclasses.replace(checkpoint, state=cast(checkpoint.state, dtype)), entries)
    config = training_config(source, plan)
    optimizer = build_optimizer(config.optim)
    state = assemble(params, trained_paths(config.model, list(params), structure.buffers), optimizer)
    if not weights_only:
        state["scaler"] = scaler_state(source.rest.get("scaler_state"))
        if saved := source.rest.get("optimizer_state"):
            state["optimizer"] = from_torch(saved, state["optimizer"], list(state["trained"]), optimizer, entries)
    state["step"] = np.int32(np.max(state["optimizer"]["step"], initial=0))
    rest = source.rest
    position = Position.from_checkpoint(rest | {"epoch": 0} if weights_only else rest)
    with bar(f"reading {source.path.name}", _size(state)) as progress:
        state = jax.tree.map(lambda leaf: _read(leaf, progress), state)
    store = StateStore(target)
    try:
        store.save(state, notes(config, plan, position))
        store.wait()
    finally:
        store.close()


def training_config(source: Source, plan: Blueprint) -> Config:
    """The configuration of the run that wrote a checkpoint, as far as the file tells."""
    saved = source.checkpoint.config
    tree = {}
    for name, section in SECTIONS.items():
        given = saved.get(name) if isinstance(saved.get(name), Mapping) else {}
        tree[name] = {key: value for key, value in given.items() if key in section.__dataclass_fields__}
    if isinstance(optimizer := source.rest.get("optimizer_state"), Mapping):
        group = optimizer["param_groups"][0]
        tree["optim"] |= {
            "optimizer": optimizer_kind(optimizer),
            "lr": float(group.get("initial_lr", group["lr"])),
            "weight_decay": float(group["weight_decay"]),
            "momentum": float(group.get("momentum", 0.0)),
        }
    tree["data"]["v9_hand_masks"] = trained_with_v9_masks(saved)
    config = build_config({name: values for name, values in tree.items() if name != "model"})
    return dataclasses.replace(config, model=plan.config)


def notes_for_v9(source: Source) -> list[str]:
    """`v9_notes` of a checkpoint that slt_jax wrote; v9 loads its own."""
    if not source.written_here:
        return []
    plan = blueprint(source.checkpoint)
    return v9_notes(training_config(source, plan), plan)


def model_differences(source: Source, model: Mapping | None) -> list[str]:
    """The +/- diff between the file and the model that `model` (or the file's own configuration) describes."""
    checkpoint = source.checkpoint
    _, entries = blueprint(checkpoint, model).structure()
    found = {key: tuple(array.shape) for key, array in checkpoint.state.items()}
    return differences({entry.key: entry.shape for entry in entries}, found)


def clear_target(target: Path, *, overwrite: bool, folder: bool = False) -> None:
    """Refuse a target that exists; with `overwrite` let a file be replaced, and remove a folder of states."""
    if not target.exists() or (folder and target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{target}: exists; --overwrite replaces it")
    if target.is_dir() != folder:
        raise UserError(f"{target}: is a {'folder' if target.is_dir() else 'file'}; name another place")
    if folder:
        if state_folder(target) != target:
            raise UserError(f"{target}: is not a folder of training states, so it is not removed; name another place")
        shutil.rmtree(target)


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, on a terminal and for large files only."""
    with tqdm(
        total=total,
        desc=title,
        unit="B",
        unit_scale=True,
        leave=False,
        file=sys.stderr,
        disable=None if total >= LARGE else True,
    ) as progress:
        yield progress.update


def _read(leaf: Any, progress: Callable[[int], None]) -> jax.Array:
    """A leaf in memory; one of the file's is only mapped so far."""
    if not isinstance(leaf, np.ndarray):
        return jnp.asarray(leaf)
    array = jnp.array(leaf).block_until_ready()
    progress(leaf.nbytes)
    return array


def _size(*trees: Any) -> int:
    """Bytes of all arrays; tied ones, which a file holds once, count once."""
    arrays = [leaf for leaf in jax.tree.leaves(trees) if isinstance(leaf, np.ndarray)]
    return sum({(array.ctypes.data, array.nbytes): array.nbytes for array in arrays}.values())
