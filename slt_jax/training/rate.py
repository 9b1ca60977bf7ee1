"""The learning rate of an optimiser step: v9's schedules by epoch, and those of transformers by step.

Computed on the host in float64. By epoch the formulas are those of torch.optim.lr_scheduler, by step those of
`transformers.get_scheduler` (5.0), whose first step of a warm-up has the rate 0.
"""

import math
from dataclasses import dataclass

from slt_jax.config import OptimConfig, TrainingConfig
from slt_jax.config_rules import by_step

TIMESCALE = 10_000  # of inverse_sqrt without warm-up, as in transformers


@dataclass(frozen=True)
class Rates:
    """The learning rates of a run of `epochs` epochs and `steps` optimiser steps; None where that is not known."""

    optim: OptimConfig
    epochs: int
    steps: int | None = None

    @classmethod
    def of(cls, optim: OptimConfig, training: TrainingConfig, steps_per_epoch: int | None = None) -> "Rates":
        """Those of a run whose epochs have so many optimiser steps."""
        if steps_per_epoch is None:
            return cls(optim, training.epochs, training.max_steps)
        steps = training.epochs * steps_per_epoch
        return cls(optim, training.epochs, min(steps, training.max_steps or steps))

    @property
    def known(self) -> bool:
        """Whether the rate can be told: some schedules need the number of all steps."""
        return self.steps is not None or not by_step(self.optim) or self.optim.scheduler in ("none", "inverse_sqrt")

    def __call__(self, epoch: int, step: int) -> float:
        """The rate of an optimiser step in an epoch, both counted from 0. torch's cosine rises again after T_max."""
        warmup = self.optim.warmup_steps
        if step < warmup:
            return (self._by_epoch(epoch) if not by_step(self.optim) else self.optim.lr) * step / warmup
        return self._by_step(step - warmup) if by_step(self.optim) else self._by_epoch(epoch)

    def _by_epoch(self, done: int) -> float:
        optim = self.optim
        if optim.scheduler == "steplr":
            return optim.lr * optim.scheduler_gamma ** (done // optim.scheduler_step_size)
        if optim.scheduler == "cosine":
            return optim.lr * (1 + math.cos(math.pi * done / (optim.scheduler_tmax or self.epochs))) / 2
        return optim.lr

    def _by_step(self, done: int) -> float:
        """The rate `done` steps after the warm-up."""
        optim = self.optim
        if optim.scheduler == "steplr":
            return optim.lr * optim.scheduler_gamma ** (done // optim.scheduler_step_size)
        if optim.scheduler == "inverse_sqrt":
            timescale = optim.warmup_steps or TIMESCALE
            return optim.lr / math.sqrt((done + timescale) / timescale)
        if optim.scheduler == "none":
            return optim.lr
        assert self.steps is not None
        whole = optim.scheduler_tmax or max(self.steps - optim.warmup_steps, 1)
        if optim.scheduler == "cosine":
            return optim.lr * max((1 + math.cos(math.pi * done / whole)) / 2, 0.0)
        return optim.lr * max((whole - done) / whole, 0.0)


def schedule_notes(optim: OptimConfig, training: TrainingConfig, steps_per_epoch: int) -> list[str]:
    """What a run will not see of its steps and its schedule, in lines."""
    steps = Rates.of(optim, training, steps_per_epoch).steps
    assert steps is not None
    warmup, whole, most = optim.warmup_steps, optim.scheduler_tmax, training.max_steps
    found = []
    if most and most > steps:
        found.append(f"training.max_steps {most}: {training.epochs} epochs end after {steps} steps; give more epochs")
    if warmup and warmup >= steps:
        found.append(f"optim.warmup_steps {warmup}: the rate never gets to optim.lr, the run has {steps} steps")
    still = steps - warmup - (whole or 0)
    if whole and still > 0 and by_step(optim) and optim.scheduler in ("cosine", "linear"):
        found.append(f"optim.scheduler_tmax {whole}: counts steps here, and the rate of the run's last {still} is 0")
    return found
