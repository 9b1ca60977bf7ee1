"""`--remat` and `--frame-chunk`: another way through the same training."""

import pytest

from slt_jax.cli.train import main
from tests.cli.conftest import metrics


def test_the_metrics_do_not_depend_on_what_is_kept(corpus, finished, tmp_path):
    assert main(corpus.flags(tmp_path / "run", remat="stream", frame_chunk="3")) == 0
    for ours, theirs in zip(metrics(tmp_path / "run"), metrics(finished), strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize(("flags", "told"), [
    ({"remat": "blocks"}, "did you mean 'block'?"), ({"frame_chunk": "0"}, "training.frame_chunk must be at least 1"),
])  # fmt: skip
def test_mistakes_are_told(corpus, tmp_path, capsys, flags, told):
    assert main(corpus.flags(tmp_path / "run", **flags)) == 2
    assert told in capsys.readouterr().err
