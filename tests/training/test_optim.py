"""One optimiser for many parameters, some of which torch never updated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from slt_jax.training.optim import Optimizer
from slt_jax.training.state import OptState

LR = 0.05
OPTIMIZERS = {
    "adamw": (Optimizer("adamw", 0.1), lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.1)),
    "sgd": (Optimizer("sgd", 0.1, 0.9), lambda p: torch.optim.SGD(p, lr=LR, weight_decay=0.1, momentum=0.9)),
}


@pytest.mark.parametrize("late", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_parameter_counts_its_own_updates(name, late):
    """`b` has its first gradient `late` steps after `a`; where both began together they share one count."""
    rng = np.random.default_rng(0)
    weights = {path: rng.standard_normal((3, 4), np.float32) for path in "ab"}
    gradients = rng.standard_normal((6, 2, 3, 4), np.float32)
    optimizer, theirs = OPTIMIZERS[name]
    there = {path: torch.tensor(array, requires_grad=True) for path, array in weights.items()}
    torch_optimizer = theirs(there.values())
    here, state = jax.tree.map(jnp.asarray, weights), optimizer.init(weights)

    for count, gradient in enumerate(gradients):
        given = dict(zip("ab", gradient, strict=True))
        there["a"].grad = torch.tensor(given["a"])
        there["b"].grad = torch.tensor(given["b"]) if count >= late else None
        torch_optimizer.step()
        before = here["b"], {slot: state.slots[slot]["b"] for slot in optimizer.slots}
        suited = optimizer.suited_to(state)
        assert suited.one_count is (late == 0 or count == 0)
        here, state = jax.jit(suited.update)(here, given, state, jnp.float32(LR))
        if count < late:
            here["b"] = before[0]
            slots = {slot: {**state.slots[slot], "b": array} for slot, array in before[1].items()}
            state = OptState(slots, state.step.at[1].set(0))

    for path, array in there.items():
        np.testing.assert_allclose(here[path], array.detach().numpy(), rtol=1e-5, atol=1e-6)
