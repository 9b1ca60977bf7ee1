"""Bars over large files end where the file does: what is counted adds up to what was announced."""

from contextlib import contextmanager

import pytest

from convert import commands, write_pt
from convert.source import open_source
from tests.convert.models import settings, tiny


@pytest.mark.parametrize("command", ["to_torch", "to_jax"])
def test_a_bar_counts_every_byte_once(command, tmp_path, monkeypatch):
    _, state = tiny(vocab_size=3000)
    assert any(key.endswith("lm_head.weight") for key in state)  # tied: in the file once, under four names
    write_pt(tmp_path / "v9.pt", {"epoch": 0, "model_state": state, "config": {"model": settings(vocab_size=3000)}})
    announced, counted = [], []

    @contextmanager
    def bar(title, total):
        announced.append(total)
        yield counted.append

    monkeypatch.setattr(commands, "bar", bar)
    source = open_source(tmp_path / "v9.pt")
    options = {"prefix": ""} if command == "to_torch" else {"model": None}
    getattr(commands, command)(source, tmp_path / "out", dtype=None, weights_only=True, **options)
    assert len(announced) == 1
    # A .pt holds a few hundred bytes besides the arrays: its pickle.
    assert announced[0] == pytest.approx(sum(counted), rel=0.2 if command == "to_torch" else 0)
