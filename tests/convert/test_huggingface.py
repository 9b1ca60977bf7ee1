"""Decoders from HuggingFace folders, in every form that transformers saves them, against transformers' own logits."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from convert.checkpoint import plan_model
from convert.huggingface import has_own_head, read_folder, read_safetensors
from convert.pretrained import decoder_is_tied, pretrained_params
from convert.state_dict import table
from slt_jax.config import ModelConfig
from slt_jax.errors import UserError
from slt_jax.models.decoders import build_decoder, decoder_settings, shift_right
from slt_jax.models.params import describe
from slt_jax.models.translator import Decoder
from tests.parity.torch_weights import quick_compilation, randomise, relative_error  # noqa: F401

TOLERANCE = 1e-5
T5_SIZES = {"d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 4}
BART_SIZES = {
    "d_model": 24,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 40,
}
VOCAB = 31
KINDS = {
    "t5": (T5ForConditionalGeneration, T5Config, {**T5_SIZES, "decoder_start_token_id": 0}),
    "t5-v1.1": (
        T5ForConditionalGeneration,
        T5Config,
        {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0},
    ),
    "mt5": (MT5ForConditionalGeneration, MT5Config, {**T5_SIZES, "decoder_start_token_id": 0}),
    "bart": (BartForConditionalGeneration, BartConfig, BART_SIZES),
    "mbart": (MBartForConditionalGeneration, MBartConfig, {**BART_SIZES, "scale_embedding": True}),
}
OWN_HEAD = ("t5-v1.1", "mt5")


def random_model(kind: str) -> torch.nn.Module:
    model_class, config_class, sizes = KINDS[kind]
    model = randomise(model_class(config_class(vocab_size=VOCAB, **sizes)), seed=3, std=0.3)
    if kind in OWN_HEAD:  # transformers 5 ties every new T5, published weights are not
        model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(VOCAB, 24))
    return model


def save(model: torch.nn.Module, folder, form: str) -> None:
    if form == "safetensors":
        model.save_pretrained(folder)
    elif form == "shards":
        model.save_pretrained(folder, max_shard_size="20KB")
        assert (folder / "model.safetensors.index.json").exists()
    else:
        model.config.save_pretrained(folder)
        state = model.state_dict()
        if form == "bin":
            torch.save(state, folder / "pytorch_model.bin")
            return
        halves = {f"pytorch_model-0000{i + 1}-of-00002.bin": list(state)[i::2] for i in range(2)}
        places = {key: name for name, keys in halves.items() for key in keys}
        for name, keys in halves.items():
            torch.save({key: state[key].clone() for key in keys}, folder / name)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def load(folder, **fields) -> tuple[nnx.Module, list]:
    """Our decoder with the folder's weights, and its table; the path that training takes."""
    backbone = {"embed_dim": 16, "depth": 1, "num_heads": 1}
    config = ModelConfig(decoder_model=str(folder), d_model=24, vocab_size=VOCAB, backbone=backbone, **fields)
    settings = decoder_settings(config, tie_word_embeddings=decoder_is_tied(config))
    structure, leaves = describe(lambda: Holder(settings))
    entries = table(leaves)
    params = pretrained_params(config, entries)
    return structure.merge(jax.tree.map(jnp.asarray, params)).decoder.model, entries


class Holder(nnx.Module):
    """Only the name `decoder` in front."""

    def __init__(self, settings):
        self.decoder = Decoder(build_decoder(settings, dtype=jnp.float32, rngs=nnx.Rngs(0)))


