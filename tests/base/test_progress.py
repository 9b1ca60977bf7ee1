"""What a progress line tells of a pass, and metrics.jsonl after it."""

from slt_jax.base import console


def test_what_comes_after_a_pass_does_not_count(monkeypatch):
    """As an epoch's validation, which is no part of its clips a second."""
    now = [1.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Progress("epoch 1/1", 2) as progress:
        now[0] = 4.0
        progress.update(12)
    now[0] = 60.0
    assert (progress.seconds, progress.rate) == (3.0, 4.0)
