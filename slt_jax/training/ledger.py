"""The results of training steps, read one step late so that the device never waits for the host."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from slt_jax.training.metrics import Totals, scalars
from slt_jax.training.task import TaskBatch

# float16 is given up if this many steps in a row overflow, or if the loss itself does at a scale this small.
MOST_SKIPPED = 50
SMALLEST_SCALE = 1.0


class TrainingStopped(RuntimeError):
    """The run cannot continue: the loss or its gradient is no longer a number."""


class Ledger:
    """Steps whose results are on their way, and the sums of those that have arrived.

    `scaled`: the loss is scaled for float16, so steps may sometimes overflow; these change nothing but the scale.
    """

    def __init__(self, totals: Totals, *, scaled: bool = False):
        self.totals, self.scaled = totals, scaled
        self.skipped = 0  # steps in a row, up to the newest, that overflowed
        self.newest: dict[str, float] = {}  # loss, gradient norm and metrics of the newest step that was read
        self._pending: deque = deque()

    def add(self, step: int, results: Mapping[str, Any], batches: Sequence[TaskBatch]) -> None:
        """Add a step and its results from `Program.step`."""
        self._pending.append((step, results, batches))

    def settle(self, keep: int = 0) -> None:
        """Wait for all but the newest `keep` steps. Raises TrainingStopped, naming the step and its clips."""
        while len(self._pending) > keep:
            step, results, batches = self._pending.popleft()
            results = jax.device_get(results)
            may_overflow = self.scaled and self._overflowed(results)
            rows = zip(results["loss"], results["weight"], results["metrics"], batches, strict=True)
            for loss, weight, metrics, batch in rows:
                if may_overflow and not math.isfinite(loss):
                    continue
                check_finite("loss", float(loss), f"at step {step}", [batch])
                self.totals.add(float(loss), float(weight), batch.count, metrics=metrics)
            if not may_overflow:
                check_finite("gradient norm", float(results["grad_norm"]), f"at step {step}", batches)
            self.newest = {"loss": float(results["loss"][-1]), "grad_norm": float(results["grad_norm"])}
            self.newest |= scalars(results["metrics"][-1])

    def _overflowed(self, results: Mapping[str, Any]) -> bool:
        """Whether a scaled step was skipped, as happens until the scale is small enough."""
        if math.isfinite(results["grad_norm"]):
            self.skipped = 0
            return False
        self.skipped += 1
        hopeless = self.skipped >= MOST_SKIPPED or results["scale"] == 0
        return not hopeless and (results["scale"] > SMALLEST_SCALE or all(map(math.isfinite, results["loss"])))


def check_finite(what: str, value: float, when: str, batches: Sequence[TaskBatch]) -> None:
    """Raise TrainingStopped, naming the clips of `batches`, unless `value` is a finite number."""
    if not math.isfinite(value):
        ids = ", ".join(dict.fromkeys(name for batch in batches for name in batch.names))
        raise TrainingStopped(
            f"the {what} is {value} {when} (clips {ids}); the last saved state is intact. "
            f"Try a lower --lr, --clip-grad-norm 1, or --precision float32"
        )
