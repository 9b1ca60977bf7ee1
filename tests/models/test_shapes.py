"""Shapes in annotations are checked as the tests run; a program of a user's pays nothing for them."""

import subprocess
import sys

import jax.numpy as jnp
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from slt_jax.decoding.generate import generate_tokens
from slt_jax.decoding.search import Search
from slt_jax.models.multistream import zero_where

FEATURES, MASK_OF_OTHERS = (2, 4, 5), (2, 3)


def test_a_call_that_breaks_its_annotation_is_an_error():
    with pytest.raises(TypeCheckError, match="features"):
        zero_where(jnp.zeros(MASK_OF_OTHERS, bool), jnp.zeros(FEATURES))


def test_masks_of_other_clips_are_an_error_in_a_search():
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    with pytest.raises(TypeCheckError, match="encoder_mask"):
        generate_tokens(model, jnp.zeros(FEATURES), jnp.ones(MASK_OF_OTHERS, bool), Search())


def test_users_programs_are_not_checked():
    program = "import sys, slt_jax.decoding.inference; print('beartype' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
