"""The translator's loss: the cross entropy of label tokens."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array

from slt_jax.training.loss import token_loss
from slt_jax.training.metrics import CROSS_ENTROPY
from slt_jax.training.objective import Inputs, Loss, Objective


@dataclass(frozen=True)
class TokenCrossEntropy(Objective):
    """v9's objective: the mean cross entropy of the label tokens, teacher forced, with label smoothing."""

    label_smoothing: float

    def loss(self, model: nnx.Module, inputs: Inputs, key: Array, teacher: None) -> Loss:
        """The sum over label tokens, and their number; the metric is the cross entropy without smoothing."""
        return self.of_logits(model(inputs, key=key), inputs)

    def of_logits(self, logits: Array, inputs: Inputs) -> Loss:
        """`loss` of logits (B, S, vocab)."""
        total, weight = token_loss(logits, inputs["labels"], self.label_smoothing)
        return Loss(total, weight, {CROSS_ENTROPY: cross_entropy(logits, inputs)})

    def evaluate(self, model: nnx.Module, inputs: Inputs) -> dict[str, Array]:
        """`loss` and `cross_entropy` (means), `weight` (label tokens), and the argmax `predicted` (B, S) of a batch."""
        return self.judged(model(inputs), inputs)

    def judged(self, logits: Array, inputs: Inputs) -> dict[str, Array]:
        """`evaluate` of logits (B, S, vocab)."""
        total, weight = token_loss(logits, inputs["labels"], self.label_smoothing)
        predicted = logits.argmax(axis=-1)
        loss, plain = total / jnp.maximum(weight, 1), cross_entropy(logits, inputs)
        return {"loss": loss, CROSS_ENTROPY: plain, "weight": weight, "predicted": predicted}


def cross_entropy(logits: Array, inputs: Inputs) -> Array:
    """The mean without smoothing, of which the perplexity is told."""
    total, weight = token_loss(logits, inputs["labels"], 0.0)
    return total / jnp.maximum(weight, 1)
