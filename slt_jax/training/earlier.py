"""What a run goes on from: a checkpoint, or the folder of an earlier run's states."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.adapters import LORA_STATE
from convert.checkpoint import Checkpoint
from convert.optimizer import check_kind
from slt_jax.base.console import say
from slt_jax.config import Config, TrainingConfig, build_config, build_section
from slt_jax.config_rules import OBJECTIVES
from slt_jax.data.glosses import Glosses
from slt_jax.errors import UserError, shown
from slt_jax.models.trust import Trust
from slt_jax.training.position import Position
from slt_jax.training.program import Program
from slt_jax.training.rate import Rates
from slt_jax.training.state import TrainState
from slt_jax.training.state_store import StateStore, open_checkpoint, resume_from

BESIDE = tuple(name for name in OBJECTIVES if name != "translation")  # with heads or a teacher beside the model


@dataclass(frozen=True)
class Earlier:
    """Opened before the data is: its configuration says what it is to look like. `checkpoint` or `states` is None."""

    path: Path
    config: Mapping[str, Any]
    architecture: Any
    checkpoint: Checkpoint | None
    states: StateStore | None
    clips: Mapping[str, Any] | None = None  # `identity` of the loader, where the notes have it
    steps_per_epoch: int | None = None  # where the notes have it
    glosses: Glosses | None = None  # that its head knows, if it has one

    @classmethod
    def open(cls, path: str | Path, *, states: bool, trust: Trust) -> "Earlier":
        """Open a checkpoint, or where `states` is set the notes beside the newest state of a folder.

        Raises UserError, also for classes of a checkpoint that are not in `trust`.
        """
        if not states:
            checkpoint = open_checkpoint(path, trust)
            glosses = glosses_in(checkpoint.rest)
            return cls(Path(path), checkpoint.config, checkpoint.rest.get("architecture"), checkpoint, None,
                       glosses=glosses)  # fmt: skip
        store = StateStore(Path(path), read_only=True)
        try:
            notes = store.notes()
        except BaseException:
            store.close()
            raise
        return cls(Path(path), notes["config"], notes.get("architecture"), None, store, notes.get("clips"),
                   notes.get("steps_per_epoch"), glosses_in(notes))  # fmt: skip

    @property
    def joins_streams(self) -> bool:
        """Whether the weights are those of a model that reads the streams together, not of backbones alone."""
        return self.checkpoint is None or any(key.startswith("encoder.fusion.") for key in self.checkpoint.state)

    def tell_new_tokenizer(self) -> None:
        """Say that a decoder that was trained goes on with a tokenizer that was made now."""
        if self.checkpoint is None or any(key.startswith("decoder.") for key in self.checkpoint.state):
            say(
                f"note: no tokenizer lies beside {self.path}: its decoder goes on with the one made of this run's "
                f"texts; if it was trained with another, name that with --tokenizer"
            )

    @property
    def lora(self) -> Mapping[str, Any] | None:
        """`model.lora` of what there is to go on with, None where its weights have no adapters."""
        if self.checkpoint is not None and LORA_STATE not in self.checkpoint.rest:
            return None
        return (self.config.get("model") or {}).get("lora")

    def resume(self, config: Config, program: Program) -> tuple[TrainState, Position]:
        """The newest state of the folder, exactly as it was saved, and its position.

        Raises UserError if another optimiser than that of `config` wrote it, or if it was trained for other objectives.
        """
        assert self.states is not None
        with self.states:
            if unlike := self._unlike(config.training):
                raise UserError(
                    f"--resume {self.path}: was trained {unlike}; train so again, or go on from a .pt of that run"
                )
            written = build_section("optim", self.config.get("optim") or {}).optimizer
            check_kind(written, config.optim.optimizer, f"--resume {self.path}")
            state, position, _ = resume_from(self.states, program)
        return state, position

    def tell_rate(self, rates: Rates, epoch: int, step: int) -> None:
        """Say so if `rates` go on with another learning rate than the earlier run would have, which v9 keeps."""
        before, now = self._learning_rate(epoch, step), rates(epoch, step)
        if before is not None and not math.isclose(before, now, rel_tol=1e-6, abs_tol=1e-15):
            say(f"--resume {self.path}: the learning rate was {before:g}; it is {now:g} now, by --lr and --scheduler")

    def tell_clips(self, now: Mapping[str, Any], position: Position) -> None:
        """Say so if training goes on with other clips than the earlier run had."""
        if self.clips is None or self.clips == now:
            return
        before, count = self.clips["count"], now["count"]
        what = f"{before} clips, now there are {count}" if before != count else f"{count} other clips than those now"
        lost = "; of the epoch under way some will be seen twice, or not at all" if position.taken else ""
        say(f"note: {self.path} was trained on {what}{lost}")

    def tell_objectives(self, training: TrainingConfig) -> None:
        """Say so if training goes on for other objectives, or with an average of weights where there was none."""
        if unlike := self._unlike(training):
            say(f"note: {self.path} was trained {unlike}, and this run is not")

    def _unlike(self, training: TrainingConfig) -> str:
        """How the earlier run was trained, in flags, where its state has more or fewer parts than one of `training`."""
        saved, found = self.config.get("training"), []
        if not isinstance(saved, Mapping):
            return ""
        before = saved.get("ema")
        if (before is None) != (training.ema is None):
            found.append("without --ema" if before is None else f"with --ema {shown(before)}")
        weights = saved.get("objectives")
        weights = weights if isinstance(weights, Mapping) else {}
        if any(bool(weights.get(name)) != bool(training.objectives.get(name)) for name in BESIDE):
            known = json.dumps({name: weights[name] for name in OBJECTIVES if name in weights}, default=str)
            found.append(f"with --objectives {shown(known)}" if weights else "without --objectives")
        return " and ".join(found)

    def _learning_rate(self, epoch: int, step: int) -> float | None:
        """The rate with which the earlier run would have gone on; None if it does not say."""
        if self.checkpoint is None:
            config = build_config(self.config)
            rates = Rates.of(config.optim, config.training, self.steps_per_epoch)
            return rates(epoch, step) if rates.known else None
        groups = (self.checkpoint.rest.get("optimizer_state") or {}).get("param_groups") or [{}]
        return groups[0].get("lr")


def glosses_in(saved: Mapping[str, Any]) -> Glosses | None:
    """The glosses in a checkpoint's entries or a state's notes; None where there are none."""
    names = saved.get("glosses")
    return Glosses(tuple(map(str, names))) if isinstance(names, list) and names else None
