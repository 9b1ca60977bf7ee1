"""The commands of the guides on pretrained weights and on one's own modules run as they stand."""

import re
import shlex
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transformers import T5Config, T5ForConditionalGeneration

import slt_jax
from convert import read_pt, write_pt
from slt_jax.cli.train import main
from slt_jax.data.text import load_tokenizer, train_tokenizer
from slt_jax.decoding.generate import generate_tokens
from slt_jax.decoding.search import Search
from slt_jax.models.vit import ViTConfig
from slt_jax.synthetic.generator import generate
from tests.docs.configurations import make_smaller
from tests.models.test_backbones import hub_weights, under

ROOT = Path(__file__).resolve().parents[2]


def blocks(guide: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / guide).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "corpus"
    generate(root, num_train=3, num_val=2, num_test=0, seed=3, level="small", image_size=56, workers=0, progress=False)
    return root


@pytest.fixture
def folder(corpus, tmp_path, monkeypatch) -> Path:
    """The current folder of a reader of the guides."""
    (tmp_path / "corpus").symlink_to(corpus)
    make_smaller(tmp_path, decoder_layers=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str) -> None:
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    assert program == "slt-train"
    assert main(arguments) == 0, command


@pytest.mark.slow
def test_custom_decoders_guide(folder, monkeypatch):
    """Also: weights are under their attribute paths, in torch's layout; its steps generate what its prefixes do."""
    (folder / "my_decoders.py").write_text(blocks("custom_decoders.md", "python")[0])
    own, cnn = blocks("custom_decoders.md", "bash")
    make_smaller(folder, streams=["hand-left", "pose"])
    run(own)
    state = read_pt(folder / "own-decoder" / "last.pt")["model_state"]
    vocab = state["decoder.model.embed.weight"].shape[0]
    assert state["decoder.model.lm_head.weight"].shape == (vocab, 48 + 64)
    assert state["decoder.model.cells.1.dense_h.weight"].shape == (3 * 48, 48)

    sys.modules.pop("my_decoders", None)
    decoder = slt_jax.load(folder / "own-decoder" / "last.pt", trust_classes=True).blueprint.build().decoder.model
    encoded = np.random.default_rng(0).normal(size=(2, 5, 64)).astype(np.float32)
    mask = np.arange(5) < np.array([[5], [3]])
    searches = [Search(max_length=9, num_beams=n, min_length=0, early_stopping=False) for n in (1, 3)]
    stepwise = [generate_tokens(decoder, encoded, mask, search) for search in searches]
    monkeypatch.delattr(type(decoder), "decode_step")
    for search, tokens in zip(searches, stepwise, strict=True):
        np.testing.assert_array_equal(generate_tokens(decoder, encoded, mask, search), tokens)

    make_smaller(folder, decoder_layers=1)
    run(cnn)
    state = read_pt(folder / "cnn" / "last.pt")["model_state"]
    assert state["encoder.face_backbone.stem.0.conv.weight"].shape == (16, 3, 5, 5)
    assert state["encoder.face_projector.layers.1.weight"].shape == (48, 256)


@pytest.mark.slow
def test_pretraining_guide(folder, capsys):
    weights, _ = hub_weights(ViTConfig(embed_dim=64, depth=2, num_heads=1, image_size=56))
    head = {"head.mlp.0.weight": np.ones((3, 64), np.float32)}
    write_pt(folder / "hand_teacher.pth", {"teacher": under("backbone.", weights) | head, "epoch": 3})
    texts = [line.split(";")[1] for line in (folder / "corpus" / "meta.csv").read_text().splitlines()[1:]]
    train_tokenizer(texts, folder / "my-t5")
    vocab = load_tokenizer(folder / "my-t5").vocab_size + 3
    sizes = {"d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 1, "num_heads": 4}
    theirs = T5ForConditionalGeneration(T5Config(vocab_size=vocab, **sizes))
    theirs.save_pretrained(folder / "my-t5")

    hands, from_t5 = blocks("weights.md", "bash")
    run(hands)
    state = read_pt(folder / "hands" / "last.pt")["model_state"]
    for key, array in weights.items():
        kept = np.array_equal(state[f"encoder.hand_backbone_left.{key}"], array)
        assert kept is not key.startswith(("blocks.1.", "norm.")), key
        np.testing.assert_array_equal(state[f"encoder.hand_backbone_right.{key}"], array)
    assert re.search(r"hand_backbone_right +0 ", capsys.readouterr().out)

    make_smaller(folder, streams=["hand-left", "pose"])
    run(from_t5)
    state = read_pt(folder / "from-t5" / "last.pt")["model_state"]
    unused = "encoder.block.0.layer.0.SelfAttention.q.weight"  # no gradient reaches it: it is as the folder has it
    np.testing.assert_array_equal(state[f"decoder.model.{unused}"], theirs.state_dict()[unused].numpy())
    trained = "decoder.block.0.layer.0.SelfAttention.q.weight"
    np.testing.assert_allclose(state[f"decoder.model.{trained}"], theirs.state_dict()[trained].numpy(), atol=0.01)

    names: dict = {"images": jnp.zeros((1, 56, 56, 3))}
    exec(blocks("weights.md", "python")[0], names)
    assert names["features"].shape == (1, 64)
    assert isinstance(names["backbone"], nnx.Module)
