"""A user's own `convert` in the current folder: `import slt_jax` names it, and the commands work beside it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT = ["-c", "import slt_jax"]


@pytest.fixture(params=["convert.py", "convert/__init__.py"])
def own(request, tmp_path):
    """A file of the user's that `import convert` finds in its folder."""
    path = tmp_path / "project" / request.param
    path.parent.mkdir(parents=True)
    path.write_text("raise SystemExit('this is not the convert of slt_jax')\n")
    return path


def python(*arguments, folder: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess:
    """Python in `folder`, with `path` before the packages that are installed."""
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def project(own: Path) -> Path:
    return own.parent if own.name == "convert.py" else own.parents[1]


def test_import_brings_nothing_heavy():
    heavy = "{'jax', 'flax', 'numpy', 'transformers', 'yaml'}"
    result = python("-c", f"import sys, slt_jax; print({heavy} & set(sys.modules))", folder=ROOT)
    assert result.stdout == "set()\n"


def test_import_names_the_file_that_hides_convert(own):
    result = python(*IMPORT, folder=project(own))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"ImportError: {own} hides the package convert")


def test_a_folder_without_code_hides_nothing(tmp_path):
    (tmp_path / "convert").mkdir()
    assert python(*IMPORT, folder=tmp_path).returncode == 0


def test_a_module_works_beside_it(own):
    result = python("-m", "slt_jax.cli.convert", "inspect", "no.pt", folder=project(own))
    assert result.stderr == "slt-convert: error: no.pt: no such file or folder\n"


def test_a_console_script_works_beside_it(own, tmp_path):
    """Where the user's PYTHONPATH names the current folder, too."""
    script = tmp_path / "slt-convert"
    script.write_text("import sys\nfrom slt_jax.cli.convert import main\nsys.exit(main())\n")
    result = python(script, "inspect", "no.pt", folder=project(own), path=f".{os.pathsep}{ROOT}")
    assert result.stderr == "slt-convert: error: no.pt: no such file or folder\n"


def test_processes_of_a_command_work_beside_it(own, tmp_path):
    """A spawned process has the command's modules before it has its own."""
    script = tmp_path / "slt-try"
    script.write_text(
        "from concurrent.futures import ProcessPoolExecutor as Pool\nfrom multiprocessing import get_context\n"
        "import slt_jax\nimport convert.torch_file\n"
        "if __name__ == '__main__':\n"
        "    with Pool(1, get_context('spawn')) as pool:\n"
        "        print(pool.submit(convert.torch_file.read_pt.__name__.upper).result())\n"
    )
    result = python(script, folder=project(own), path=f"{os.pathsep}{ROOT}")
    assert result.stdout == "READ_PT\n", result.stderr
