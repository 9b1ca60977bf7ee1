"""`make demo`, stopped early: it has to learn to translate sentences that it has never seen."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BLEU = 80  # 96 after 7 epochs on two cores


@pytest.mark.slow
def test_the_demo_learns_to_translate(tmp_path):
    """The script and its configuration as they stand, but only the first 7 of its 16 epochs."""
    config = (ROOT / "configs/demo.yml").read_text(encoding="utf-8")
    for whole, part in (("epochs: 16", "epochs: 7"), ("scheduler: cosine", "scheduler: cosine\n  scheduler_tmax: 16")):
        assert config.count(whole) == 1
        config = config.replace(whole, part)
    for name in ("tools", "configs"):
        (tmp_path / name).mkdir()
    (tmp_path / "configs/demo.yml").write_text(config, encoding="utf-8")
    shutil.copy(ROOT / "tools/demo.py", tmp_path / "tools")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # Of tests/conftest.py: cheap to compile and slow to run, but here a program runs for hundreds of steps.
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(
        [sys.executable, "tools/demo.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 7/7: train loss" in done.stdout
    end = done.stdout.partition("never seen:")[2]
    assert len(re.findall(r"reference: +\S.*\n +translation: \S", end)) == 5
    assert float(re.search(r"BLEU ([\d.]+)", end)[1]) >= BLEU
    with Image.open(tmp_path / "runs/demo/clips.png") as picture:
        assert picture.height > 1000
