"""What translation reports of its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt_jax.training.metrics import Totals
from slt_jax.training.translation_loss import TokenCrossEntropy


def test_perplexity_is_of_the_plain_cross_entropy():
    """v9 shows exp of the cross entropy without label smoothing, however much the loss is smoothed."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 5, 11)).astype(np.float32) * 3
    labels = rng.integers(0, 11, (2, 5))
    labels[1, 3:] = -100
    log_probabilities = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    counted = [log_probabilities[b, s, labels[b, s]] for b in range(2) for s in range(5) if labels[b, s] >= 0]
    objective, inputs = TokenCrossEntropy(label_smoothing=0.3), {"labels": jnp.asarray(labels, jnp.int32)}
    model = lambda inputs, key=None: jnp.asarray(logits)  # noqa: E731
    training = objective.loss(model, inputs, jax.random.key(0), None)
    validation = objective.evaluate(model, inputs)
    for metrics in (training.metrics, validation):
        totals = Totals()
        totals.add(9.0, 8.0, 2, metrics={"cross_entropy": metrics["cross_entropy"]})
        assert totals.perplexity == pytest.approx(np.exp(-np.mean(counted)), rel=1e-5)
    assert float(validation["loss"]) == pytest.approx(float(training.total) / 8)


def test_metrics_that_came_later_weigh_their_own_tokens():
    """An epoch that was begun without a metric, as by an earlier version, and goes on with it."""
    totals = Totals(loss=20.0, tokens=10.0)
    totals = Totals(**totals.to_dict())
    totals.add(3.0, 4.0, 1, metrics={"cross_entropy": 2.0})
    assert totals.perplexity == pytest.approx(np.exp(2.0))
    assert totals.mean_loss == pytest.approx((20 + 12) / 14)
