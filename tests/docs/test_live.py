"""The live guide's Python runs, in both languages; its commands are ones that the benchmark takes."""

import argparse
import re
import shlex

import pytest

from slt_jax.cli import serve
from slt_jax.decoding.results import Segment
from slt_jax.decoding.stream import Update
from slt_jax.synthetic.generator import generate
from tests.decoding.live import save
from tests.docs.test_guides import ROOT, commands
from tools.benchmarks import live


@pytest.mark.parametrize("guide", ["live.md", "es/live.md"])
def test_the_example_runs(guide, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generate(tmp_path / "runs/demo/data", num_train=0, num_val=0, num_test=1, level="small", image_size=28, workers=0,
             progress=False)  # fmt: skip
    save(tmp_path / "runs/demo/run", sequence_length=16)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / guide).read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 13
    assert lines[-1].startswith("0.0 ")


@pytest.mark.parametrize("guide", ["live.md", "es/live.md"])
def test_the_commands_are_understood(guide):
    top = argparse.ArgumentParser()
    top.add_argument("--json")
    live.add_flags(top)
    lines = [line for block in commands(guide) for line in block.replace("\\\n", " ").splitlines()]
    measured = [shlex.split(line)[3:] for line in lines if "tools/benchmark.py live " in line]
    assert measured
    for arguments in measured:
        top.parse_args(arguments)


@pytest.mark.parametrize("guide", ["live.md", "es/live.md"])
def test_the_services_commands_are_understood(guide):
    lines = [shlex.split(line) for block in commands(guide) for line in block.splitlines() if "slt-serve" in line]
    assert len(lines) == 2
    for program, *arguments in lines:
        assert program == "slt-serve"
        assert serve.parse(arguments).checkpoint == "runs/mine"


def test_the_log_counts_what_is_taken_back():
    log = live.Log()
    for update in (
        Update("", "la casa", (), 1.0), Update("la", "cosa roja", (), 2.0), Update("la", "cosa", (), 3.0),
        Update("", "", (Segment(0.0, 4.0, "la cosa azul"),), 4.0),
    ):  # fmt: skip
        log.add(update)
    assert (log.words, log.delays) == (["la", "cosa", "azul"], [2.0, 4.0, 4.0])
    assert log.erased == 2  # casa, roja
    with pytest.raises(ValueError, match="was settled"):
        [log.add(Update(text, "", (), 5.0)) for text in ("no", "sí")]
