"""The platform that a program is traced for. A CPU takes some products in another order than JAX puts them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_PLANNED: ContextVar[str | None] = ContextVar("planned", default=None)


def on_cpu() -> bool:
    """Whether what is traced now will run on a CPU."""
    return (_PLANNED.get() or jax.default_backend()) == "cpu"


@contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Within it, programs are traced as on `platform`, such as `tpu`, which need not be here."""
    before = _PLANNED.set(platform)
    try:
        yield
    finally:
        _PLANNED.reset(before)
