"""What a model said: of the clips of an evaluation, and of the parts of a video."""

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


@dataclass(frozen=True)
class Segment:
    """What was signed from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str
