"""Training from top to bottom, whatever the task."""

import dataclasses
import itertools
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.console import Progress, say
from slt_jax.runtime import hosts
from slt_jax.runtime.sharding import place_batch
from slt_jax.runtime.signals import StopSignal
from slt_jax.training.ledger import Ledger
from slt_jax.training.metrics import Totals
from slt_jax.training.position import Position
from slt_jax.training.state import TrainState
from slt_jax.training.state_store import StateStore
from slt_jax.training.task import Evaluation, Task, TaskBatch
from slt_jax.training.tracking import Tracker
from slt_jax.training.workdir import WorkDir

SAVE_SECONDS = 600.0  # seconds between saves within a long epoch


class Interrupted(RuntimeError):
    """A signal asked the run to end. Its state is saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Run:
    """A run. `state` and `position` are the newest ones; `tensorboard` is a folder for event files."""

    task: Task
    state: TrainState
    position: Position
    workdir: WorkDir
    tensorboard: str | None = None
    stop: StopSignal = field(default_factory=StopSignal)

    def __post_init__(self):
        self.store = StateStore(self.workdir.checkpoints)
        self.tracker = Tracker(self.tensorboard if hosts.primary() else None)
        self.program = self.task.program = self.task.program.suited_to(self.state)
        self.agreement = hosts.Agreement(self.program.mesh)
        self.step, self.saved = int(self.state.step), time.monotonic()

    def to_the_end(self) -> dict[str, Any] | None:
        """Train to the last epoch and return its metrics; None if no epoch was left.

        Raises TrainingStopped if the loss is not a number, and Interrupted, after saving, on SIGTERM or SIGINT.
        """
        task, settings, last = self.task, self.task.training, None
        with self.store, self.tracker, self.stop:
            self.publish_what_was_committed()
            if hosts.primary() and self.position.epoch < settings.epochs:
                self.store.check_room(self.state.to_tree())
            task.begin(self.state, lambda: bool(self.stop))
            self.leave_if_asked()
            for epoch in range(self.position.epoch, settings.epochs):
                if self.steps_left == 0 and not self.position.taken:
                    break
                since, patience = self.position.since_best, settings.early_stop_patience
                if patience and since >= patience:
                    say(f"stopping early: no better {settings.best_metric} in {since} evaluations")
                    break
                ledger, progress = self.train_epoch(epoch)
                last = task.evaluate(self.state, epoch, self.stopped)
                self.leave_if_asked(after_saving=True)
                self.finish_epoch(epoch, ledger.totals, progress, last)
            if last is None:
                steps = f", --max-steps {settings.max_steps}" if settings.max_steps else ""
                done = f"{self.position.epoch} epochs are done"
                say(f"nothing to train: {done}, --epochs is {settings.epochs}{steps}")
            else:
                task.finish(self.state, last, self.stopped)
            say(f"done: {', '.join(map(str, self.workdir.results()))}")
            return None if last is None else self.position.record

    @property
    def steps_left(self) -> int | None:
        """Optimiser steps until `max_steps`; None without such an end."""
        last = self.task.training.max_steps
        return None if last is None else max(last - self.step, 0)

    def train_epoch(self, epoch: int) -> tuple[Ledger, Progress]:
        """All steps of an epoch that are left, with their results."""
        task, taken = self.task, self.position.taken
        ledger = Ledger(Totals(**self.position.totals), scaled=self.program.functions.scaled)
        title = f"epoch {epoch + 1}/{task.training.epochs}"
        done = self.position.batches
        with Progress(title, done + task.batches_left(epoch, taken), done, samples=task.samples) as progress:
            batches = progress.wait(task.batches(epoch, taken))
            for group in itertools.islice(grouped(batches, task.training.grad_accum_steps), self.steps_left):
                self.take_step(group, task.learning_rate(epoch, self.step), ledger, progress)
                self.save_if_due(ledger)
            ledger.settle()
        self.position = dataclasses.replace(self.position, totals=ledger.totals.to_dict())
        return ledger, progress

    def take_step(self, group: list[TaskBatch], lr: float, ledger: Ledger, progress: Progress) -> None:
        """Take one optimiser step on a group of micro-batches. Its results are read with those of the next step."""
        placed = [place_batch(batch.arrays, self.program.mesh) for batch in group]
        self.state, results = self.program.step(self.state, placed, np.float32(lr))
        self.step += 1
        ledger.add(self.step, results, group)
        ledger.settle(keep=1)
        self.position = self.position.after_batches(self.task.batch_size, len(group))
        for batch in group:
            progress.update(hosts.count() * batch.count, ledger.newest.get("loss"))
        if self.tracker and ledger.newest and self.step % self.task.log_interval == 0:
            shown = {f"train/{name}": value for name, value in ledger.newest.items()}
            self.tracker.scalars(
                shown | {"train/lr": lr, f"train/{self.task.samples}_per_second": progress.rate}, self.step - 1
            )

    # --- saving and stopping ------------------------------------------------------------------------------------

    def save_if_due(self, ledger: Ledger) -> None:
        """Save within a long epoch, or if a signal came; in that case end here."""
        due = time.monotonic() - self.saved > SAVE_SECONDS
        agreed = self.agreement.ask(hosts.Wish(self.stop.number or 0, due))
        if agreed.signal or agreed.save:
            ledger.settle()
            self.position = dataclasses.replace(self.position, totals=ledger.totals.to_dict())
            self.save()
        if agreed.signal:
            raise Interrupted(agreed.signal)

    def agreed_signal(self) -> int:
        """The signal that any process got, or 0. Every process must ask."""
        return self.agreement.now(hosts.Wish(self.stop.number or 0)).signal

    def stopped(self) -> bool:
        """Whether any process got a signal. Every process must ask."""
        return self.agreed_signal() != 0

    def leave_if_asked(self, *, after_saving: bool = False) -> None:
        """Raise Interrupted if a signal came, perhaps after saving."""
        if number := self.agreed_signal():
            if after_saving:
                self.save()
            raise Interrupted(number)

    def save(self) -> None:
        """Save the state with its position."""
        self.store.save(self.state.to_tree(), self.task.notes(self.position))
        self.saved = time.monotonic()

    # --- the end of an epoch ------------------------------------------------------------------------------------

    def finish_epoch(self, epoch: int, totals: Totals, progress: Progress, evaluation: Evaluation) -> None:
        """Commit the epoch, then write its files. A kill in between loses nothing, as they follow from the state."""
        task = self.task
        record = {
            "epoch": epoch + 1,
            **task.training_metrics(totals),
            **evaluation.metrics,
            "lr": task.learning_rate(epoch, self.step),
            "steps": self.step,
            "seconds": round(progress.seconds, 3),
            f"{task.samples}_per_second": round(progress.rate, 3),
            "data_wait_seconds": round(progress.waited, 3),
            "compilations": self.program.compilations(),
        }
        metric = task.training.best_metric
        loss = totals.mean_loss if evaluation.loss is None else evaluation.loss
        self.position = self.position.after_epoch(loss, evaluation.scores, metric, record)
        self.save()
        self.store.wait()
        self.publish()
        say(task.summary(record, self.position.is_best))
        if self.tracker:
            titles = {f"epoch/{name}": title for name, title in evaluation.titles.items()}
            self.tracker.scalars({f"epoch/{name}": value for name, value in record.items()}, epoch + 1, titles)
            self.tracker.texts(evaluation.texts, epoch + 1)
            self.tracker.flush()

    def publish(self) -> None:
        """Write the files of the epoch that `position` says is done. The line in metrics.jsonl comes last."""
        self.task.export(self.state, self.position, self.workdir)
        if hosts.primary():
            self.workdir.write_metrics(self.position.records)

    def publish_what_was_committed(self) -> None:
        """Mend the files of finished epochs: an earlier process was killed before it wrote them, or they are damaged.

        What no state tells any longer, such as weights that were the best some epochs ago, is said.
        """
        if not (self.position.record and self.store.latest()):
            return
        lost, publishes = self._lost() if hosts.primary() else ([], False)
        if hosts.gathered([publishes])[0]:  # as process 0 sees it: all of them take part
            self.publish()
        for path in lost:
            say(f"{path}: is missing or damaged; the next {'best ' * (path == self.workdir.best)}epoch writes it anew")

    def _lost(self) -> tuple[list[Path], bool]:
        """The files that only later epochs can write again, and whether those of the last epoch are to be written."""
        position, workdir = self.position, self.workdir
        found = {line["epoch"]: line for line in workdir.read_metrics()}
        changed = any(found.get(record["epoch"]) != record for record in position.records)
        damaged = self.task.damaged(workdir)
        if not position.best_epoch:
            damaged = [path for path in damaged if path != workdir.best]
        if position.taken:  # the state is of a later moment than the files
            if changed:
                workdir.write_metrics(position.records)
            return damaged, False
        mended = [path for path in damaged if path != workdir.best or position.is_best]
        return [path for path in damaged if path not in mended], bool(changed or mended)


def grouped(batches: Iterable[TaskBatch], size: int) -> Iterator[list[TaskBatch]]:
    """Yield lists of `size` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group
