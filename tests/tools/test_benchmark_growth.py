"""How time and memory grow, of a tiny model; what grew too fast would be seen in the brackets."""

import pytest
from PIL import Image

from tests.tools.test_benchmark import TINY, benchmark
from tools.benchmarks.growth import as_text


@pytest.mark.slow
def test_growth(tmp_path, capsys):
    picture = tmp_path / "growth.png"
    flags = [*TINY, "--over", "states", "--largest", "4", "--rounds", "1", "--picture", str(picture)]
    rows = benchmark("growth", tmp_path, *flags)["results"]["states"]
    assert rows.keys() == {"2", "4"}
    assert rows["4"]["mib"] > rows["2"]["mib"] > 0
    assert min(rows["2"]["save"], rows["2"]["resume"]) > 0
    assert "against layers" in capsys.readouterr().out
    with Image.open(picture) as drawn:
        assert len(set(drawn.convert("L").resize((64, 64)).tobytes())) > 8


@pytest.mark.slow
def test_evaluation_against_clips(tmp_path):
    flags = [*TINY, "--over", "evaluation", "--largest", "250", "--rounds", "1"]
    rows = benchmark("growth", tmp_path, *flags)["results"]["evaluation"]
    assert rows.keys() == {"250"}
    assert min(rows["250"].values()) > 0


def test_growth_is_told_by_doublings():
    rows = {10: {"step": 0.01, "mib": 5}, 40: {"step": 0.04, "mib": 80}}
    assert as_text(rows, 10) == "step 10.0 ms, 5 MiB"
    assert as_text(rows, 40) == "step 40.0 ms (2.00), 80 MiB (4.00)"
