"""Token cross entropy with torch's label smoothing."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from slt_jax.data.text import IGNORE


def token_loss(
    logits: Float[Array, "b s vocab"], labels: Int[Array, "b s"], label_smoothing: float
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The sum of the losses of all tokens, and their number. `labels` (B, S), -100 = ignore; `logits` (B, S, vocab).

    As in `torch.nn.CrossEntropyLoss(label_smoothing=...)`, the smoothing mass is spread over all classes, including
    the target. The mean that torch returns is sum / max(number, 1).
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    counted = labels != IGNORE
    target = jnp.where(counted, labels, 0)[..., None]
    target_loss = -jnp.take_along_axis(log_probabilities, target, axis=-1)[..., 0]
    loss = (1 - label_smoothing) * target_loss - label_smoothing * log_probabilities.mean(axis=-1)
    return jnp.where(counted, loss, 0).sum(), counted.sum()
