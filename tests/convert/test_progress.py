"""Progress over large files ends where the file does: what is counted adds up to what was announced."""

import pytest

from convert import write_pt
from convert.source import open_source
from convert.target import to_torch
from slt_jax.training.interchange import to_states
from tests.convert.models import settings, tiny


@pytest.mark.parametrize("write", [to_torch, to_states])
def test_progress_counts_every_byte_once(write, tmp_path):
    _, state = tiny(vocab_size=3000)
    assert any(key.endswith("lm_head.weight") for key in state)  # tied: in the file once, under four names
    write_pt(tmp_path / "v9.pt", {"epoch": 0, "model_state": state, "config": {"model": settings(vocab_size=3000)}})
    seen = []
    source = open_source(tmp_path / "v9.pt")
    write(source, tmp_path / "out", weights_only=True, progress=lambda done, total: seen.append((done, total)))
    done, total = zip(*seen, strict=True)
    assert len(set(total)) == 1
    assert list(done) == sorted(set(done))
    # A .pt holds a few hundred bytes besides the arrays: its pickle.
    assert total[0] == pytest.approx(done[-1], rel=0.2 if write is to_torch else 0)
