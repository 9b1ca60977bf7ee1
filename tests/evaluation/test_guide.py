"""The commands of docs/evaluation.md run as they stand."""

import json
import re
import shlex
from pathlib import Path

import pytest

from convert import read_pt, write_pt
from slt_jax.cli.evaluate import main
from tests.evaluation.conftest import write_run

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = (["slt-eval"], ["python", "tools/eval_slt_multistream_v9.py"])


def commands() -> list[list[str]]:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
def test_guide(corpus, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus").symlink_to(corpus)
    (tmp_path / "run").symlink_to(run)
    write_run(tmp_path / "other", corpus, seed=1)
    write_pt(tmp_path / "bare.pt", read_pt(run / "best.pt")["model_state"])
    monkeypatch.chdir(tmp_path)
    written = set()
    for command in commands():
        program = next(program for program in PROGRAMS if command[: len(program)] == program)
        assert main(command[len(program) :]) == 0, capsys.readouterr().err
        written |= {path.name for path in (tmp_path / "results").iterdir()}
    assert written == {
        "test.csv", "two__run_best.csv", "two__other_best.csv", "short.csv", "bare.csv", "report.json", "report.csv",
        "report.html",
    }  # fmt: skip
    report = json.loads((tmp_path / "results" / "report.json").read_text(encoding="utf-8"))
    assert report["checkpoints"][0]["label"] == "bare"
