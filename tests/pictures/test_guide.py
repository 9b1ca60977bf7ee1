"""Every command of docs/pictures.md runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from tests.commands import command_of
from tests.pictures.test_plot_metrics import write_run

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "pictures.md"


def test_the_commands_run(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        write_run(tmp_path / "runs" / name)
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in "".join(blocks).splitlines():
        main, arguments = command_of(shlex.split(line))
        if "tools/make_synthetic_signs.py" in line:
            arguments += ["--workers", "0"]
        assert main(arguments) == 0, line
    written = {path.name for path in tmp_path.iterdir()} - {"runs", "corpus"}
    assert written == {
        "train_000000.png", "train_000000.mp4", "clip.gif", "sheet.png", "curves.png", "curves.svg"
    }  # fmt: skip
