"""How an epoch is judged: token-weighted loss, perplexity and character error rate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from slt_jax.decoding.scores import nfc

CROSS_ENTROPY = "cross_entropy"  # the metric that perplexity is told of: a smoothed loss says little about it


@dataclass
class Totals:
    """Sums over the batches of an epoch. Means weigh every label token alike, as v9's do."""

    loss: float = 0.0
    tokens: float = 0.0
    character_errors: float = 0.0
    clips: int = 0
    # Of the objective, besides its loss: sums, each with its tokens, as a resumed run may have more than before.
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def add(
        self,
        loss: float,
        tokens: float,
        clips: int,
        character_errors: float = 0.0,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a batch. `loss` and `metrics` are means over `tokens`, `character_errors` a rate times its tokens."""
        self.loss += loss * tokens
        self.tokens += tokens
        self.character_errors += character_errors
        self.clips += clips
        for name, value in scalars(metrics or {}).items():
            total, weight = self.metrics.get(name, (0.0, 0.0))
            self.metrics[name] = [total + value * tokens, weight + tokens]

    @property
    def mean_metrics(self) -> dict[str, float]:
        """The means of the objective's metrics."""
        return {name: total / max(tokens, 1.0) for name, (total, tokens) in self.metrics.items()}

    @property
    def mean_loss(self) -> float:
        """The mean loss of a token."""
        return self.loss / max(self.tokens, 1.0)

    @property
    def perplexity(self) -> float:
        """exp(mean cross entropy without label smoothing), finite."""
        return math.exp(min(self.mean_metrics.get(CROSS_ENTROPY, self.mean_loss), 700.0))

    @property
    def character_error_rate(self) -> float:
        """The character error rate, as a fraction."""
        return self.character_errors / max(self.tokens, 1.0)

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types; `Totals(**...)` undoes it."""
        return asdict(self)


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an objective that are numbers; the others are for its own use."""
    return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}


def character_errors(references: Sequence[str], predictions: Sequence[str], tokens: Sequence[int]) -> float:
    """Each clip's edit distance divided by its reference's length, weighted by its number of label tokens.

    An accent is the same however a tokenizer writes it.
    """
    return sum(
        Levenshtein.distance(nfc(reference), nfc(prediction)) / max(len(nfc(reference)), 1) * count
        for reference, prediction, count in zip(references, predictions, tokens, strict=True)
    )
