"""Distillation (Hinton et al., 2015): a student learns what a trained model expects of each token."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from slt_jax.data.text import IGNORE
from slt_jax.models.flops import TEACHER
from slt_jax.models.params import Structure
from slt_jax.training.objective import Inputs

DISTILLATION = "distillation"


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained translator that stands still: the model, and its arrays by path as the state keeps them at first."""

    structure: Structure
    params: Mapping[str, np.ndarray]

    def logits(self, params: Mapping[str, Array], inputs: Inputs) -> Float[Array, "b s vocab"]:
        """What it expects of each label token, teacher forced and without dropout. No gradient comes back."""
        with jax.named_scope(TEACHER):
            return jax.lax.stop_gradient(self.structure.merge(params)(inputs))


def distillation_loss(
    student: Float[Array, "b s vocab"],
    teacher: Float[Array, "b s vocab"],
    labels: Int[Array, "b s"],
    label_smoothing: float,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """The sum over label tokens of KL(q || student), and their number. Both are logits; -100 in `labels` = ignore.

    q is the teacher's distribution, smoothed as torch's cross entropy smooths probabilities: (1 - e) p + e / vocab.
    """
    expected = jax.nn.softmax(teacher.astype(jnp.float32), axis=-1)
    expected = (1 - label_smoothing) * expected + label_smoothing / teacher.shape[-1]
    log_expected = jnp.log(jnp.maximum(expected, jnp.finfo(jnp.float32).tiny))
    log_student = jax.nn.log_softmax(student.astype(jnp.float32), axis=-1)
    divergence = (expected * (log_expected - log_student)).sum(-1)
    counted = labels != IGNORE
    return jnp.where(counted, divergence, 0).sum(), counted.sum()
