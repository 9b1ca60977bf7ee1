"""The Dockerfile, as far as it can be tested where no Docker runs: what it copies, installs and starts is there."""

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
from pathlib import Path

import pytest

from slt_jax.cli.serve import main, parse
from tests.serve.service import ask, until
from tests.serve.test_translate_video import save_model

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


@pytest.mark.slow
def test_its_steps_make_a_service_that_runs(tmp_path):
    """What is copied is installed by the file's own command and started by its own, with a model of random weights.

    Only downloads are left out: the packages are those that run this test, and `apt-get` and the demo are not run.
    """
    app, venv = tmp_path / "app", tmp_path / "venv"
    stage = LINES[: LINES.index("# The demo's model is trained here, so that nothing has to be downloaded.")]
    for words in (line.split()[1:] for line in stage if line.startswith("COPY ")):
        for name in words[:-1]:
            source, target = ROOT / name, app / words[-1] / ("" if (ROOT / name).is_dir() else name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    packages = {"PYTHONPATH": os.pathsep.join(site.getsitepackages()), "PIP_NO_DEPS": "1",
                "PIP_NO_BUILD_ISOLATION": "0", "PIP_IGNORE_INSTALLED": "1", "ACCELERATOR": "cpu"}  # fmt: skip
    install = next(line for line in stage if "pip install" in line).removeprefix("RUN ").replace("/venv", str(venv))
    subprocess.run(install.replace("python -m venv", f"{sys.executable} -m venv"), shell=True, check=True, cwd=app,
                   env=os.environ | packages, stdout=subprocess.DEVNULL)  # fmt: skip

    save_model(tmp_path / "model", {"v9_hand_masks": False}).rename(tmp_path / "model" / "last.pt")
    command = [*json.loads(the("ENTRYPOINT")[0]), *json.loads(the("CMD")[-1])]
    command = [word.replace("/model/", f"{tmp_path}/model/").replace("8000", "0") for word in command]
    environment = os.environ | packages | {"SLT_SERVE_TOKEN": "long enough", "PATH": f"{venv}/bin:/usr/bin:/bin"}
    with subprocess.Popen([str(venv / "bin" / command[0]), *command[1:]], env=environment, cwd=tmp_path,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        try:
            port = re.search(r":(\d+)/?#token", process.stdout.readline())[1]
            until(lambda: ask(f"http://127.0.0.1:{port}/readyz")[0] == 200, 120)
            assert b"page.js" in ask(f"http://127.0.0.1:{port}/")[2]
            assert ask(f"http://127.0.0.1:{port}/v1/models")[0] == 401
            check = json.loads(the("HEALTHCHECK")[0].partition("CMD ")[2])
            subprocess.run([sys.executable, *(word.replace("8000", port) for word in check[1:])], check=True)
        finally:
            process.send_signal(getattr(signal, the("STOPSIGNAL")[0]))
        assert process.wait(20) == 0
