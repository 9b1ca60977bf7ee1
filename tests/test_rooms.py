"""Imports run one way: the contracts in pyproject.toml hold for the code, and break where they should."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def copy(tmp_path):
    for package in ("slt_jax", "convert"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    result = subprocess.run(
        [*command, "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout


SMUGGLED = {
    "upward": ("slt_jax/models/vit.py", "from slt_jax.data import text\n", "slt_jax.models.vit -> slt_jax.data.text"),
    "lazily": (
        "convert/infer.py",
        "def late():\n    from slt_jax.training import optim\n    return optim\n",
        "convert.infer -> slt_jax.training.optim",
    ),
    "for types": (
        "slt_jax/base/files.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from slt_jax.config import Config\n",
        "slt_jax.base.files -> slt_jax.config",
    ),
    "between neighbours": (
        "slt_jax/serve/translate_video.py",
        "from slt_jax.evaluation import report\n",
        "slt_jax.serve.translate_video -> slt_jax.evaluation.report",
    ),
    "in a circle": ("slt_jax/models/layers.py", "from slt_jax.models import t5\n", ".layers -> .t5"),
    "of the face": ("slt_jax/data/text.py", "from slt_jax import load\n", "slt_jax.data.text -> slt_jax"),
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_an_import_against_the_direction_is_named(how, copy):
    file, code, named = SMUGGLED[how]
    with (copy / file).open("a", encoding="utf-8") as text:
        text.write(code)
    returncode, said = lint(copy)
    assert returncode == 1
    assert named in said


def test_the_code_keeps_the_direction(copy):
    returncode, said = lint(copy)
    assert returncode == 0, said


def test_every_room_has_its_layer():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ][0]
    layered = {room for layer in contract["layers"] for room in layer.split(" | ")}
    package = ROOT / "slt_jax"
    rooms = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/*.py")}
    assert layered == {f"slt_jax.{room}" for room in rooms - {"__init__"}} | {"convert"}
