"""Silence libraries at their source: libtpu on a machine without a TPU, writers that end after a save has failed."""

import glob
import logging
import os
import sys
from collections.abc import Callable

# Otherwise libtpu asks a cloud's servers for these, and complains if there are none.
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip


def expect_no_tpu() -> None:
    """Keep libtpu from filling the terminal with what it misses. Call it before libtpu is loaded."""
    for variable, value in ALONE.items():
        os.environ.setdefault(variable, value)


def silence_absent_tpu() -> None:
    """`expect_no_tpu` where JAX has looked for TPU chips and found none. Call it before JAX's first computation."""
    import jax  # noqa: F401  (sets the variable where it finds no chips)

    # A host with chips may have the variable too, from whoever started it.
    if os.environ.get("TPU_SKIP_MDS_QUERY") and not glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"):
        expect_no_tpu()


def silence_late_writers() -> None:
    """Keep asyncio from telling, in pages, of the writes of a save that has failed; the save's own error tells it."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if not isinstance(sys.unraisablehook, _WithoutLateWriters):
        sys.unraisablehook = _WithoutLateWriters(sys.unraisablehook)


class _WithoutLateWriters:
    def __init__(self, usual: Callable[["sys.UnraisableHookArgs"], object]):
        self.usual = usual

    def __call__(self, dropped: "sys.UnraisableHookArgs") -> None:
        if str(dropped.exc_value) != "Event loop is closed":
            self.usual(dropped)
