"""Every command is a console script that calls itself by its own name; those of v9's names in tools/ are the same."""

import subprocess
import sys

import pytest

from tests.commands import ROOT, SCRIPTS, command_of

TOOLS = {
    "train_slt_multistream_v9": "slt-train",
    "extract_rois_v2": "slt-extract",
    "translate_video": "slt-translate",
    "eval_slt_multistream_v9": "slt-eval",
    "export_onnx_encoder_v9": "slt-export",
    "pack_dataset": "slt-pack",
    "prepare_dataset": "slt-prepare",
    "ci_validate_data_contract": "slt-check-data",
    "ci_validate_metrics": "slt-check-metrics",
    "view_clip": "slt-view",
    "plot_metrics": "slt-plot",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_its_name(name, capsys):
    main, _ = command_of([name])
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {name} ")


def test_the_tools_are_the_same_commands():
    """From any folder, by the files' own paths."""
    for tool, name in TOOLS.items():
        main, _ = command_of(["python", f"tools/{tool}.py"])
        assert main is command_of([name])[0]
    view = subprocess.run([sys.executable, ROOT / "tools" / "view_clip.py", "--help"], capture_output=True, text=True)
    assert view.stdout.startswith("usage: slt-view ")


def test_every_command_has_its_script():
    modules = {reference.removesuffix(":main") for reference in SCRIPTS.values()}
    commands = {path for path in (ROOT / "slt_jax" / "cli").glob("*.py") if "\ndef main(" in path.read_text()}
    assert {f"slt_jax.cli.{path.stem}" for path in commands} - {"slt_jax.cli.reference"} == modules
