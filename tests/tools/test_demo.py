"""`make demo` in two minutes: it has to learn to translate sentences that it has never seen."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BLEU = 80  # 95 and more in each of three runs on two cores


@pytest.mark.slow
def test_the_demo_learns_to_translate(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/demo.py")], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    end = done.stdout.partition("never seen:")[2]
    assert len(re.findall(r"reference: +\S.*\n +translation: \S", end)) == 5
    assert float(re.search(r"BLEU ([\d.]+)", end)[1]) >= BLEU
    with Image.open(tmp_path / "runs/demo/clips.png") as picture:
        assert picture.height > 1000
