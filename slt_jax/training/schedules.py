"""Values that change with every optimiser step: on the host in float64, or inside a jitted step in float32."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine (Loshchilov and Hutter, 2017) in `steps` steps, and `end` after them.

    The first `warmup` of these steps rise linearly from `before` to `start`.
    """

    start: float
    end: float
    steps: int
    warmup: int = 0
    before: float = 0.0

    def __call__(self, step: Any) -> Any:
        """The value at a step, counted from 0: an array for an array of JAX's, else a float."""
        xp = jnp if isinstance(step, jax.Array) else np
        done = xp.clip((step - self.warmup) / max(self.steps - self.warmup, 1), 0.0, 1.0)
        value = self.end + (self.start - self.end) * 0.5 * (1 + xp.cos(np.pi * done))
        rising = self.before + (self.start - self.before) * (step / max(self.warmup, 1))
        value = xp.where(step < self.warmup, rising, value)
        return value if xp is jnp else float(value)


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` along a line in `steps` steps, and `end` after them."""

    start: float
    end: float
    steps: int

    def __call__(self, step: Any) -> Any:
        """The value at a step, counted from 0: an array for an array of JAX's, else a float."""
        xp = jnp if isinstance(step, jax.Array) else np
        value = self.start + (self.end - self.start) * xp.clip(step / max(self.steps, 1), 0.0, 1.0)
        return value if xp is jnp else float(value)


Schedule = Cosine | Linear
