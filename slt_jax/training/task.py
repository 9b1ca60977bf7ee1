"""What the loop asks of whatever is trained. Translation is one task; another one changes nothing in the loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from slt_jax.config import TrainingConfig
from slt_jax.training.metrics import Totals
from slt_jax.training.position import Position
from slt_jax.training.program import Program
from slt_jax.training.state import TrainState
from slt_jax.training.workdir import WorkDir


class TaskBatch(Protocol):
    """`arrays` go to the device; `names` tell a person which samples they are of, `count` how many are real."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]: ...

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def count(self) -> int: ...


@dataclass(frozen=True)
class Evaluation:
    """What an epoch's state is worth: the lower `loss` the better, the higher a score the better."""

    loss: float
    scores: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # for metrics.jsonl, under its names
    texts: Mapping[str, str] = field(default_factory=dict)  # Markdown for TensorBoard, by tag
    samples: Sequence[Any] = ()  # what `finish` may show


class Task(Protocol):
    """To be inherited, for what most tasks have alike.

    `stopped()` is true once a signal asked the run to end: what takes long looks at it and returns early.
    """

    program: Program
    training: TrainingConfig  # epochs, micro-batches, early stop, what the best is chosen by

    def begin(self, state: TrainState, stopped: Callable[[], bool]) -> None:
        """What is computed once, before the first epoch."""
        return None

    def batches_per_epoch(self) -> int: ...

    def batches(self, epoch: int, start: int) -> Iterator[TaskBatch]:
        """The batches of an epoch (counted from 0) from number `start` on: the same for the same arguments."""
        ...

    def learning_rate(self, epoch: int) -> float: ...

    def evaluate(self, state: TrainState, epoch: int, stopped: Callable[[], bool]) -> Evaluation:
        """The state after an epoch (counted from 0)."""
        ...

    def export(self, state: TrainState, position: Position, workdir: WorkDir) -> None:
        """Write the epoch's files; `position` tells which epoch is done, its metrics, and whether it is the best.

        Every process is asked. Called again after a kill, it writes the same files again.
        """
        ...

    def training_metrics(self, totals: Totals) -> dict[str, float]:
        """An epoch's training for metrics.jsonl, under its names."""
        return {"train_loss": totals.mean_loss, **totals.mean_metrics}

    def notes(self, position: Position) -> dict[str, Any]:
        """JSON beside a saved state: the `position`, and what opens the state again without the command line."""
        return {"position": asdict(position)}

    def summary(self, record: Mapping[str, Any], best: bool) -> str:
        """An epoch in one line."""
        losses = f"train loss {record['train_loss']:.4f}{' (best)' if best else ''}"
        return f"epoch {record['epoch']}/{self.training.epochs}: {losses}, {record['seconds']:.0f} s"

    def finish(self, state: TrainState, evaluation: Evaluation, stopped: Callable[[], bool]) -> None:
        """Show what was reached, after the last epoch."""
        return None
