"""The commands of docs/video.md run as they stand, on one short real clip."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.test_translate_video import save_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_guide(real_clips, tmp_path):
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / "videos").mkdir()
    shutil.copy(real_clips / "videos" / "lsat_clip2.mp4", tmp_path / "videos" / "signing.mp4")
    save_model(tmp_path / "run", {"v9_hand_masks": False, "max_target_length": 8})
    binaries = tmp_path / "bin"
    binaries.mkdir()
    modules = {"python": "", "slt-extract": "-m slt_jax.cli.extract", "slt-translate": "-m slt_jax.cli.translate_video"}
    for name, options in modules.items():
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {options} "$@"\n')
        (binaries / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    guide = (ROOT / "docs" / "video.md").read_text(encoding="utf-8")
    for block in re.findall(r"```bash\n(.*?)```", guide, flags=re.DOTALL):
        done = subprocess.run(["bash", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "streams" / "pose" / "signing.npz").exists()
    assert json.loads((tmp_path / "signing.json").read_text())["segments"]
    assert (tmp_path / "signing.srt").exists()
