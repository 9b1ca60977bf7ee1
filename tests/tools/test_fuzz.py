"""Readers refuse damaged and hostile files as documented: those that once did not, and new ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.fuzzing.run import outcome

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = Path(__file__).parent / "hostile"  # READER/INPUT/files, as `tools/fuzz.py --corpus` keeps them


@pytest.mark.parametrize("folder", sorted(HOSTILE.glob("*/*")), ids=lambda path: f"{path.parent.name} {path.name}")
def test_what_once_failed(folder, tmp_path):
    place = tmp_path / "input"
    shutil.copytree(folder, place)
    assert outcome(folder.parent.name, place) is None


# In a process without JAX's threads, as the tool is: it forks.
WRONG = """
import json
from tools.fuzzing.readers import READERS, Reader
from tools.fuzzing.run import fuzz

def read(folder):
    data = (folder / "x").read_bytes()
    if data[:1] != b"a":
        raise KeyError(data[:1])
    if len(data) != 3:
        bytearray(2 << 30)

READERS["mine"] = Reader(read, lambda folder: (folder / "x").write_bytes(b"abc"))
print(json.dumps(fuzz("mine", 0, 0, 40, 600.0)))
"""


def test_what_is_wrong_is_found():
    """Errors of other kinds and too much memory; the inputs after them are read all the same."""
    done = subprocess.run([sys.executable, "-c", WRONG], cwd=ROOT, capture_output=True, text=True, check=True)
    number, failures = json.loads(done.stdout)
    assert number == 40
    assert {failure["error"].partition(":")[0] for failure in failures} == {"KeyError", "MemoryError"}


@pytest.mark.slow
def test_new_files_for_every_reader():
    command = [sys.executable, "tools/fuzz.py", "--seconds", "30", "--inputs", "200000", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
