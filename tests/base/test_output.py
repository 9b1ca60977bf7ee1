"""A terminal that cannot show the texts, and a reader that has gone, end no command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BODY = r"""if True:
    import os, sys
    from slt_jax.base.console import say
    from slt_jax.cli.command import run
    from slt_jax.errors import UserError
    def body(argv):
        print("mañana 手话 \udce9")
        say("ñ" * 30_000)
        open(sys.argv[1], "w").close()
        if len(sys.argv) > 2:
            raise UserError("señal")
        return 3
    sys.exit(run("slt-any", body, None))
"""


def start(tmp_path, *more, encoding=None, stdout=subprocess.PIPE) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONIO"))}
    environment |= {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"}
    environment |= {"PYTHONIOENCODING": encoding} if encoding else {}
    (tmp_path / "body.py").write_text(BODY, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "body.py"), str(tmp_path / "done"), *more]
    return subprocess.run(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, check=False)


@pytest.mark.parametrize(
    ("encoding", "first"),
    [
        (None, b"ma?ana ?? ?"),
        ("ascii", b"ma?ana ?? ?"),
        ("latin-1", b"ma\xf1ana ?? ?"),
        ("cp1252", b"ma\xf1ana ?? ?"),
        ("utf-8", "mañana 手话 ?".encode()),
    ],
)
def test_any_terminal(tmp_path, encoding, first):
    done = start(tmp_path, "wrong", encoding=encoding)
    assert done.returncode == 2
    assert done.stdout.splitlines()[0] == first
    assert done.stderr.startswith(b"slt-any: error: se")
    assert done.stderr.count(b"\n") == 1


def test_a_reader_that_has_gone(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = start(tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (3, b"")
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
def test_output_that_finds_no_room(tmp_path):
    with open("/dev/full", "wb") as full:
        done = start(tmp_path, stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"slt-any: error: standard output: cannot be written (No space left on device)\n"
