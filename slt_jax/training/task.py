"""What the loop asks of a task. Translation is one; another one changes nothing in the loop."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from slt_jax.config import TrainingConfig
from slt_jax.training.metrics import Totals
from slt_jax.training.position import Position, Taken
from slt_jax.training.program import Program
from slt_jax.training.state import TrainState
from slt_jax.training.workdir import WorkDir


class TaskBatch(Protocol):
    """A batch of a task."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What goes to the device."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Which samples these are, for messages."""
        ...

    @property
    def count(self) -> int:
        """How many of the rows are real."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """How good an epoch's state is. A lower `loss` is better (None: that of training), and higher scores are."""

    loss: float | None
    scores: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)  # for metrics.jsonl, under its names
    texts: Mapping[str, str] = field(default_factory=dict)  # Markdown for TensorBoard, by tag
    samples: Sequence[Any] = ()  # what `finish` may show
    titles: Mapping[str, str] = field(default_factory=dict)  # of metrics whose names would mislead people


class Task(Protocol):
    """What is trained. Inherit from it for what most tasks share.

    `stopped()` is true once a signal has asked the run to end: whatever takes long looks at it and returns early.
    """

    program: Program
    training: TrainingConfig  # epochs, micro-batches, early stop, what the best is chosen by
    batch_size: int  # samples of a batch, over all processes
    samples: str = "clips"  # what they are called
    log_interval: int = 1  # steps between two points in TensorBoard

    def begin(self, state: TrainState, stopped: Callable[[], bool]) -> None:
        """Compute what is needed once, before the first epoch."""
        return None

    def batches_left(self, epoch: int, taken: Taken) -> int:
        """How many `batches` there are."""
        ...

    def batches(self, epoch: int, taken: Taken) -> Iterator[TaskBatch]:
        """The batches of an epoch (counted from 0) that are left, the same for the same arguments.

        `taken` holds (batch size, batches) of those before: what is left is each sample that none of them had.
        """
        ...

    def learning_rate(self, epoch: int, step: int) -> float:
        """The learning rate in an epoch, at an optimiser step (both counted from 0)."""
        ...

    def evaluate(self, state: TrainState, epoch: int, stopped: Callable[[], bool]) -> Evaluation:
        """Judge the state after an epoch (counted from 0)."""
        ...

    def export(self, state: TrainState, position: Position, workdir: WorkDir) -> None:
        """Write the epoch's files. `position` tells which epoch is done, its metrics, and whether it is the best.

        Every process calls it. After a kill it is called again, and writes the same files.
        """
        ...

    def damaged(self, workdir: WorkDir) -> list[Path]:
        """The files of `export` that are there no longer, or are not whole."""
        return []

    def training_metrics(self, totals: Totals) -> dict[str, float]:
        """The metrics of an epoch's training, under their names in metrics.jsonl."""
        return {"train_loss": totals.mean_loss, **totals.mean_metrics}

    def notes(self, position: Position) -> dict[str, Any]:
        """JSON for beside a saved state: the `position`, and what opens the state again without the command line."""
        return {"position": asdict(position)}

    def summary(self, record: Mapping[str, Any], best: bool) -> str:
        """An epoch in one line."""
        losses = f"train loss {record['train_loss']:.4f}{' (best)' if best else ''}"
        return f"epoch {record['epoch']}/{self.training.epochs}: {losses}, {record['seconds']:.0f} s"

    def finish(self, state: TrainState, evaluation: Evaluation, stopped: Callable[[], bool]) -> None:
        """Show what was reached, after the last epoch."""
        return None
