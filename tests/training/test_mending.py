"""Files of finished epochs that are lost or damaged are written from the state again; what it cannot tell is said."""

import json
import shutil

import pytest

from convert import read_pt
from tools.campaign.runs import train
from tools.campaign.trials import differences


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs, the first of which is the best."""
    folder = tmp_path_factory.mktemp("small")
    assert train("small", folder, folder / "run", []) == 0
    return folder / "run"


def damage(path):
    """Another number in a tensor: behind the pickle that describes it, and before the zip's directory."""
    data = bytearray(path.read_bytes())
    weights = read_pt(path, mmap=False)["model_state"]
    data[data.index(next(iter(weights.values())).tobytes())] ^= 1
    path.write_bytes(data)


def test_what_is_damaged_is_written_again(finished, tmp_path, capsys):
    whole = tmp_path / "run"
    shutil.copytree(finished, whole)
    metrics = whole / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    first = json.loads(lines[0])
    changed = json.dumps(first | {"val_loss": first["val_loss"] + 1})  # no damage that JSON would show
    metrics.write_text("\n".join([changed, lines[1]]) + "\n")
    damage(whole / "last.pt")
    assert train("small", tmp_path, whole, ["--resume"]) == 0
    assert differences(whole, finished) == []
    assert metrics.read_text().splitlines() == lines
    assert "is missing or damaged" not in capsys.readouterr().out
    metrics.unlink()
    (whole / "last.pt").unlink()
    assert train("small", tmp_path, whole, ["--resume"]) == 0
    assert differences(whole, finished) == []


def test_the_best_of_an_earlier_epoch_is_missed_in_one_line(finished, tmp_path, capsys):
    whole = tmp_path / "run"
    shutil.copytree(finished, whole)
    assert read_pt(whole / "best.pt")["epoch"] == 1
    damage(whole / "best.pt")
    assert train("small", tmp_path, whole, ["--resume"]) == 0
    told = f"{whole / 'best.pt'}: is missing or damaged; the next best epoch writes it anew"
    assert capsys.readouterr().out.count(told) == 1
