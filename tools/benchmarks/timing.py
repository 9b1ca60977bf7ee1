"""Wall and CPU time of things that take turns, and how a row of such times reads."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Seconds:
    """`wall` by the clock, `cpu` of all threads of this process."""

    wall: float
    cpu: float

    def __sub__(self, start: "Seconds") -> "Seconds":
        return Seconds(self.wall - start.wall, self.cpu - start.cpu)

    def __truediv__(self, count: float) -> "Seconds":
        return Seconds(self.wall / count, self.cpu / count)


def now() -> Seconds:
    return Seconds(time.perf_counter(), time.process_time())


def timed(work: Callable[[], Any]) -> Seconds:
    start = now()
    work()
    return now() - start


def alternate(turns: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each turn gave in each round. Turns alternate, so that what else the machine does meets all alike."""
    results: dict[str, list[T]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            results[name].append(turn())
    return results


def summary(seconds: Sequence[Seconds]) -> dict[str, float]:
    """Median and quartiles of the wall time, the fastest, and the median of the CPU time."""
    walls = [one.wall for one in seconds]
    low, median, high = np.percentile(walls, [25, 50, 75])
    cpu = np.median([one.cpu for one in seconds])
    return {"median": float(median), "low": float(low), "high": float(high), "fastest": min(walls), "cpu": float(cpu)}


def as_text(times: Mapping[str, float]) -> str:
    """A `summary` for people, in milliseconds."""
    median, low, high, fastest = (f"{1e3 * times[name]:,.1f}" for name in ("median", "low", "high", "fastest"))
    return f"median {median} ms (quartiles {low} to {high}), fastest {fastest}, CPU {1e3 * times['cpu']:,.1f}"


def ratios(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """How many times our time theirs is, by `median`, `fastest` and `cpu`; above 1 ours is faster."""
    return {name: theirs[name] / ours[name] for name in ("median", "fastest", "cpu") if ours[name]}
