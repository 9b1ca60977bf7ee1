"""DINO (Caron et al., 2021), iBOT (Zhou et al., 2022), Sinkhorn-Knopp and KoLeo, as in DINOv2 (Oquab et al., 2023).

All in float32. Shapes: n crops, v views, k prototypes.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from slt_jax.pretraining.heads import unit

SINKHORN_ITERATIONS = 3


def dino_loss(
    teacher: Float[Array, "n 2 k"], student_global: Float[Array, "n 2 k"], student_local: Float[Array, "n v k"]
) -> Float[Array, " n"]:
    """The cross entropy between the teacher's probabilities of each global view and the student's of every other view.

    `teacher` holds probabilities, the student's are log probabilities. The mean over all pairs of two views.
    """
    across = -jnp.sum(teacher[:, ::-1] * student_global, axis=(1, 2))
    local = -jnp.einsum("nk,nvk->n", teacher.sum(axis=1), student_local)
    return (across + local) / (2 + 2 * student_local.shape[1])


def patch_loss(
    teacher: Float[Array, "n v m k"], student: Float[Array, "n v m k"], valid: Float[Array, "n v m"]
) -> Float[Array, " n"]:
    """The cross entropy at the masked patches: the mean over those of a view, then over the views.

    `teacher` holds probabilities, `student` log probabilities; `valid` is 1 for a masked patch, 0 for filling.
    """
    entropy = -jnp.sum(teacher * student, axis=-1)
    view = jnp.sum(entropy * valid, axis=-1) / jnp.maximum(valid.sum(axis=-1), 1)
    return view.mean(axis=1)


def koleo_loss(features: Float[Array, "n d"]) -> Float[Array, ""]:
    """The Kozachenko-Leonenko estimate of how evenly a batch fills the sphere (Sablayrolles et al., 2019).

    Minus the mean log distance of each unit vector to its nearest neighbour in the batch.
    """
    x = unit(features.astype(jnp.float32))
    with_itself = jnp.eye(len(x), dtype=bool)
    cosines = jnp.where(with_itself, -jnp.inf, jax.lax.stop_gradient(jnp.einsum("id,jd->ij", x, x)))
    difference = x - x[jnp.argmax(cosines, axis=1)] + 1e-8
    distance = jnp.sqrt(jnp.sum(jnp.square(difference), axis=-1))
    return -jnp.mean(jnp.log(distance + 1e-8))


def centred(logits: Float[Array, "*rows k"], center: Float[Array, " k"], temperature: Array) -> Float[Array, "*rows k"]:
    """The teacher's probabilities: a softmax of what its outputs have beyond their moving mean."""
    return jax.nn.softmax((logits - center) / temperature, axis=-1)


def sinkhorn_knopp(
    logits: Float[Array, "*rows k"], temperature: Array, valid: Float[Array, "*rows"] | None = None
) -> Float[Array, "*rows k"]:
    """The teacher's probabilities such that all prototypes are used alike (Caron et al., 2020; Cuturi, 2013).

    Rows that are not `valid` count for nothing and get zeros.
    """
    weights = jnp.ones(logits.shape[:-1]) if valid is None else valid
    rows = tuple(range(logits.ndim - 1))
    q = jnp.exp((logits - logits.max()) / temperature) * weights[..., None]
    for _ in range(SINKHORN_ITERATIONS):
        q = q / jnp.maximum(q.sum(axis=rows, keepdims=True), 1e-30) / q.shape[-1]
        q = q / jnp.maximum(q.sum(axis=-1, keepdims=True), 1e-30) / jnp.maximum(weights.sum(), 1)
    return q * jnp.maximum(weights.sum(), 1)


def entropy(probabilities: Float[Array, "*rows k"]) -> Float[Array, "*rows"]:
    """In nats."""
    return -jnp.sum(jax.scipy.special.xlogy(probabilities, probabilities), axis=-1)
