"""The commands of docs/export.md run as they stand, on a tiny model."""

import re
import shlex
import sys
from pathlib import Path

import jax
import pytest

from convert import write_pt
from slt_jax.cli.export import main
from slt_jax.data.text import train_tokenizer
from slt_jax.synthetic.generator import generate
from tests.convert.models import settings, tiny
from tests.export.test_translate import STEPS, tool  # noqa: F401  (a fixture)

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


@pytest.mark.slow
def test_every_command_runs(tmp_path, monkeypatch, capsys, tool):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    generate(
        "corpus", num_train=1, num_val=0, num_test=0, seed=3, level="small", image_size=28, workers=0, progress=False
    )
    train_tokenizer(["hola mundo"], "run/tokenizer")
    _, state = tiny(**STEPS)
    config = {"data": {"v9_hand_masks": False}, "model": settings(**STEPS)}
    write_pt("run/best.pt", {"epoch": 1, "model_state": state, "config": config})
    lines = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 6
    for program, *arguments in lines:
        if program == "python":
            assert arguments.pop(0) == "tools/translate_onnx.py"
        run = main if program == "slt-export" else tool.main
        assert run(arguments) == 0, (arguments, capsys.readouterr())
    assert {path.name for path in (tmp_path / "artefacts").iterdir()} == set(
        re.findall(r"`((?:en|de)coder\w*_v1[\w.]+)`", GUIDE.split("##")[0])
    )
    names: dict = {}
    exec(blocks("python")[0], names)
    assert names["jax"] is jax
    assert callable(names["encode"])


@pytest.mark.parametrize("flag", re.findall(r'add_argument\("(--[a-z-]+)"', Path(sys.modules[main.__module__].__file__)
                                            .read_text(encoding="utf-8")))  # fmt: skip
def test_every_option_is_explained(flag):
    assert f"{flag}" in GUIDE or flag == "--torchscript"
