"""Silence libtpu on a machine without a TPU, where it is installed for `slt-plan` or with JAX by habit."""

import os

# Otherwise libtpu asks a cloud's servers for these, and complains if there are none.
ALONE = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip


def expect_no_tpu() -> None:
    """Keep libtpu from filling the terminal with what it misses. Call it before libtpu is loaded."""
    for variable, value in ALONE.items():
        os.environ.setdefault(variable, value)
