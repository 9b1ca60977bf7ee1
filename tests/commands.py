"""The project's commands, as a guide names them: console scripts, and the files of tools/."""

import importlib
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def command_of(words: Sequence[str]) -> tuple[Callable[[Sequence[str]], int], list[str]]:
    """The `main` of a command line (`slt-train ...` or `python tools/name.py ...`), and its arguments."""
    program, *arguments = words
    if program == "python":
        program, *arguments = arguments
        module, function = program.removesuffix(".py").replace("/", "."), "main"
    else:
        module, function = SCRIPTS[program].split(":")
    return getattr(importlib.import_module(module), function), arguments
