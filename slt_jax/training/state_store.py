"""Training states on disk: Orbax to resume exactly, `.pt` to exchange with v9."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convert.adapters import LORA_OPTIMIZER, LORA_STATE, NO_ADAPTERS, AdapterTable
from convert.checkpoint import Blueprint, Checkpoint, plan_model, read_checkpoint
from convert.huggingface import is_folder_of_weights
from convert.optimizer import to_torch
from convert.source import open_source
from convert.state_dict import Entry, to_state
from convert.torch_file import read_pt, write_pt
from slt_jax.base.files import checksums, write_json
from slt_jax.base.places import existing_folder, naming
from slt_jax.base.quiet import silence_late_writers
from slt_jax.config import Config, build_config
from slt_jax.errors import UserError
from slt_jax.models.lora import merged
from slt_jax.models.trust import Trust, check_trusted, named_classes
from slt_jax.runtime import hosts
from slt_jax.training import scaler
from slt_jax.training.ema import average_of
from slt_jax.training.joined import heads_state
from slt_jax.training.optim import Optimizer
from slt_jax.training.position import Position
from slt_jax.training.program import Program
from slt_jax.training.state import TrainState
from slt_jax.training.translation_program import translation_optimizer
from slt_jax.training.workdir import state_folder

logger = logging.getLogger(__name__)


CHECKSUMS = "checksums.json"
LATE_SECONDS = 10.0  # that the writers of a save may go on after one of them has failed
QUIET_SECONDS = 0.5  # without a new file after which they have ended
UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of Orbax's folders until they are whole
Tree = Mapping[str, Any]  # a state as nested mappings of arrays, see `TrainState.to_tree`


class StateStore:
    """The numbered states under a folder. The last two are kept, and a save that is cut off leaves no trace.

    Where the system refuses to write a state, an OSError names the folder.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        import orbax.checkpoint as ocp  # takes a sixth of a command's imports, and a .pt does without

        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs every save, and what it raises
        silence_late_writers()
        self._args = ocp.args
        options = ocp.CheckpointManagerOptions(max_to_keep=2, read_only=read_only, create=not read_only)
        self.folder = folder
        handlers = {"state": ocp.StandardCheckpointHandler(), "notes": ocp.JsonCheckpointHandler()}
        self._unsealed: int | None = None
        self._failed = False
        self._checked: set[int] = set()
        self._damaged: set[int] = set()
        if not read_only and hosts.primary():
            self._remove_unfinished()
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)

    def save(self, state: Tree, notes: Mapping[str, Any]) -> None:
        """Write `state` in the background and `notes` (JSON) beside it; waits for a save still under way."""
        self._seal()
        number = self._unsealed = (self.latest() or 0) + 1
        items = self._args.Composite(state=self._args.StandardSave(state), notes=self._args.JsonSave(dict(notes)))
        with self._writing():
            self._manager.save(number, args=items)

    def _seal(self) -> None:
        """Write checksums beside the newest state, once it is whole."""
        with self._writing():
            self._manager.wait_until_finished()
            if self._unsealed is not None and hosts.primary():
                folder = self.folder / str(self._unsealed)
                write_json(folder / CHECKSUMS, checksums(folder, without=CHECKSUMS))
            self._unsealed = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Name the folder where the system refuses to write, and leave no part of a state behind."""
        try:
            with naming(self.folder):
                yield
        except Exception as error:
            self._unsealed, self._failed = None, True
            if hosts.primary() or isinstance(error, OSError):  # without this process's part there will be no state
                self._give_up()
            raise

    def _give_up(self) -> None:
        """Remove what a save has left that failed, until its last writers, which go on for a moment, have ended."""
        end = time.monotonic() + LATE_SECONDS
        quiet_since = time.monotonic()
        while time.monotonic() < min(end, quiet_since + QUIET_SECONDS):
            if any(self.folder.glob(f"*{UNFINISHED}*")):
                self._remove_unfinished()
                quiet_since = time.monotonic()
            time.sleep(0.02)

    def _remove_unfinished(self) -> None:
        """Remove what a save that was cut off has left."""
        for left in self.folder.glob(f"*{UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in self.folder.glob(f"*/.{CHECKSUMS}.*.tmp"):
            left.unlink(missing_ok=True)

    def _check(self, number: int) -> None:
        """Raise ValueError where a file of a state is not what was written; a state may have no checksums."""
        folder = self.folder / str(number)
        if number in self._checked or not (folder / CHECKSUMS).exists():
            return
        written = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        present = checksums(folder, without=CHECKSUMS)
        if changed := [name for name in written.keys() | present.keys() if written.get(name) != present.get(name)]:
            raise ValueError(f"{min(changed)} is not what was written")
        self._checked.add(number)

    def latest(self) -> int | None:
        """The number of the newest complete state, or None."""
        return self._manager.latest_step()

    def restore(self, like: Tree | None = None) -> tuple[Tree, dict[str, Any]]:
        """The newest complete state with its notes. It may have been saved with any number of devices.

        In the shapes and places of `like` (see `Program.abstract_state`); without it as numpy arrays.
        """
        return self._newest(lambda number: self._restore(number, like))

    def notes(self) -> dict[str, Any]:
        """The notes beside the newest state."""
        items = self._args.Composite(notes=self._args.JsonRestore())
        return self._newest(lambda number: self._manager.restore(number, args=items)["notes"])

    def _newest(self, read: Callable[[int], Any]) -> Any:
        """What `read` makes of the newest state or, if that is damaged, of the one before."""
        for number in sorted(set(self._manager.all_steps()) - self._damaged, reverse=True):
            try:
                self._check(number)
                return read(number)
            except UserError:
                raise
            except Exception as error:  # Orbax and TensorStore raise all kinds of errors on damaged files
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
                logger.warning("%s: is damaged and passed over (%s)", self.folder / str(number), reason)
                self._damaged.add(number)
        raise UserError(f"{self.folder}: none of its states can be read; name a .pt of the run instead")

    def _restore(self, number: int, like: Tree | None) -> tuple[Tree, dict[str, Any]]:
        saved_as = self._manager.item_metadata(number)["state"]
        if like is None:  # numpy arrays: where they lived when they were saved says nothing about this machine
            like = jax.tree.map(lambda array: np.broadcast_to(np.zeros((), array.dtype), array.shape), saved_as)
        else:
            saved, wanted = _shapes(saved_as), _shapes(like)
            wrong = [path for path in sorted(saved.keys() | wanted.keys()) if saved.get(path) != wanted.get(path)]
            if wrong:
                stored, expected = (shapes.get(wrong[0], "absent") for shapes in (saved, wanted))
                raise UserError(
                    f"--resume {self.folder / str(number)}: does not fit the model and the optimiser that the "
                    f"configuration describes; {len(wrong)} arrays differ, the first is {wrong[0]}: {stored} in the "
                    f"state, {expected} in the model"
                )
        items = self._args.Composite(state=self._args.StandardRestore(like), notes=self._args.JsonRestore())
        restored = self._manager.restore(number, args=items)
        return restored["state"], restored["notes"]

    def check_room(self, state: Tree) -> None:
        """Raise UserError where the disk has no room for a state, which would be known only after an epoch."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(existing_folder(self.folder)).free
        if free < needed:
            raise UserError(
                f"--work-dir {self.folder.parent}: {free / 1e6:.1f} MB are free there, and a saved state takes up to "
                f"{needed / 1e6:.1f} MB; make room or name another folder"
            )

    def wait(self) -> None:
        """Return once all states are whole on disk."""
        self._seal()

    def __enter__(self) -> "StateStore":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is being saved, and let go of the folder."""
        if self._failed:
            with suppress(Exception):  # the save's own error says it
                self._manager.close()
            return
        self._seal()
        with self._writing():
            self._manager.close()


def resume_states(folder: Path, program: Program) -> tuple[TrainState, Position, dict[str, Any]]:
    """The newest state under `folder`, exactly as it was saved, with its position and its notes."""
    with StateStore(folder, read_only=True) as store:
        return resume_from(store, program)


def resume_from(store: StateStore, program: Program) -> tuple[TrainState, Position, dict[str, Any]]:
    """`resume_states` of an open store."""
    tree, notes = store.restore(program.abstract_state().to_tree())
    return TrainState.from_tree(tree), Position.from_notes(notes), notes


def _shapes(tree: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """{dotted path: shape} of arrays, or of what only describes them, in nested mappings."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in tree.items():
        below = _shapes(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value.shape}
        shapes |= {path: tuple(shape) for path, shape in below.items()}
    return shapes


