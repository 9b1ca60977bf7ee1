"""The platform that a program is traced for. A CPU takes some products in another order than JAX puts them."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp

_PLANNED: ContextVar[str | None] = ContextVar("planned", default=None)


def on_cpu() -> bool:
    """Whether what is traced now will run on a CPU."""
    return (_PLANNED.get() or jax.default_backend()) == "cpu"


def factors_on_cpu(dtype) -> jnp.dtype:
    """The dtype in which a CPU multiplies numbers of `dtype` fastest. It sums in float32, or in float64.

    bfloat16 has instructions on some CPUs (AVX512-BF16, AMX); without them, XLA's products of bfloat16 are slower than
    those of float32.
    """
    if dtype == jnp.bfloat16 and multiplies_bfloat16():
        return jnp.dtype(jnp.bfloat16)
    return jnp.promote_types(dtype, jnp.float32)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            features = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:  # no Linux
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(features)


@contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Within it, programs are traced as on `platform`, such as `tpu`, which need not be here."""
    before = _PLANNED.set(platform)
    try:
        yield
    finally:
        _PLANNED.reset(before)
