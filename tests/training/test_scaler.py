"""Loss scaling for float16: torch's GradScaler's rule and state, and what a step that overflows leaves alone."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from slt_jax.config import OptimConfig, TrainingConfig
from slt_jax.models.params import split_model
from slt_jax.training import scaler
from slt_jax.training.ledger import MOST_SKIPPED, Ledger, TrainingStopped
from slt_jax.training.metrics import Totals
from slt_jax.training.program import Program, make_program
from slt_jax.training.state import TrainState
from slt_jax.training.translation_loss import TokenCrossEntropy


class Logits(nnx.Module):
    """The smallest model a training step takes: logits from one table, in float16."""

    def __init__(self):
        self.table = nnx.Param(jnp.linspace(-1, 1, 12, dtype=jnp.float32).reshape(4, 3))

    def __call__(self, batch, *, key=None):
        return (batch["x"].astype(jnp.float16) @ self.table[...].astype(jnp.float16)).astype(jnp.float32)


def batch(size: float = 1.0):
    return {"x": jnp.full((1, 2, 4), size, jnp.float32), "labels": jnp.array([[0, 2]])}


def program(precision: str) -> Program:
    def build(**_) -> nnx.Module:
        return Logits()

    optim = OptimConfig(grad_clip_norm=1.0)
    return make_program(build, TokenCrossEntropy(0.1), optim=optim, training=TrainingConfig(), precision=precision)


@pytest.fixture(scope="module")
def scaled() -> Program:
    return program("fp16")


def new_state(**changes) -> TrainState:
    state = program("fp16").new_state(split_model(Logits())[1])
    return jax.tree.map(jnp.asarray, state.replace(scaler=scaler.scaler_state(changes)))


@pytest.mark.parametrize("interval", [1, 2, 3, 2000])
def test_the_rule_is_torchs(interval):
    finite = np.random.default_rng(interval).random(200) > 0.3
    reference = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=interval)
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], 0.0)
    state = scaler.scaler_state({"scale": 2.0**120, "growth_interval": interval})
    rule = jax.jit(scaler.update)
    for good in finite:
        reference.scale(torch.ones(1))
        parameter.grad = torch.ones(1) if good else torch.full((1,), math.inf)
        reference.step(optimizer)
        reference.update()
        state = rule(state, jnp.asarray(good))
        assert scaler.to_torch(state) == reference.state_dict()


def test_the_scale_never_grows_to_infinity():
    reference = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1)
    reference.scale(torch.ones(1))
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.zeros(1)
    reference.step(torch.optim.SGD([parameter], 0.0))
    reference.update()
    state = jax.tree.map(jnp.asarray, scaler.scaler_state({"scale": 2.0**127, "growth_interval": 1}))
    state = scaler.update(state, jnp.asarray(True))
    assert scaler.to_torch(state) == reference.state_dict()


def test_the_state_travels():
    saved = {"scale": 1024.0, "growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 7, "_growth_tracker": 5}
    assert scaler.to_torch(scaler.scaler_state(saved)) == saved
    assert scaler.to_torch(scaler.scaler_state({})) == torch.amp.GradScaler("cpu").state_dict()
    torch.amp.GradScaler("cpu").load_state_dict(scaler.to_torch(scaler.scaler_state(saved)))


def test_a_step_is_that_of_unscaled_gradients(scaled):
    unscaled, expected = program("float32").step(new_state(), [batch()], jnp.float32(0.1))
    state, results = scaled.step(new_state(scale=1024.0), [batch()], jnp.float32(0.1))
    assert results["loss"][0] == pytest.approx(float(expected["loss"][0]), rel=1e-6)
    assert results["grad_norm"] == pytest.approx(float(expected["grad_norm"]), rel=1e-2)
    np.testing.assert_allclose(state.trained["table"], unscaled.trained["table"], rtol=1e-3, atol=1e-4)
    assert state.scaler["_growth_tracker"] == 1


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_step_that_overflows_changes_only_the_scale(scaled, micro_batches):
    before = jax.device_get(new_state(scale=2.0**20, _growth_tracker=3))
    state, results = scaled.step(
        new_state(scale=2.0**20, _growth_tracker=3), [batch(100.0)] * micro_batches, jnp.float32(0.1)
    )
    state = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, state.trained, before.trained)
    jax.tree.map(np.testing.assert_array_equal, state.optimizer, before.optimizer)
    assert state.scaler["scale"] == results["scale"] == 2.0**19
    assert state.scaler["_growth_tracker"] == 0
    assert state.step == 1
    assert math.isfinite(results["loss"][0])
    assert not math.isfinite(results["grad_norm"])


def settle(ledger: Ledger, loss: float, norm: float, scale: float) -> None:
    clip = SimpleNamespace(arrays={}, names=["clip"], count=1)
    ledger.add(1, {"loss": [loss], "weight": [2.0], "metrics": [{}], "grad_norm": norm, "scale": scale}, [clip])
    ledger.settle()


def test_steps_left_out_do_not_stop_a_run():
    ledger = Ledger(Totals(), scaled=True)
    for scale in (2.0**16, 2.0**15):
        settle(ledger, 1.0, math.inf, scale)
        settle(ledger, math.nan, math.nan, scale)
    assert (ledger.skipped, ledger.totals.loss, ledger.totals.tokens) == (4, 4.0, 4.0)
    settle(ledger, 1.0, 2.0, 2.0**14)
    assert ledger.skipped == 0


def test_a_loss_that_is_no_number_at_the_smallest_scale_stops_a_run():
    ledger = Ledger(Totals(), scaled=True)
    settle(ledger, 1.0, math.inf, 1.0)
    with pytest.raises(TrainingStopped, match="the loss is nan at step 1"):
        settle(ledger, math.nan, math.nan, 1.0)


def test_too_many_steps_left_out_in_a_row_stop_a_run():
    ledger = Ledger(Totals(), scaled=True)
    for _ in range(MOST_SKIPPED - 1):
        settle(ledger, 1.0, math.inf, 2.0)
    with pytest.raises(TrainingStopped, match="gradient norm is inf"):
        settle(ledger, 1.0, math.inf, 2.0)


def test_without_scaling_the_first_overflow_stops_a_run():
    with pytest.raises(TrainingStopped, match="gradient norm"):
        settle(Ledger(Totals()), 1.0, math.inf, 1.0)
