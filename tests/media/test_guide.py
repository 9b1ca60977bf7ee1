"""The commands of docs/video.md run as they stand, on one short real clip."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.commands import command_of
from tests.serve.test_translate_video import save_model

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "video.md"


@pytest.mark.slow
def test_the_guide(real_clips, tmp_path, monkeypatch, capsys):
    """In this process, but for the workers of the extraction."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    shutil.copy(real_clips / "videos" / "lsat_clip2.mp4", tmp_path / "videos" / "signing.mp4")
    save_model(tmp_path / "run", {"v9_hand_masks": False, "max_target_length": 8})
    for line in "".join(re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)).splitlines():
        command, _, file = line.partition(" > ")
        main, arguments = command_of(shlex.split(command))
        assert main(arguments) == 0, f"{line}\n{capsys.readouterr()}"
        if file:
            Path(file).write_text(capsys.readouterr().out, encoding="utf-8")
        capsys.readouterr()
    assert (tmp_path / "streams" / "pose" / "signing.npz").exists()
    assert json.loads((tmp_path / "signing.json").read_text())["segments"]
    assert (tmp_path / "signing.srt").exists()
