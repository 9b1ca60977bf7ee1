"""Dynamic loss scaling for float16, by the rule and with the state of torch.amp.GradScaler.

The loss is multiplied by `scale` before the gradients are taken, so that small ones do not vanish in float16. A step
whose gradients overflow is left out and the scale shrinks; after `growth_interval` good steps in a row it grows.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from slt_jax.training.state import ScalerState

# With torch's names and defaults. Part of every train state, as v9's files hold it under any precision.
DEFAULTS = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}
KINDS = {name: np.float32 if isinstance(value, float) else np.int32 for name, value in DEFAULTS.items()}


def scaler_state(saved: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """The state from a checkpoint's `scaler_state`, or a new one (v9 writes {} without a scaler)."""
    values = DEFAULTS | {name: value for name, value in (saved or {}).items() if name in DEFAULTS}
    return {name: np.asarray(value, KINDS[name]).reshape(()) for name, value in values.items()}


def to_torch(state: Mapping[str, Any]) -> dict[str, float | int]:
    """The state as `GradScaler.state_dict()` gives it: plain numbers."""
    return {name: np.asarray(state[name]).item() for name in DEFAULTS}


def unscale(grads: dict[str, Array], state: ScalerState) -> tuple[dict[str, Array], Array]:
    """The gradients of the loss itself, and whether all of them are finite."""
    grads = jax.tree.map(lambda g: g * (1.0 / state["scale"]), grads)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]))
    return grads, finite


def update(state: ScalerState, finite: Array) -> ScalerState:
    """torch's `update()`: shrink after a skipped step, grow after enough good ones (never to infinity)."""
    streak = state["_growth_tracker"] + 1
    due = streak == state["growth_interval"]
    grown = state["scale"] * state["growth_factor"]
    after_good = jnp.where(due & jnp.isfinite(grown), grown, state["scale"])
    return state | {
        "scale": jnp.where(finite, after_good, state["scale"] * state["backoff_factor"]),
        "_growth_tracker": jnp.where(finite & ~due, streak, 0),
    }


def keep_where(finite: Array, new: Any, old: Any) -> Any:
    """`new` after a good step, else `old`."""
    return jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, old)