def open_checkpoint(path: str | Path, trust: Trust = False) -> Checkpoint:
    """A `.pt`, a safetensors file, a work-dir (its best weights) or a folder of Orbax states as a checkpoint.

    Raises UserError in one line where there is no such thing or it cannot be read, and for a folder whose model has
    classes that are not in `trust`.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return open_source(path).checkpoint
    if not path.is_dir():
        return read_checkpoint(path)
    for file in (path / "best.pt", path / "last.pt"):
        if file.exists():
            return read_checkpoint(file)
    folder = state_folder(path)
    if folder is None and is_folder_of_weights(path):
        raise UserError(f"{path}: is a HuggingFace folder, not a whole model; --decoder-model takes it as a decoder")
    if folder is None:
        raise UserError(f"{path}: is neither a work-dir nor a folder of saved states")
    state, notes, plan = saved_model(folder, trust)
    _, entries = plan.structure()
    rest: dict[str, Any] = {name: notes[name] for name in ("config", "architecture") if name in notes}
    return Checkpoint(folder, to_state(merged(state.params, plan.lora), entries), rest)


def saved_model(folder: Path, trust: Trust = False) -> tuple[TrainState, dict[str, Any], Blueprint]:
    """The newest state under `folder` with its notes, and the model that they describe.

    Raises UserError for a model with classes that are not in `trust`.
    """
    with StateStore(folder, read_only=True) as store:
        tree, notes = store.restore()
    state = TrainState.from_tree(tree)
    model, record = build_config(notes["config"]).model, notes.get("architecture")
    if record:
        return state, notes, Blueprint.from_record(model, record, folder, trust)
    check_trusted(named_classes(model), trust, folder)
    return state, notes, plan_model(model)


def is_sound(path: Path) -> bool:
    """Whether a `.pt` is there and is what was written."""
    try:
        read_pt(path)
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Exporter:
    """Writes v9's `.pt` files."""

    plan: Blueprint
    entries: list[Entry]
    optimizer: Optimizer
    initial_lr: float
    config: dict[str, Any]
    adapters: AdapterTable = NO_ADAPTERS
    glosses: tuple[str, ...] = ()

    def notes(self, position: Position) -> dict[str, Any]:
        """The notes of a saved state: where the run was, and how to build its model without the command line."""
        known = {"glosses": list(self.glosses)} if self.glosses else {}
        return {"position": asdict(position), "config": self.config, "architecture": self.plan.record()} | known

    def write(self, path: Path, state: TrainState, position: Position, *, lr: float, val_loss: float) -> None:
        """Write a checkpoint after the epoch in `position`, in process 0. `lr` is that of the next epoch."""
        whole = hosts.fetch(state)
        if hosts.primary():
            write_pt(path, self.content(whole, position, lr=lr, val_loss=val_loss))

    def content(self, state: TrainState, position: Position, *, lr: float, val_loss: float) -> dict[str, Any]:
        """The content that `write` writes."""
        host: TrainState = jax.device_get(state)
        tree, trained, settings = host.optimizer.to_tree(), list(host.trained), (self.optimizer, lr, self.initial_lr)
        average, adapters = average_of(host), self.adapters.adapters
        fitting = [] if average is None else [e for e in (*self.entries, *adapters) if e.path in average]
        # v9 numbers its own parameters, so adapters have an optimiser's state apart.
        lora = {LORA_STATE: self.adapters.state(host.params),
                LORA_OPTIMIZER: to_torch(tree, trained, *settings, adapters)} if adapters else {}  # fmt: skip
        return {
            "epoch": position.epoch,
            "model_state": to_state(merged(host.params, self.plan.lora), self.entries),
            **({"ema_state": to_state(average, fitting)} if average is not None else {}),
            "optimizer_state": to_torch(tree, trained, *settings, self.entries),
            **lora,
            **heads_state(host.params, self.glosses),
            "val_loss": val_loss,
            "best_val": position.best_val,
            "best_scores": position.best_scores,
            "since_best": position.since_best,
            "scaler_state": scaler.to_torch(host.scaler),
            "config": self.config,
            "architecture": self.plan.record(),
        }


def exporter_of(config: Config, plan: Blueprint, entries: list[Entry], glosses: tuple[str, ...] = ()) -> Exporter:
    """The exporter of a run under `config`; `entries` are the plan's torch table, `glosses` what its head knows."""
    adapters = AdapterTable.of(plan)
    optimizer = translation_optimizer(config.optim, lambda: [*entries, *adapters.adapters])
    return Exporter(plan, entries, optimizer, config.optim.lr, config.to_dict(), adapters, glosses)
