"""The commands of the guide to many devices run as they stand: eight devices, and two processes."""

import json
import os
import subprocess
import sys

import pytest

from slt_jax.synthetic.generator import generate
from tests.docs.configurations import make_smaller
from tests.docs.test_guides import commands


@pytest.mark.slow
def test_the_parallel_guide_runs(tmp_path):
    make_smaller(tmp_path, decoder_layers=1, streams=["hand-left", "pose"])
    command = tmp_path / "bin" / "slt-train"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m slt_jax.cli.train "$@"\n')
    command.chmod(0o755)
    generate(tmp_path / "corpus", num_train=8, num_val=2, num_test=0, seed=1, level="small", image_size=56, workers=0,
             progress=False)  # fmt: skip
    for block, devices in zip(commands("parallel.md"), (8, 1), strict=True):
        environment = os.environ | {
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        }
        done = subprocess.run(["bash", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    losses = [
        [json.loads(line)["val_loss"] for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("split", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # Adam makes more of a rounding than SGD
