"""What each `--precision` means."""

import jax
import jax.numpy as jnp


def compute_dtype(precision: str):
    """The dtype of matrix products."""
    return {"amp": jnp.bfloat16, "fp16": jnp.float16}.get(precision, jnp.float32)


def use_precision(precision: str) -> None:
    """From now on, float32 is real float32, without TF32, if `precision` computes in it."""
    float32 = compute_dtype(precision) == jnp.float32
    jax.config.update("jax_default_matmul_precision", "highest" if float32 else None)
