"""A new decoder family is one module and one row: nothing else needs to know of it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import slt_jax
from convert import read_pt, write_pt
from convert.checkpoint import plan_model
from convert.pretrained import pretrained_params
from slt_jax.cli.export import main as export
from slt_jax.cli.train import main as train
from slt_jax.config import ModelConfig
from slt_jax.models.families import FAMILIES, Family
from slt_jax.models.freeze import trained_paths
from slt_jax.models.seq2seq import AttentionSizes, FrozenConfig, vocabulary_logits
from slt_jax.runtime.tensor_parallel import model_dimension
from tests.cli.conftest import metrics
from tests.convert.models import settings, tiny


class Toy(nnx.Module):
    """Adds the mean of the frames to every token, whatever came before it."""

    def __init__(self, settings, *, dtype, memory, rngs):
        width, vocab = settings["d_model"], settings["vocab_size"]
        self.encoder = nnx.Linear(width, width, rngs=rngs)  # of texts: nothing here reads it
        self.tokens = nnx.Embed(vocab, width, rngs=rngs)
        self.blocks = nnx.List([ToyBlock(width, rngs) for _ in range(settings["decoder_layers"])])
        tied = settings["tie_word_embeddings"]
        self.proj_out = self.tokens if tied else nnx.Linear(width, vocab, use_bias=False, rngs=rngs)
        self.config = FrozenConfig(settings)

    def __call__(self, encoded, encoder_mask, ids, mask=None, *, key=None):
        x = self.tokens(ids) + encoded.mean(axis=1, keepdims=True)
        for block in self.blocks:
            x = x + block.down(jnp.tanh(block.up(x)))
        return vocabulary_logits(x, self.proj_out, jnp.float32)


class ToyBlock(nnx.Module):
    def __init__(self, width, rngs):
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)


ROW = Family(
    name="toy",
    model_types=("marian",),
    build=Toy,
    settings_from_flags=lambda config: {"decoder_layers": config.decoder_layers},
    attention_sizes=lambda settings: AttentionSizes(settings["decoder_layers"], 1, settings["d_model"]),
    layers="blocks",
    embeddings=("tokens.weight",),
    head="proj_out.weight",
    split_by_outputs=("up",),
    split_by_inputs=("down",),
    position_limit="max_position_embeddings",
)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", ROW)


def kwargs(**more) -> str:
    return json.dumps({"model_type": "marian", "max_position_embeddings": 16} | more)


@pytest.mark.slow
def test_it_is_trained_saved_and_loaded(corpus, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(corpus.flags(run, decoder_kwargs=kwargs(), decoder_layers=2, lr=0.01)) == 0
    losses = [epoch["train_loss"] for epoch in metrics(run)]
    assert losses[-1] < losses[0] - 0.1

    state = read_pt(run / "last.pt")["model_state"]
    assert state["decoder.model.blocks.1.up.weight"].shape == (64, 32)
    translator = slt_jax.load(run / "last.pt")
    rng = np.random.default_rng(0)
    frames = {name: rng.normal(size=(2, 4, 3, 28, 28)).astype(np.float32) for name in ("face", "hand_l", "hand_r")}
    clips = frames | {"pose": rng.normal(size=(2, 4, 3 * translator.config.pose_landmarks)).astype(np.float32)}
    clips["labels"] = np.array([[4, 5, 1], [6, 1, -100]])
    assert translator.generate(clips, num_beams=2, max_length=99, eos_token_id=()).shape == (2, 17)  # its positions

    write_pt(tmp_path / "bare.pt", state)
    model = read_pt(run / "last.pt")["config"]["model"]
    told_by_weights = ("vocab_size", "decoder_layers")
    bare = slt_jax.load(tmp_path / "bare.pt", {key: model[key] for key in model if key not in told_by_weights})
    np.testing.assert_array_equal(bare.logits(clips), translator.logits(clips))

    assert export(["--checkpoint", str(run), "--onnx", str(tmp_path / "encoder.onnx"), "--decoder"]) == 2
    assert "marian model, which cannot be written as ONNX; only t5, mt5, bart and mbart" in capsys.readouterr().err
    assert train(corpus.flags(tmp_path / "long", decoder_kwargs=kwargs(max_position_embeddings=8))) == 2
    assert "--max-target-length 16 is more than the decoder's 8 positions" in capsys.readouterr().err


@pytest.mark.parametrize("own_head", [False, True])
def test_its_pretrained_weights_are_read(own_head, tmp_path):
    rng = np.random.default_rng(0)
    parts = [("up", (64, 32)), ("down", (32, 64))]
    theirs = {f"blocks.{n}.{name}.weight": rng.normal(size=shape) for n in range(2) for name, shape in parts}
    theirs |= {f"blocks.{n}.{name}.bias": rng.normal(size=shape[0]) for n in range(2) for name, shape in parts}
    theirs |= {"encoder.weight": rng.normal(size=(32, 32)), "encoder.bias": rng.normal(size=32)}
    theirs |= {"tokens.weight": rng.normal(size=(31, 32))}
    theirs |= {"proj_out.weight": rng.normal(size=(31, 32))} if own_head else {}
    write_pt(tmp_path / "pytorch_model.bin", {key: array.astype(np.float32) for key, array in theirs.items()})
    fields = {"model_type": "marian", "d_model": 32, "vocab_size": 31, "decoder_layers": 2}
    fields |= {"pad_token_id": 0, "decoder_start_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(fields))

    plan = plan_model(ModelConfig(**settings(decoder_model=str(tmp_path))))
    _, entries = plan.structure()
    ours = pretrained_params(plan.config, entries)
    head = ours["decoder.model.proj_out.kernel"].T if own_head else ours["decoder.model.proj_out.embedding"]
    np.testing.assert_allclose(head, theirs["proj_out.weight" if own_head else "tokens.weight"], rtol=1e-6)
    np.testing.assert_allclose(ours["decoder.model.blocks.1.up.kernel"].T, theirs["blocks.1.up.weight"], rtol=1e-6)


def test_its_text_encoder_stays_and_its_matrices_are_split():
    plan, _ = tiny(decoder_kwargs={"model_type": "marian"})
    structure, entries = plan.structure()
    trained = trained_paths(plan.config, {entry.path for entry in entries}, structure.buffers)
    assert [path for path in trained if path.startswith("decoder.")] == [
        "decoder.model.blocks.0.down.bias",
        "decoder.model.blocks.0.down.kernel",
        "decoder.model.blocks.0.up.bias",
        "decoder.model.blocks.0.up.kernel",
        "decoder.model.proj_out.embedding",  # and the tokens'
    ]
    assert model_dimension("decoder.model.blocks.0.up.kernel") == 1
    assert model_dimension("decoder.model.blocks.0.down.kernel") == 0
