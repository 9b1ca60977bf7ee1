"""Each loss and its gradient against the formula of its paper, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt_jax.pretraining.losses import centred, dino_loss, entropy, koleo_loss, patch_loss, sinkhorn_knopp

TOLERANCE = 1e-5
N, V, K, M, D = 5, 3, 17, 4, 12


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def check(ours, formula, x: np.ndarray) -> None:
    """A scalar function of `x` and its gradient, along random directions, against the formula's in float64."""
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(x, jnp.float32))
    assert value == pytest.approx(formula(x), rel=TOLERANCE)
    for seed in range(3):
        direction = drawn(*x.shape, seed=100 + seed)
        slope = (formula(x + 1e-6 * direction) - formula(x - 1e-6 * direction)) / 2e-6
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert np.sum(np.asarray(gradient, np.float64) * direction) == pytest.approx(slope, abs=TOLERANCE * scale)


def dino_formula(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    """Equation 3 of Caron et al.: the sum of H(P_t(x), P_s(x')) over pairs of different views, here its mean."""
    crops, views, _ = student.shape
    terms = [
        -np.sum(teacher[n, i] * np.log(softmax(student[n, j] / temperature)))
        for n in range(crops)
        for i in range(2)
        for j in range(views)
        if i != j
    ]
    return float(np.mean(terms))


@pytest.mark.parametrize("views", [0, 3])
def test_dino(views):
    teacher = softmax(drawn(N, 2, K) / 0.1)

    def ours(student):
        logs = jax.nn.log_softmax(student / 0.1)
        return dino_loss(jnp.asarray(teacher, jnp.float32), logs[:, :2], logs[:, 2:]).mean()

    check(ours, lambda x: dino_formula(teacher, x, 0.1), drawn(N, 2 + views, K, seed=1))


def test_patches():
    teacher = softmax(drawn(N, 2, M, K) / 0.1)
    valid = np.zeros((N, 2, M))
    for view, count in enumerate([0, 1, 2, 3, 4, 4, 1, 0, 2, 3]):
        valid[view // 2, view % 2, :count] = 1

    def formula(student):
        entropy = -np.sum(teacher * np.log(softmax(student / 0.1)), axis=-1)
        views = [entropy[n, v][valid[n, v] == 1] for n in range(N) for v in range(2)]
        return float(np.mean([view.mean() if len(view) else 0.0 for view in views]))

    def ours(student):
        return patch_loss(
            jnp.asarray(teacher, jnp.float32), jax.nn.log_softmax(student / 0.1), jnp.asarray(valid)
        ).mean()

    check(ours, formula, drawn(N, 2, M, K, seed=1))


def test_koleo():
    """Equation 3 of Sablayrolles et al.: -1/n sum log min_j |x_i - x_j|, of unit vectors."""

    def formula(x):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        distances = [[np.linalg.norm(a - b) for j, b in enumerate(x) if j != i] for i, a in enumerate(x)]
        return -float(np.mean([np.log(min(row)) for row in distances]))

    check(koleo_loss, formula, drawn(24, D))


def test_centring():
    logits, center = drawn(N, 2, K), drawn(K, seed=2)
    found = centred(jnp.asarray(logits, jnp.float32), jnp.asarray(center, jnp.float32), jnp.float32(0.04))
    np.testing.assert_allclose(found, softmax((logits - center) / 0.04), rtol=5e-5, atol=1e-6)


def test_sinkhorn_uses_all_prototypes_alike():
    logits, valid = drawn(40, K) / 10, np.arange(40) < 33

    def formula(x, iterations):
        q = np.exp(x / 0.05)
        for _ in range(iterations):
            q = q / q.sum(axis=0) / K
            q = q / q.sum(axis=1, keepdims=True) / len(q)
        return q * len(q)

    found = np.asarray(
        sinkhorn_knopp(jnp.asarray(logits, jnp.float32), jnp.float32(0.05), jnp.asarray(valid, jnp.float32))
    )
    np.testing.assert_allclose(found[valid], formula(logits[valid], 3), rtol=2e-5, atol=1e-7)
    assert (found[~valid] == 0).all()
    assert np.abs(found[valid].sum(axis=0) / (33 / K) - 1).max() < 0.2  # far from alike without it
    assert np.abs(softmax(logits[valid] / 0.05).sum(axis=0) / (33 / K) - 1).max() > 0.5


def test_entropy():
    p = softmax(drawn(N, K) * 5)
    np.testing.assert_allclose(entropy(jnp.asarray(p, jnp.float32)), -(p * np.log(p)).sum(axis=-1), rtol=TOLERANCE)
    assert entropy(jnp.array([0.0, 1.0])) == 0
