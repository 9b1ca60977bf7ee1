"""The results of training steps, looked at one step late so that the device never waits for the host."""

import math
from collections import deque
from collections.abc import Sequence

import jax
from jax import Array

from slt_jax.data.loader import Batch
from slt_jax.training.metrics import Totals


class TrainingStopped(RuntimeError):
    """The run cannot go on: the loss or its gradient is no longer a number."""


class Ledger:
    """Steps whose results are on their way, and the sums of those that have arrived."""

    def __init__(self, totals: Totals):
        self.totals = totals
        self.last: dict[str, float] = {}
        self._pending: deque = deque()

    def add(self, step: int, results: dict[str, Array], batches: Sequence[Batch]) -> None:
        """Note a step: `results` holds `loss` and `tokens`, one entry a micro-batch, and `grad_norm`."""
        self._pending.append((step, results, batches))

    def settle(self, keep: int = 0) -> None:
        """Wait for all but the newest `keep` steps. Raises TrainingStopped naming the step and its clips."""
        while len(self._pending) > keep:
            step, results, batches = self._pending.popleft()
            results = jax.device_get(results)
            for loss, tokens, batch in zip(results["loss"], results["tokens"], batches, strict=True):
                check_finite("loss", float(loss), f"at step {step}", [batch])
                self.totals.add(float(loss), float(tokens), int(batch.arrays["valid"].sum()))
            check_finite("gradient norm", float(results["grad_norm"]), f"at step {step}", batches)
            self.last = {"step": step, "loss": float(results["loss"][-1]), "grad_norm": float(results["grad_norm"])}


def check_finite(what: str, value: float, when: str, batches: Sequence[Batch]) -> None:
    """Raise TrainingStopped, naming the clips of `batches`, unless `value` is a finite number."""
    if not math.isfinite(value):
        ids = ", ".join(dict.fromkeys(video_id for batch in batches for video_id in batch.video_ids))
        raise TrainingStopped(
            f"the {what} is {value} {when} (clips {ids}); the last saved state is intact. "
            f"Try a lower --lr, --clip-grad-norm 1, or --precision float32"
        )
