"""`--device`, in a process of its own: JAX chooses once."""

import os
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT

CODE = """
import sys
from slt_jax.cli.command import choose_device
from slt_jax.errors import UserError
try:
    choose_device(sys.argv[1])
except UserError as error:
    print(error, file=sys.stderr)
import jax
print(jax.config.jax_platforms)
"""


@pytest.mark.parametrize(("device", "variable", "platforms"), [
    ("gpu", "", "cuda,cpu"), ("auto", "cuda", "cuda,cpu"), ("auto", "cpu", "cpu"), ("cpu", "", "cpu"),
])  # fmt: skip
def test_the_cpu_stands_by_where_a_state_is_made(device, variable, platforms):
    environment = os.environ | {"JAX_PLATFORMS": variable, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CODE, device]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, platforms)
    missing = [f"--device {device}: JAX finds no such device; install slt-jax[cuda] or use --device cpu"]
    assert done.stderr.splitlines() == (missing if "cuda" in platforms else [])
