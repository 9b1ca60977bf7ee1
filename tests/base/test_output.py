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


@pytest.mark.parametrize(("closed", "told"), [("1", b"slt-any: error: se\\xf1al\n"), ("2", b"ma?ana ?? ?\n")])
def test_output_that_is_closed(tmp_path, closed, told):
    (tmp_path / "body.py").write_text(BODY, encoding="utf-8")
    command = f"exec {sys.executable} {tmp_path / 'body.py'} {tmp_path / 'done'} wrong {closed}>&-"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert (done.stdout + done.stderr).startswith(told)
    assert (tmp_path / "done").read_bytes() == b""


def test_a_librarys_news_go_nowhere_and_all_else_arrives(tmp_path):
    body = r"""if True:
        import os, sys
        from slt_jax.base.output import settle, without_news
        settle()
        with without_news():
            os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nE0000 00:00:1.2 3 x.cc:4] broken\n")
            os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
            os.write(2, b"W0000 00:00:17959.24 164 inference_feedback_manager.cc:114] Feedback\nours\nterminate called")
            print("a bar", end="", file=sys.stderr, flush=True)
        print(" after", file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, check=True, cwd=ROOT)
    # Python's own text may arrive between two lines of the library, which keep their order.
    assert done.stderr.index(b"broken\n") < done.stderr.index(b"ours\n") < done.stderr.index(b"terminate called")
    for part in (b"E0000 00:00:1.2 3 x.cc:4] broken\n", b"ours\n", b"terminate called", b"a bar", b" after\n"):
        assert part in done.stderr
        done = subprocess.CompletedProcess([], 0, stderr=done.stderr.replace(part, b""))
    assert done.stderr == b""
