"""The configurations beside a reader of the guides."""

import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def make_smaller(folder: Path, **model) -> None:
    """Put the project's `configs` into the folder, with other values of `model` in debug.yml.

    Most of a guide's time goes to compiling; fewer streams and layers take less of it.
    """
    configs = folder / "configs"
    if configs.is_symlink():
        configs.unlink()
    shutil.copytree(ROOT / "configs", configs, dirs_exist_ok=True)
    settings = yaml.safe_load((ROOT / "configs" / "debug.yml").read_text(encoding="utf-8"))
    settings["model"] |= model
    (configs / "debug.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
