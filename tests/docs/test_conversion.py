"""Every command of the conversion guide, run in the order of the guide."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import slt_jax
from convert import write_pt
from convert.safetensors_file import write_safetensors
from convert.state_dict import parameters
from slt_jax.base.files import write_json
from slt_jax.cli.convert import main
from tests.convert.models import settings, tiny
from tests.parity.goldens import GOLDENS

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "conversion.md"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_every_command_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan, state = tiny()
    count = len(parameters(plan.structure()[1]))
    group = {"lr": 1e-3, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8, "params": list(range(count))}
    config = {"data": {"v9_hand_masks": False}, "model": settings()}
    content = {"epoch": 1, "model_state": state, "val_loss": 1.0, "config": config}
    content["optimizer_state"] = {"state": {}, "param_groups": [group]}
    write_pt("last.pt", content)
    Path("run").mkdir()
    write_pt("run/best.pt", content)
    write_json("run/config.json", config)
    Path("adapter").mkdir()
    layer, matrix = "base_model.model.decoder.block.0.layer.1.EncDecAttention.v", np.ones((2, 32), np.float32)
    pair = {f"{layer}.lora_A.weight": matrix, f"{layer}.lora_B.weight": np.ascontiguousarray(matrix.T)}
    write_safetensors("adapter/adapter_model.safetensors", pair, {})
    write_json("adapter/adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    lines = commands()
    assert len(lines) >= 10
    for program, *arguments in lines:
        assert program == "slt-convert"
        if "--case" in arguments:
            if not GOLDENS.exists():
                continue
            arguments = [str(GOLDENS / Path(a).name) if a.startswith("goldens/") else a for a in arguments]
        assert main(arguments) == 0, (arguments, capsys.readouterr())
    assert {path.name for path in tmp_path.iterdir()} == {
        "last.pt", "run", "states", "back.pt", "small.pt", "later.pt", "last.safetensors",
        "adapter", "adapted.pt", "again",
    }  # fmt: skip
    assert slt_jax.load("small.pt").config.d_model == 32


@pytest.mark.parametrize("option", ["--dry-run", "--weights-only", "--include-optimizer", "--prefix", "--overwrite"])
def test_every_option_is_explained(option):
    assert option in GUIDE.read_text(encoding="utf-8")
