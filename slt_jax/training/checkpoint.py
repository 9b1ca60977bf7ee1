"""Training state on disk: Orbax for resuming exactly, `.pt` for exchange with v9."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from convert.checkpoint import Blueprint, Checkpoint, plan_model, read_checkpoint
from convert.optimizer import to_torch
from convert.state_dict import Entry, to_state
from convert.torch_file import write_pt
from slt_jax.config import build_config
from slt_jax.errors import UserError
from slt_jax.training.optim import Optimizer
from slt_jax.training.step import TrainState
from slt_jax.training.workdir import state_folder

# What torch's GradScaler holds when new: v9 loads it unconditionally, bfloat16 needs none.
UNUSED_SCALER = {
    "scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0,
}


class StateStore:
    """The numbered states under a folder; the last two are kept, a save that is cut off leaves no trace."""

    def __init__(self, folder: Path, *, read_only: bool = False):
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates every save
        options = ocp.CheckpointManagerOptions(max_to_keep=2, read_only=read_only, create=not read_only)
        self.folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: TrainState, notes: Mapping[str, Any]) -> None:
        """Write `state` in the background and `notes` (JSON) beside it; waits for a save still under way."""
        number = (self.latest() or 0) + 1
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(dict(notes)))
        self._manager.save(number, args=items)

    def latest(self) -> int | None:
        """The number of the newest whole state, or None."""
        return self._manager.latest_step()

    def restore(self, like: TrainState | None = None) -> tuple[TrainState, dict[str, Any]]:
        """The newest state with its notes, in the shapes and places of `like` (arrays or their shapes)."""
        number = self.latest()
        target = None if like is None else jax.tree.map(ocp.tree.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), notes=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(number, args=items)
        except (ValueError, KeyError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise UserError(
                f"--resume {self._manager.directory / str(number)}: the saved state does not fit the model that the "
                f"configuration describes ({first_line[:200]})"
            ) from None
        return restored["state"], restored["notes"]

    def notes(self) -> dict[str, Any]:
        """What was noted beside the newest state."""
        return self._manager.restore(self.latest(), args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]

    def wait(self) -> None:
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A `.pt`, a work-dir (its best weights) or a folder of Orbax states as a checkpoint.

    Raises UserError in one line where there is no such thing or it cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return read_checkpoint(path)
    for file in (path / "best.pt", path / "last.pt"):
        if file.exists():
            return read_checkpoint(file)
    folder = state_folder(path)
    if folder is None:
        raise UserError(f"{path}: is neither a work-dir nor a folder of saved states")
    store = StateStore(folder, read_only=True)
    try:
        state, notes = store.restore()
    finally:
        store.close()
    config = build_config(notes["config"])
    _, entries = plan_model(config.model).structure()
    return Checkpoint(folder, to_state(state["trained"] | state["frozen"], entries), {"config": notes["config"]})


@dataclass(frozen=True)
class Exporter:
    """Writes v9's `.pt` files."""

    plan: Blueprint
    entries: list[Entry]
    optimizer: Optimizer
    initial_lr: float
    config: dict[str, Any]

    def write(self, path: Path, state: TrainState, *, epoch: int, lr: float, val_loss: float, best_val: float) -> None:
        """One checkpoint: `epoch` is the number of finished epochs, `lr` that of the next one."""
        host = jax.device_get(state)
        params: dict[str, np.ndarray] = host["trained"] | host["frozen"]
        optimizer_state = to_torch(
            host["optimizer"], list(host["trained"]), self.optimizer, lr, self.initial_lr, self.entries
        )
        write_pt(path, {
            "epoch": epoch,
            "model_state": to_state(params, self.entries),
            "optimizer_state": optimizer_state,
            "val_loss": val_loss,
            "best_val": best_val,
            "scaler_state": UNUSED_SCALER,
            "config": self.config,
        })
