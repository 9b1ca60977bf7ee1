"""`--precision fp16` as a whole; the rule of its loss scale is tested in tests/training/test_scaler.py."""

import math

import pytest
import torch

from slt_jax.cli.train import main
from tests.cli.conftest import metrics


@pytest.mark.slow
def test_a_run_in_float16_leaves_out_what_overflows(corpus, tmp_path):
    flags = corpus.flags(tmp_path / "run", precision="fp16", epochs=1, grad_accum_steps=1)
    assert main(flags) == 0
    checkpoint = torch.load(tmp_path / "run" / "last.pt")
    scaler = checkpoint["scaler_state"]
    skipped = math.log2(65536 / scaler["scale"])
    assert skipped in (0, 1, 2, 3)
    # The steps that were left out are in no parameter's count.
    counts = {int(slots["step"]) for slots in checkpoint["optimizer_state"]["state"].values()}
    assert counts == {6 - skipped}
    assert math.isfinite(metrics(tmp_path / "run")[0]["train_loss"])
