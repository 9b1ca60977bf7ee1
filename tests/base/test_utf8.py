"""Names of files are UTF-8 in every locale, or refused in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slt_jax.cli.command import run

ROOT = Path(__file__).resolve().parents[2]
BODY = """if True:
    import os, pathlib, sys
    from slt_jax.cli.command import run
    def body(argv):
        pathlib.Path(sys.argv[1], "se\\u00f1al").touch()
        print(os.getpid(), sys.stdout.encoding, sys.argv[1])
        return 3
    sys.exit(run("slt-any", body, None))
"""


@pytest.mark.parametrize("variables", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_names_in_any_locale(tmp_path, variables):
    folder = tmp_path / "ñandú"
    folder.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    environment = kept | {"PYTHONPATH": str(ROOT), "PYTHONCOERCECLOCALE": "0"} | variables
    program = subprocess.Popen([sys.executable, "-c", BODY, str(folder)], env=environment, stdout=subprocess.PIPE)
    output, _ = program.communicate(timeout=60)
    number, encoding, name = output.decode("ascii" if "PYTHONUTF8" in variables else "utf-8").split(maxsplit=2)
    assert program.returncode == 3
    assert int(number) == program.pid  # who started it can still send it a signal
    assert name.strip() == str(folder) if encoding == "utf-8" else "?and?" in name
    assert os.listdir(os.fsencode(folder)) == ["señal".encode()]


@pytest.mark.parametrize("where", ["in a word", "the current folder"])
def test_a_name_of_other_bytes_is_refused(tmp_path, monkeypatch, capsys, where):
    folder = tmp_path / os.fsdecode(b"run\xf1")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system has no such names")
    if where == "the current folder":
        monkeypatch.chdir(folder)
    assert run("slt-any", lambda _: 0, ["--work-dir", str(folder if where == "in a word" else "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("slt-any: error: '")
    assert told.endswith(r"run\udcf1' is not UTF-8; rename it" + "\n")
