"""Schedules by step: the same on the host in float64 and inside a step in float32."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt_jax.training.schedules import Cosine, Linear


def test_cosine_with_warmup():
    schedule = Cosine(2.0, 0.5, steps=110, warmup=10, before=1.0)
    for step in range(130):
        done = min(max(step - 10, 0) / 100, 1)
        expected = 1 + step / 10 if step < 10 else 0.5 + 1.5 * (1 + math.cos(math.pi * done)) / 2
        assert schedule(step) == pytest.approx(expected, rel=1e-12)
        assert float(jax.jit(schedule)(jnp.int32(step))) == pytest.approx(expected, rel=1e-6)


def test_linear():
    schedule = Linear(0.04, 0.07, steps=30)
    np.testing.assert_allclose([schedule(step) for step in (0, 15, 30, 99)], [0.04, 0.055, 0.07, 0.07], rtol=1e-12)
    assert Linear(0.04, 0.07, steps=0)(5) == 0.07