def compare(ours: nnx.Module, theirs: torch.nn.Module) -> float:
    rng = np.random.default_rng(0)
    encoded = rng.normal(size=(2, 6, 24)).astype(np.float32)
    mask = np.arange(6) < np.array([[6], [4]])
    labels = rng.integers(3, VOCAB, (2, 7))
    with torch.no_grad():
        expected = theirs(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.tensor(encoded)),
            attention_mask=torch.tensor(mask),
            labels=torch.tensor(labels),
        ).logits.numpy()
    return relative_error(nnx.jit(lambda m: m(encoded, mask, shift_right(m, jnp.asarray(labels))))(ours), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_has_the_logits_of_transformers(kind, tmp_path):
    form = {"t5": "bin", "t5-v1.1": "shards", "mt5": "safetensors", "bart": "bin-shards", "mbart": "safetensors"}[kind]
    model = random_model(kind)
    save(model, tmp_path, form)
    ours, _ = load(tmp_path)
    theirs = type(model).from_pretrained(tmp_path).eval()
    assert compare(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_has_the_same_tensors(kind, tmp_path):
    model = random_model(kind)
    found = {}
    for form in ("safetensors", "shards", "bin", "bin-shards"):
        (tmp_path / form).mkdir()
        save(model, tmp_path / form, form)
        found[form] = read_folder(tmp_path / form)
        assert has_own_head(found[form]) is (kind in OWN_HEAD), form
    for form, state in found.items():
        for key, array in state.items():
            np.testing.assert_array_equal(array, found["bin"][key], err_msg=f"{form} {key}")
        ours, entries = load(tmp_path / form)
        assert {entry.key.removeprefix("decoder.model.") for entry in entries} == set(model.state_dict())
        del ours


def test_bare_bart_and_old_leftovers(tmp_path):
    """facebook/bart-base holds the bare model's keys; old T5 files have a table that no layer reads."""
    model = random_model("bart")
    model.final_logits_bias.zero_()
    bare = BartModel(model.config)
    bare.load_state_dict(model.model.state_dict())
    model.config.save_pretrained(tmp_path)
    torch.save({**bare.state_dict(), "encoder.version": torch.tensor(2.0)}, tmp_path / "pytorch_model.bin")
    assert compare(load(tmp_path)[0], model) <= TOLERANCE

    model, old = random_model("t5"), tmp_path / "old"
    model.config.save_pretrained(old)
    extra = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    state = {k: v for k, v in model.state_dict().items() if k not in ("shared.weight", "lm_head.weight")}
    torch.save({**state, extra: torch.zeros(32, 4)}, old / "pytorch_model.bin")
    assert compare(load(old)[0], model) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_float32(dtype, tmp_path):
    model = random_model("t5").to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    raw = read_folder(tmp_path)["shared.weight"]
    assert raw.dtype == (np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    ours, _ = load(tmp_path)
    np.testing.assert_array_equal(ours.shared.embedding[...], model.shared.weight.float().detach().numpy())
    assert ours.shared.embedding.dtype == jnp.float32


def test_safetensors_of_every_type(tmp_path):
    names = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {name: torch.tensor([[0, 1, 3]]).to(getattr(torch, name)) for name in names}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    ours = read_safetensors(tmp_path / "a.safetensors")
    assert ours.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(ours[name].astype(np.float64), tensor.double().numpy())
        assert ours[name].shape == tuple(tensor.shape)


@pytest.mark.parametrize("damage", ["short", "header", "offsets", "dtype", "length"])
def test_damaged_safetensors_are_named(damage, tmp_path):
    path = tmp_path / "model.safetensors"
    field = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    if damage == "offsets":
        field["data_offsets"] = [0, 64]
    if damage == "dtype":
        field["dtype"] = "F99"
    header = b"not json" if damage == "header" else json.dumps({"a": field}).encode()
    length = 10**9 if damage == "length" else len(header)
    content = length.to_bytes(8, "little") + header + bytes(16)
    path.write_bytes(content[:5] if damage == "short" else content)
    with pytest.raises(UserError, match=r"model\.safetensors: is not a sound safetensors file"):
        read_folder(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no weights"):
        read_folder(tmp_path)
    save(random_model("t5"), tmp_path, "shards")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    shutil.move(shard, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{shard.name}: no such file"):
        read_folder(tmp_path)


def test_wrong_widths_and_vocabularies_are_errors(tmp_path):
    save(random_model("t5"), tmp_path, "safetensors")
    config = ModelConfig(decoder_model=str(tmp_path), d_model=32, vocab_size=VOCAB)
    with pytest.raises(UserError, match=r"--decoder-model: the decoder's d_model is 24 but model.d_model is 32"):
        decoder_settings(config)
    with pytest.raises(UserError, match="vocab_size 31 is smaller than the tokenizer's 99"):
        decoder_settings(dataclasses.replace(config, d_model=24, vocab_size=99))
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"d_ff": 41}))
    with pytest.raises(UserError, match=r"(?s)does not fit the model.*! decoder\.model\..*DenseReluDense"):
        load(tmp_path)


# --- hub ids ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty HuggingFace cache and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def fill(cache, name: str) -> None:
    """Put a random T5 into the cache as the hub's id `name`, laid out as huggingface_hub does."""
    repo = cache / f"models--{name.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    save(random_model("t5"), snapshot, "safetensors")


@pytest.mark.parametrize("local_files_only", [False, True])
def test_hub_ids_come_from_the_cache(cache, local_files_only):
    fill(cache, "someone/tiny")
    ours, _ = load("someone/tiny", local_files_only=local_files_only)
    assert compare(ours, random_model("t5")) <= TOLERANCE


@pytest.mark.parametrize("local_files_only", [False, True])
def test_without_cache_and_network_one_line_says_what_to_put_where(cache, local_files_only):
    with pytest.raises(UserError) as error:
        load("someone/tiny", local_files_only=local_files_only)
    text = str(error.value)
    assert "\n" not in text
    assert "--decoder-model" in text
    assert "model.safetensors of https://huggingface.co/someone/tiny" in text
    assert ("--local-files-only" in text) is local_files_only
    with pytest.raises(UserError, match="no such folder"):
        load("./nowhere")


@pytest.mark.parametrize("kwargs", [{}, {"tie_word_embeddings": False}])
def test_a_decoder_without_weights_has_the_head_that_the_user_asks_for(kwargs):
    """As `slt-plan` is asked about large decoders, whose weights are not at hand."""
    config = ModelConfig(
        decoder_config={"model_type": "mt5", **T5_SIZES}, decoder_kwargs=kwargs, d_model=24, vocab_size=VOCAB,
        streams=["pose"], temporal_nhead=4, temporal_layers=1,
    )  # fmt: skip
    _, entries = plan_model(config).structure()
    paths = {entry.key: entry.path for entry in entries}
    tied = paths["decoder.model.lm_head.weight"] == paths["decoder.model.shared.weight"]
    assert tied is not bool(kwargs)
