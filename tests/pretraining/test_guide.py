"""The commands of docs/pretraining.md run as they stand, and the recipe is read by slt-pretrain and slt-train."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from convert import read_pt
from slt_jax.config import load_config
from slt_jax.pretraining.configuration import load
from tests.commands import command_of
from tests.docs.configurations import make_smaller

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_from_crops_to_a_translator(tmp_path, monkeypatch):
    make_smaller(tmp_path, decoder_layers=1)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines():
        function, arguments = command_of(shlex.split(line))
        assert function(arguments) == 0, line
    translator = read_pt("translator/last.pt")["model_state"]
    for stream, part in (("face", "face_backbone"), ("hands", "hand_backbone_left")):
        pretrained = read_pt(f"dino_{stream}/backbone.pt")
        assert {f"encoder.{part}.{key}" for key in pretrained} <= translator.keys()
        unused = "mask_token"  # no gradient reaches it in a translator: it is as pre-training left it
        np.testing.assert_array_equal(translator[f"encoder.{part}.{unused}"], pretrained[unused])


def test_the_spanish_guide_has_the_same_commands():
    guides = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("pretraining.md", "es/pretraining.md")]
    english, spanish = (re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for text in guides)
    assert english == spanish


@pytest.mark.parametrize("name", ["hands", "face"])
def test_the_papers_recipe(name):
    config, _ = load(ROOT / "configs" / "signmusketeers" / f"{name}.yml", {"train_dir": ["corpus"]}, [])
    assert config.run.stream == name
    assert config.run.backbone == "torchhub::dinov2_vits14"
    assert config.dataset.batch_size == 4 * 128
    translator, _ = load_config(ROOT / "configs" / "signmusketeers" / "translate.yml", {}, [])
    assert translator.model.freeze_face_backbone is True
    assert translator.model.hand_left_backbone == translator.model.hand_right_backbone
