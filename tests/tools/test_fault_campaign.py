"""Twenty trials of the campaign of faults: whatever is done to a run, it goes on to the same result or says why not."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools.campaign.harm import FileEvents, SmallDisk, artefact
from tools.campaign.processes import Ended
from tools.fault_campaign import table

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_twenty_trials(tmp_path):
    command = [sys.executable, "tools/fault_campaign.py", "--trials", "20", "--real", "0", "--two", "10"]
    command += ["--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert len(results) == 20
    kinds = {one["kind"].removesuffix(", two processes") for one in results}
    assert len(kinds) >= 5
    assert sum(one["kind"].endswith(", two processes") for one in results) == 2


def test_a_full_disk_leaves_what_it_should(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5000))
    SmallDisk.fill(tmp_path, leave=4096)
    assert (tmp_path / "ballast").stat().st_size == 5000 - 4096


def test_a_process_that_follows_the_other_is_told_from_one_that_fails():
    said = "small: process 0 (127.0.0.1) has ended early, so this process ends too; go on with --resume\n"
    assert Ended(1, "", said, 1.0, False).followed
    assert not Ended(1, "", f"Traceback\n{said}", 1.0, False).followed
    assert not Ended(0, "", said, 1.0, False).followed
    assert Ended(2, "", "small: error: --work-dir x: cannot be written\n", 1.0, False).told


def test_file_events_are_named():
    events = FileEvents(Path("/run"))
    heard = [
        ("open", ("/run/last.pt", "rb", 0)),  # reading
        ("open", ("/elsewhere/last.pt", "wb", 1)),
        ("open", ("/run/.last.pt.0123.tmp", "xb", 1)),
        ("os.rename", ("/run/.last.pt.0123.tmp", "/run/last.pt", -1, -1)),
        ("os.mkdir", ("/run/checkpoints/1", 511, -1)),
    ]
    for event in heard:
        events._heard(*event)
    assert events.labels == ["open last.pt", "rename last.pt", "mkdir state"]
    assert artefact("tb/events.out") == "TensorBoard"


def test_the_table_counts_by_kind():
    results = [{"kind": "damage", "result": result} for result in ("equal", "told", "differs: last.pt")]
    assert table(results)[2:] == ["| damage | 3 | 1 | 1 | 0 | 1 |", "| in all | 3 | 1 | 1 | 0 | 1 |"]
