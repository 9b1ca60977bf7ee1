"""The commands of the memory guide are ones that the programs take; tests/cli runs their like on small models."""

import shlex

import pytest

from slt_jax.cli import flags, plan, train
from tests.docs.test_guides import ROOT, commands

LINES = [line for block in commands("memory.md") for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_guide_is_understood(line, tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(line, comments=True)
    config, _ = flags.configure({"slt-plan": plan.parse, "slt-train": train.parse}[program](arguments))
    assert config.model.sequence_length


def test_the_guide_has_both_commands():
    assert {line.split()[0] for line in LINES} == {"slt-plan", "slt-train"}
