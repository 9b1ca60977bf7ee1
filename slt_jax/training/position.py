"""How far a run has come, and how well it has done; JSON beside every saved state."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Position:
    epoch: int = 0  # finished epochs
    batch: int = 0  # batches taken from the epoch under way
    totals: dict[str, float] = field(default_factory=dict)  # its running sums
    best_val: float = math.inf  # the lowest validation loss
    best_scores: dict[str, float] = field(default_factory=dict)  # the highest BLEU and chrF
    since_best: int = 0  # evaluations since the last new best

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "Position":
        return cls(**notes["position"])

    @classmethod
    def from_checkpoint(cls, rest: Mapping[str, Any]) -> "Position":
        """From what lies beside the weights in a `.pt`, v9's or ours."""
        return cls(
            epoch=int(rest.get("epoch", 0)),
            best_val=float(rest.get("best_val", rest.get("val_loss", math.inf))),
            best_scores=dict(rest.get("best_scores", {})),
            since_best=int(rest.get("since_best", 0)),
        )

    def after_epoch(self, val_loss: float, scores: Mapping[str, float], metric: str) -> tuple["Position", bool]:
        """The position once an epoch is evaluated, and whether it is the best so far by `metric`.

        `scores` holds `bleu` and `chrf`, or nothing in an epoch without translations, which then cannot be the best.
        """
        better = {name: value > self.best_scores.get(name, -math.inf) for name, value in scores.items()}
        better["loss"] = val_loss < self.best_val
        best = better.get(metric, False)
        position = Position(
            epoch=self.epoch + 1,
            best_val=min(val_loss, self.best_val),
            best_scores=self.best_scores | {name: scores[name] for name in scores if better[name]},
            since_best=0 if best else self.since_best + (metric in better),
        )
        return position, best
