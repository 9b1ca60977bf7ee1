"""Shapes in annotations are checked as the tests run; a program of a user's pays nothing for them."""

import subprocess
import sys

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from slt_jax.models.multistream import zero_where

FEATURES, MASK_OF_OTHERS = (2, 4, 5), (2, 3)


def test_a_call_that_breaks_its_annotation_is_an_error():
    with pytest.raises(TypeCheckError, match="features"):
        zero_where(jnp.zeros(MASK_OF_OTHERS, bool), jnp.zeros(FEATURES))


def test_users_programs_are_not_checked():
    program = "import sys, slt_jax.decoding.inference; print('beartype' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
