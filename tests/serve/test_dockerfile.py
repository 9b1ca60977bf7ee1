"""The Dockerfile, as far as it can be tested where no Docker runs: what it copies, installs and starts is there."""

import json
import re
from pathlib import Path

import pytest

from slt_jax.cli.serve import main, parse

ROOT = Path(__file__).resolve().parents[2]
LINES = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()


def the(instruction: str) -> list[str]:
    return [line.removeprefix(instruction + " ") for line in LINES if line.startswith(instruction + " ")]


def test_what_it_copies_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    own = [words.split()[:-1] for words in the("COPY") if not words.startswith("--from")]
    for name in (name for names in own for name in names):
        assert (ROOT / name).exists(), name
        assert name not in ignored
    from_demo = [words.split()[2] for words in the("COPY") if words.startswith("--from=demo")]
    work_dir = re.search(r'Path\("(runs/demo/run)"\)', (ROOT / "tools/demo.py").read_text(encoding="utf-8"))
    assert from_demo == [f"/app/{work_dir[1]}/last.pt", f"/app/{work_dir[1]}/tokenizer"]


def test_it_installs_pinned_versions_and_runs_as_no_root():
    install = next(line for line in the("RUN") if "pip install" in line)
    assert "-c constraints.txt" in install
    assert "extras=serve,cuda" in install
    assert the("USER") == ["slt"]
    assert LINES.index("USER slt") < next(n for n, line in enumerate(LINES) if line.startswith("ENTRYPOINT"))


def test_what_it_starts_asks_for_a_token(capsys, monkeypatch):
    monkeypatch.delenv("SLT_SERVE_TOKEN", raising=False)
    command = [*json.loads(the("ENTRYPOINT")[0]), *json.loads(the("CMD")[-1])]
    assert command[0] == "slt-serve"
    arguments = parse(command[1:])
    assert (arguments.host, arguments.port, arguments.checkpoint) == ("0.0.0.0", 8000, "/model/last.pt")
    assert main(command[1:]) == 2
    assert "needs --token" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "named"), [
    ([], "--checkpoint is not given"),
    (["--checkpoint", "/no/such.pt", "--port", "0"], "/no/such.pt"),
    (["--checkpoint", "x", "--port", "99999"], "--port 99999: cannot listen"),
    (["--checkpoint", "x", "--host", "no.such.host.invalid", "--token", "long enough"], "--host no.such.host.invalid"),
    (["--checkpoint", "x", "--max-sessions", "0"], "--max-sessions 0: must be above 0"),
    (["--checkpoint", "x", "--token", "short"], "--token: takes 8"),
    (["--checkpoint", "x", "--fps", "-1"], "fps"),
])  # fmt: skip
def test_mistakes_are_one_line(capsys, flags, named):
    assert main([*flags, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
