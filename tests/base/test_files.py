"""Files appear whole or not at all, whatever happens to who writes them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slt_jax.base.files import copy_file, replacing, write_json, write_json_lines

ROOT = Path(__file__).resolve().parents[2]


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    write_json(path, {"old": "ñ"})
    with pytest.raises(TypeError):
        write_json_lines(path, [{"epoch": 1}, {"epoch": object()}])  # fails after the first line is written
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": "ñ"}
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_are_made_and_links_are_followed(tmp_path):
    write_json_lines(tmp_path / "deep" / "er" / "m.jsonl", [{"epoch": 1}])
    (tmp_path / "link").symlink_to("deep/er/m.jsonl")
    write_json_lines(tmp_path / "link", [{"epoch": 1}, {"epoch": 2}])
    assert (tmp_path / "link").is_symlink()
    assert len((tmp_path / "deep" / "er" / "m.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["x" * 255, "ñ" * 127, "x" * 250 + ".json"])
def test_the_longest_names_there_are(tmp_path, name):
    name = name.encode()[:255].decode(errors="ignore")
    write_json(tmp_path / name, 1)
    assert os.listdir(tmp_path) == [name]


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path):
    path, bystander = tmp_path / "a.json", tmp_path / ".a.json.notes.tmp"
    write_json(path, "old")
    bystander.touch()
    code = """if True:
        import os, sys
        from slt_jax.base.files import replacing
        with replacing(sys.argv[1]) as file:
            file.write(b"new")
            os.kill(os.getpid(), 9)
    """
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    assert json.loads(path.read_text()) == "old"
    write_json(path, "newer")
    assert sorted(tmp_path.iterdir()) == [bystander, path]


def test_two_writers_at_once_do_not_mix(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as outer:
        outer.write(b'"out')
        write_json(path, "inner")
        assert json.loads(path.read_text()) == "inner"
        outer.write(b'er"')
    assert json.loads(path.read_text()) == "outer"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_copied_over_itself_stays(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    copy_file(path, path)
    assert path.read_bytes() == bytes(range(256)) * 1000
