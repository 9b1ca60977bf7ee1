"""The results of an evaluation, on their way from the model to the reports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """One clip's translation. `latency_ms` is its share of its batch's time, `group` its value under `--split-by`."""

    video_id: str
    reference: str
    prediction: str
    latency_ms: float
    chrf: float
    group: str | None = None
