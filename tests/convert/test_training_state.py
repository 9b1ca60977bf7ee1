"""v9's training state here and back: every golden is continued for two steps here, then by torch from our file."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert.checkpoint import blueprint, read_checkpoint
from slt_jax.config import Config, DataConfig, OptimConfig
from slt_jax.decoding.inference import model_inputs
from slt_jax.training.position import Position
from slt_jax.training.program import as_loaded
from slt_jax.training.start import resume_checkpoint
from slt_jax.training.state_store import exporter_of
from slt_jax.training.translation_program import translation_program
from tests.parity.goldens import T5_CASES, Golden, needs_goldens
from tests.parity.torch_twin import golden_twin, tensors

pytestmark = needs_goldens
TOLERANCE = 1e-5
HERE = 2  # steps taken here
SCALER = {"scale": 2048.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 17}


def optimizer_of(golden, parameters) -> torch.optim.Optimizer:
    settings = dict(golden.case["optim"]["opt"])
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[settings.pop("type")](parameters, **settings)


def train(golden, model, optimizer, first: int) -> list[float]:
    """The losses of v9's optimiser steps from number `first` on, at v9's learning rates."""
    data, optim, losses = [tensors(golden.batch(name)) for name in ("b0", "b1")], golden.case["optim"], []
    model.train()
    for i in range(first, golden.case["train_steps"]):
        for group in optimizer.param_groups:
            group["lr"] = float(golden.expected["train_lrs"][i])
        loss = model.loss(data[i % 2], optim["label_smoothing"])
        optimizer.zero_grad()
        loss.backward()
        if optim["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), optim["clip"])
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", [*T5_CASES, "bart"])
def test_torch_continues_what_was_continued_here(name, tmp_path):
    golden = Golden(name)
    checkpoint = read_checkpoint(golden.checkpoint)
    checkpoint.rest["scaler_state"] = SCALER
    plan = blueprint(checkpoint, golden.model)
    structure, entries = plan.structure()
    settings, given = golden.case["optim"]["opt"], golden.case["optim"]
    optim = OptimConfig(
        optimizer=settings["type"],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        momentum=settings.get("momentum", 0.0),
        label_smoothing=given["label_smoothing"],
        grad_clip_norm=given["clip"],
    )
    config = Config(DataConfig(precision="float32"), plan.config, optim)
    program = translation_program(config, plan, structure, prepare=as_loaded)
    state, position = resume_checkpoint(checkpoint, program, entries, 2)
    program = program.suited_to(state)
    assert (position.epoch, position.best_val) == (1, checkpoint.rest["best_val"])

    losses = []
    for i in range(HERE):
        lr = jnp.float32(golden.expected["train_lrs"][i])
        state, results = program.step(state, [model_inputs(golden.batch(f"b{i % 2}"))], lr)
        losses.append(float(results["loss"][0]))
    exporter = exporter_of(config, plan, entries)
    exporter.write(tmp_path / "last.pt", state, Position(epoch=1, best_val=1.25), lr=lr.item(), val_loss=1.5)

    # Back in torch, by its safe loading and strictly, as v9 does it.
    ours = torch.load(tmp_path / "last.pt", weights_only=True)
    model = golden_twin(golden)
    assert list(ours["model_state"]) == list(torch.load(golden.checkpoint)["model_state"])
    model.load_state_dict(ours["model_state"])
    optimizer = optimizer_of(golden, model.parameters())
    optimizer.load_state_dict(ours["optimizer_state"])
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict(ours["scaler_state"])
    assert scaler.state_dict() == SCALER
    losses += train(golden, model, optimizer, HERE)
    np.testing.assert_allclose(losses, golden.expected["train_losses"], rtol=TOLERANCE)
    assert len(losses) == 6


@pytest.mark.parametrize("name", ["t5_identity", "bart"])
def test_the_torch_model_of_these_tests_is_v9s(name):
    golden = Golden(name)
    saved = torch.load(golden.checkpoint)
    model = golden_twin(golden)
    model.load_state_dict(saved["model_state"])
    optimizer = optimizer_of(golden, model.parameters())
    optimizer.load_state_dict(saved["optimizer_state"])
    np.testing.assert_allclose(train(golden, model, optimizer, 0), golden.expected["train_losses"], rtol=TOLERANCE)
