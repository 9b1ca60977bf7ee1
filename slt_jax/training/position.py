"""How far a run has come, and how well it has done. Kept as JSON beside every saved state."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Taken = list[list[int]]  # (batch size, batches), in the order in which they were taken from an epoch


@dataclass(frozen=True)
class Position:
    """How far a run has come."""

    epoch: int = 0  # finished epochs
    taken: Taken = field(default_factory=list)  # from the epoch under way
    totals: dict[str, Any] = field(default_factory=dict)  # its running sums
    best_val: float = math.inf  # the lowest validation loss
    best_scores: dict[str, float] = field(default_factory=dict)  # the highest of each score, such as BLEU and chrF
    since_best: int = 0  # evaluations since the last new best
    record: dict[str, Any] = field(default_factory=dict)  # metrics of the last finished epoch; empty before it
    is_best: bool = False  # whether that epoch is the best so far
    best_epoch: int = 0  # the epoch of the best so far; 0 if there is none, or it is not known
    earlier: list[dict[str, Any]] = field(default_factory=list)  # metrics of the epochs before it, as far as known

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "Position":
        """From what lies beside a saved state."""
        position = dict(notes["position"])
        if batches := position.pop("batch", 0):  # of a state that counted batches of one size
            position["taken"] = [[notes["config"]["data"]["batch_size"], batches]]
        return cls(**position)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The metrics of all finished epochs, as far as they are known."""
        return [*self.earlier, self.record] if self.record else self.earlier

    @property
    def batches(self) -> int:
        """Batches taken from the epoch under way."""
        return sum(count for _, count in self.taken)

    def after_batches(self, size: int, count: int) -> "Position":
        """The position once `count` more batches of `size` clips, over all processes, are taken."""
        *before, last = self.taken or [[size, 0]]
        taken = [*before, [size, last[1] + count]] if last[0] == size else [*before, last, [size, count]]
        return replace(self, taken=taken)

    @classmethod
    def from_checkpoint(cls, rest: Mapping[str, Any]) -> "Position":
        """The position from what is beside the weights in a `.pt`, v9's or ours."""
        return cls(
            epoch=int(rest.get("epoch", 0)),
            best_val=float(rest.get("best_val", rest.get("val_loss", math.inf))),
            best_scores=dict(rest.get("best_scores", {})),
            since_best=int(rest.get("since_best", 0)),
        )

    def after_epoch(
        self, val_loss: float, scores: Mapping[str, float], metric: str, record: Mapping[str, Any]
    ) -> "Position":
        """The position after an epoch is evaluated. `is_best` is judged by `metric`: `loss` or the name of a score.

        An epoch without that score cannot be the best. `record` holds the epoch's metrics.
        """
        better = {name: value > self.best_scores.get(name, -math.inf) for name, value in scores.items()}
        better["loss"] = val_loss < self.best_val
        best = better.get(metric, False)
        return Position(
            epoch=self.epoch + 1,
            best_val=min(val_loss, self.best_val),
            best_scores=self.best_scores | {name: scores[name] for name in scores if better[name]},
            since_best=0 if best else self.since_best + (metric in better),
            record=dict(record),
            is_best=best,
            best_epoch=self.epoch + 1 if best else self.best_epoch,
            earlier=self.records,
        )
