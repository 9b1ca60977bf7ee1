"""Glosses as a second target: connectionist temporal classification over the encoded frames.

Its head stands beside the translator while it trains. v9 knows none, so files of v9's have it apart.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from slt_jax.data.glosses import BLANK
from slt_jax.models.params import random_weights

HEAD = "gloss_head"  # the attribute of the head, and what its paths begin with
BIAS = f"{HEAD}.bias"
STATE = "gloss_state"  # its entry in a `.pt`
GLOSS_CTC = "gloss_ctc"
PREDICTED = "gloss_path"  # of an evaluation: the likeliest id of each frame (B, T)


def add_gloss_head(model: nnx.Module, width: int, glosses: int, rngs: nnx.Rngs) -> None:
    """Give a translator a linear layer from encoded frames of `width` to the ids of glosses."""
    model.gloss_head = nnx.Linear(width, glosses, rngs=rngs)  # type: ignore[attr-defined]


def head_params(width: int, glosses: int, seed: int, saved: Any = None) -> dict[str, np.ndarray]:
    """The head's arrays by path: those of a checkpoint's `gloss_state` where they fit, else new ones."""
    shapes = {f"{HEAD}.weight": (glosses, width), BIAS: (glosses,)}
    given = saved if isinstance(saved, Mapping) else {}
    if all(key in given and np.shape(given[key]) == shape for key, shape in shapes.items()):
        weight, bias = (np.asarray(given[key], np.float32) for key in shapes)
        return {f"{HEAD}.kernel": np.ascontiguousarray(weight.T), BIAS: bias}
    head = nnx.Linear(width, glosses, rngs=random_weights(seed))
    assert head.bias is not None
    return {f"{HEAD}.kernel": np.asarray(head.kernel[...]), BIAS: np.asarray(head.bias[...])}


def head_state(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`gloss_state` of a checkpoint, in torch's layouts; empty without a head."""
    if f"{HEAD}.kernel" not in params:
        return {}
    kernel, bias = (np.asarray(params[f"{HEAD}.{name}"]) for name in ("kernel", "bias"))
    return {f"{HEAD}.weight": np.ascontiguousarray(kernel.T), BIAS: bias}


def gloss_loss(
    logits: Float[Array, "b t ids"], frames: Bool[Array, "b t"], labels: Int[Array, "b g"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum over clips of -log p(glosses) / number of glosses, and the number of clips that count, float32.

    As torch's `ctc_loss` with `reduction="mean"` of one clip. Clips without glosses do not count, nor those with fewer
    frames than their glosses need, which no path can spell. `frames` are the real ones.
    """
    there = labels != BLANK
    count = there.sum(1)
    twins = (there[:, 1:] & (labels[:, 1:] == labels[:, :-1])).sum(1)  # between two of a kind stands a blank
    counted = (count > 0) & (frames.sum(1) >= count + twins)
    losses = optax.ctc_loss(logits.astype(jnp.float32), 1.0 - frames, labels, 1.0 - there, blank_id=BLANK)
    losses = jnp.where(counted, losses / jnp.maximum(count, 1), 0.0)
    return losses.sum(), counted.sum().astype(jnp.float32)


def head_of(model: Any, encoded: Float[Array, "b t d"]) -> Float[Array, "b t ids"]:
    """The logits of the glosses of each frame, float32."""
    return model.gloss_head(encoded.astype(jnp.float32))
