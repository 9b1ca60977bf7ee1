"""Training states to and from files that others read: turn a `.pt` into a state, open a state like a `.pt`."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.adapters import LORA_STATE, AdapterTable
from convert.checkpoint import Blueprint, blueprint
from convert.compatibility import v9_notes
from convert.optimizer import optimizer_kind
from convert.source import Source, cast, open_source
from convert.target import Progress, adding_up, total_bytes
from slt_jax.base.files import replacing_folder
from slt_jax.base.places import check_folder
from slt_jax.config import SECTIONS, Config, build_config
from slt_jax.errors import UserError
from slt_jax.models.freeze import frozen_paths
from slt_jax.models.trust import Trust
from slt_jax.training.earlier import glosses_in
from slt_jax.training.joined import heads_of
from slt_jax.training.position import Position
from slt_jax.training.rate import Rates
from slt_jax.training.start import checkpoint_state, trained_with_v9_masks
from slt_jax.training.state_store import StateStore, exporter_of, saved_model
from slt_jax.training.translation_program import translation_program
from slt_jax.training.workdir import state_folder


def open_weights(path: str | Path, trust: Trust = False) -> Source:
    """Open a file or folder of any kind, training states included.

    Raises UserError in one line if it does not hold weights, and for states whose model has classes not in `trust`.
    """
    path = Path(path)
    exported = any((path / name).exists() for name in ("best.pt", "last.pt"))
    folder = None if exported else state_folder(path)
    return open_source(path) if folder is None else _open_states(folder, trust)


def _open_states(folder: Path, trust: Trust) -> Source:
    """The newest state under `folder`, as the checkpoint that training would have written."""
    state, notes, plan = saved_model(folder, trust)
    config, position = build_config(notes["config"]), Position.from_notes(notes)
    _, entries = plan.structure()
    rates = Rates.of(config.optim, config.training, notes.get("steps_per_epoch"))
    lr = rates(position.epoch, int(state.step)) if rates.known else config.optim.lr
    known = glosses_in(notes)
    names = known.names if known else ()
    exporter = dataclasses.replace(exporter_of(config, plan, entries, names), config=notes["config"])
    content = exporter.content(state, position, val_loss=position.best_val, lr=lr)
    tensors = content.pop("model_state")
    return Source(folder, "folder of training states (Orbax) of slt_jax: encoder and decoder", tensors, content)


def to_states(
    source: Source,
    target: Path,
    *,
    model: Mapping | None = None,
    dtype: np.dtype | None = None,
    weights_only: bool = False,
    progress: Progress | None = None,
    trust: Trust = False,
) -> None:
    """Write a folder of training states, which `--resume` continues and `slt_jax.load` reads."""
    checkpoint = source.checkpoint
    plan = blueprint(checkpoint, model, trust=trust)
    if plan.decoder is None:
        raise UserError(f"{source.path}: holds an encoder without a decoder, which is not a state of training")
    if not isinstance(source.rest.get(LORA_STATE), Mapping):  # merged weights alone
        plan = dataclasses.replace(plan, config=dataclasses.replace(plan.config, lora=None))
    _, entries = plan.structure()
    config = training_config(source, plan)
    rest = (
        source.rest if not weights_only else {**source.rest, "epoch": 0, "optimizer_state": None, "scaler_state": None}
    )
    checkpoint = dataclasses.replace(checkpoint, state=cast(checkpoint.state, dtype), rest=rest)
    frozen = frozen_paths(config.model, {entry.path for entry in entries})
    glosses = glosses_in(rest)
    program = translation_program(config, plan, glosses=glosses.size if glosses else 0)
    heads = heads_of(config, glosses, rest)
    state = checkpoint_state(checkpoint, program, entries, frozen, AdapterTable.of(plan), heads)
    state = state.replace(step=np.int32(np.max(state.optimizer.step, initial=0)))
    read = adding_up(progress, total_bytes(state))
    state = jax.tree.map(lambda leaf: _in_memory(leaf, read), state)
    exporter = exporter_of(config, plan, entries, glosses.names if glosses else ())
    with replacing_folder(target) as folder, StateStore(folder) as store:
        store.save(state.to_tree(), exporter.notes(Position.from_checkpoint(rest)))
        store.wait()


def check_target_folder(target: Path, *, overwrite: bool) -> None:
    """Raise UserError if `target` cannot become a folder of training states.

    With `overwrite` it may be such a folder, which is then replaced.
    """
    if target.exists() and not overwrite and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target}: exists; --overwrite replaces it")
    check_folder("", target)
    if target.exists() and any(target.iterdir()) and state_folder(target) != target:
        raise UserError(f"{target}: is not a folder of training states, so it is not removed; name another place")


def notes_for_v9(source: Source, trust: Trust = False) -> list[str]:
    """`v9_notes` of a checkpoint that slt_jax wrote; v9 loads its own."""
    if not source.written_here:
        return []
    plan = blueprint(source.checkpoint, trust=trust)
    return v9_notes(training_config(source, plan), plan)


def training_config(source: Source, plan: Blueprint) -> Config:
    """The configuration of the run that wrote a checkpoint, as far as the file has it."""
    saved = source.checkpoint.config
    tree: dict[str, dict[str, Any]] = {}
    for name, section in SECTIONS.items():
        given = saved.get(name)
        known = given.items() if isinstance(given, Mapping) else ()
        # Later v9 writes null for what it leaves to a default.
        tree[name] = {key: v for key, v in known if key in section.__dataclass_fields__ and v is not None}
    if isinstance(optimizer := source.rest.get("optimizer_state"), Mapping):
        group = optimizer["param_groups"][0]
        tree["optim"] |= {"optimizer": optimizer_kind(optimizer), "momentum": float(group.get("momentum", 0.0))}
        if len(optimizer["param_groups"]) == 1 or "lr" not in tree["optim"]:  # else each group has its own
            lr = float(group.get("initial_lr", group["lr"]))
            tree["optim"] |= {"lr": lr, "weight_decay": float(group["weight_decay"])}
    tree["data"]["v9_hand_masks"] = trained_with_v9_masks(saved)
    config = build_config({name: values for name, values in tree.items() if name != "model"})
    return dataclasses.replace(config, model=plan.config)


def _in_memory(leaf: Any, read: Callable[[int], None] | None) -> jax.Array:
    """A copy of a leaf in memory, as one from a file is only mapped."""
    if not isinstance(leaf, np.ndarray):
        return jnp.asarray(leaf)
    array = jnp.array(leaf).block_until_ready()
    if read:
        read(leaf.nbytes)
    return array
