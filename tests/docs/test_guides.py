"""The commands of the guides run as they stand, and their tables are those of the code."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slt_jax.cli.reference import GUIDES, flags_table, with_table
from slt_jax.config import SECTIONS
from slt_jax.errors import UserError
from slt_jax.training.program import jitted
from tests.commands import SCRIPTS, command_of
from tests.docs.configurations import make_smaller

ROOT = Path(__file__).resolve().parents[2]


def commands(guide: str) -> list[str]:
    """The ```bash blocks of a guide."""
    return re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / guide).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """Where a reader stands: tools and configs of the project, and `run(block)` for what a guide says."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    scripts = ((name, f"-m {module.removesuffix(':main')}") for name, module in SCRIPTS.items())
    for name, options in (("python", ""), *scripts):
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {options} "$@"\n')
        (binaries / name).chmod(0o755)
    return tmp_path


def run(block: str, folder: Path) -> str:
    """What the commands of a block print; each must end well."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", block], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_here(block: str) -> None:
    """The commands of a block in this process, where equal runs share what is traced and compiled."""
    for line in block.replace("\\\n", " ").splitlines():
        main, arguments = command_of(shlex.split(line))
        if "tools/make_synthetic_signs.py" in line:
            arguments += ["--workers", "0"]
        assert main(arguments) == 0, line


@pytest.mark.slow
def test_data_packs_and_training_guides_run(folder, monkeypatch):
    """Data first: the other guides train on the corpus that the data guide makes.

    The runs whose numbers are compared below are those of debug.yml as it is, the others of smaller models.
    """
    monkeypatch.chdir(folder)
    corpus, *bucketed = commands("data.md")
    run_here(corpus)
    training = commands("training.md")
    compared = commands("packs.md") + [block for block in training if "--work-dir run " in block.replace("\n", " ")]
    for block in compared:
        run_here(block)
    jitted.cache_clear()
    for block in bucketed + [block for block in training if block not in compared]:
        fewer = {} if "--freeze" in block else {"streams": ["hand-left", "pose"]}
        make_smaller(folder, decoder_layers=1, **fewer)
        run_here(block)
    assert (folder / "run" / "best.pt").exists()
    packed, loose = (
        [json.loads(line)["val_loss"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("packed_run", "run")
    )
    assert packed == loose[:2]
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    check = [sys.executable, "tools/ci_validate_metrics.py", "run", "configs/debug_reference.json"]
    done = subprocess.run(check, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    "guide", ["data.md", "preparing.md", "training.md", "pretraining.md", "learning.md", "performance.md"]
)
def test_the_spanish_guides_have_the_same_commands(guide):
    """But for the names of files that a reader chooses."""
    ours, theirs = (
        [[word for word in shlex.split(block) if word.startswith(("-", "slt-", "tools/"))] for block in commands(name)]
        for name in (f"es/{guide}", guide)
    )
    assert ours == theirs


@pytest.mark.slow
def test_learning_guide_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    corpus, hard, _, short = commands("learning.md")  # the third takes hours
    run_here(corpus)
    assert (folder / "signs.png").exists()
    run_here(hard)
    assert (folder / "hard.png").exists()
    printed = run(short, folder)
    assert "| without face |" in printed
    assert (folder / "try" / "learning.png").exists()
    assert "[1/2]" not in run(short, folder), "what has a result is not done again"


@pytest.mark.parametrize("guide", GUIDES)
def test_the_table_of_flags_is_the_configurations(guide):
    document = (ROOT / guide).read_text(encoding="utf-8")
    assert document == with_table(ROOT, guide), "run python -m slt_jax.cli.reference"


@pytest.mark.parametrize(
    ("change", "name"),
    [({"optim.lr": None}, "optim.lr"), ({"optim.learning_rate": "tasa de aprendizaje"}, "optim.learning_rate")],
)
def test_a_key_without_a_meaning_and_a_meaning_without_a_key_are_named(change, name):
    meanings = {f"{section}.{key}": "significado" for section, kind in SECTIONS.items() for key in kind().__dict__}
    assert "significado" in flags_table(meanings)
    with pytest.raises(UserError, match=rf": {name}$"):
        flags_table(meanings | change)


DOCUMENTS = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]


@pytest.mark.parametrize("guide", DOCUMENTS)
def test_links_between_documents_lead_somewhere(guide):
    text = (ROOT / guide).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / guide).parent / target).exists(), target
