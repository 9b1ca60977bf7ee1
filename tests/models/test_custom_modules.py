"""Classes of the user's own as decoders and backbones: the protocol is checked at the start, weights go both ways."""

import dataclasses
import itertools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from convert import write_pt
from convert.checkpoint import blueprint, load_params, plan_model, read_checkpoint
from convert.state_dict import table, to_params, to_state
from slt_jax import load_dinov2_backbone
from slt_jax.config import build_section
from slt_jax.decoding.inference import Translator
from slt_jax.errors import UserError
from slt_jax.models.cnn import SmallCNN
from slt_jax.models.decoders import decoder_settings
from slt_jax.models.freeze import trained_paths
from slt_jax.models.params import describe, split_model
from tests.parity.torch_weights import quick_compilation, relative_error  # noqa: F401

CNN = {"type": "class", "model": "slt_jax.models.cnn:SmallCNN", "kwargs": {"widths": [4, 8], "embed_dim": 12}}
MODEL = {
    "face_backbone": CNN,
    "hand_left_backbone": CNN,
    "hand_right_backbone": CNN,
    "image_size": 30,
    "projector_dim": 12,
    "d_model": 16,
    "temporal_nhead": 2,
    "temporal_layers": 1,
    "temporal_dim_feedforward": 16,
    "decoder_layers": 1,
    "decoder_heads": 2,
    "vocab_size": 20,
    "sequence_length": 4,
    "pose_landmarks": 2,
    "decoder_class": "my_modules:Bag",
}


class Bag(nnx.Module):
    """The smallest decoder: the mean of the frames and the last token. Its part `encoder` is trained."""

    def __init__(self, d_model, vocab_size, num_layers, num_heads, dropout, pad_token_id, eos_token_id, *, rngs):
        self.embed = nnx.Embed(vocab_size, d_model, rngs=rngs)
        self.encoder = nnx.Linear(d_model, vocab_size, rngs=rngs)

    def __call__(self, encoded, encoder_mask, decoder_input_ids, decoder_attention_mask=None, *, key=None):
        return self.encoder(self.embed(decoder_input_ids) + encoded.mean(axis=1, keepdims=True))


class TorchBag(torch.nn.Module):
    """What v9 takes."""


class Wide(Bag):
    def __init__(self, d_model, **kwargs):
        super().__init__(d_model, **kwargs)
        self.d_model = 2 * d_model


class Short(Bag):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)[:, :-1]


class Keyless(Bag):
    def __call__(self, encoded, encoder_mask, decoder_input_ids):
        return None


class Hungry(Bag):
    def __init__(self, temperature, **kwargs):
        super().__init__(**kwargs)


class OwnRandom(Bag):
    def __init__(self, dropout, *, rngs, **kwargs):
        super().__init__(dropout=dropout, rngs=rngs, **kwargs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)


class OwnSearch(Bag):
    def generate(self, encoded, encoder_mask, **options):
        return jnp.full((len(encoded), options["max_length"]), 7)

    def shift_right(self, labels):
        return jnp.zeros_like(labels)


class Cached(Bag):
    """One token at a time; the cache is the mean of the frames and the last token's embedding."""

    def init_cache(self, encoded, encoder_mask, max_length):
        return {"self": jnp.zeros((len(encoded), self.embed.features)), "mean": encoded.mean(axis=1)}

    def decode_step(self, tokens, position, cache):
        last = self.embed(tokens)
        return self.encoder(last + cache["mean"]), cache | {"self": last}


class LogitsOfAll(Cached):
    def decode_step(self, tokens, position, cache):
        logits, cache = super().decode_step(tokens, position, cache)
        return logits[:, None], cache


class Widening(Cached):
    def decode_step(self, tokens, position, cache):
        logits, cache = super().decode_step(tokens, position, cache)
        return logits, cache | {"self": jnp.tile(cache["self"], 2)}


class LazyGrow(Cached):
    """Its cache is of all tokens, and never grows."""

    def init_cache(self, encoded, encoder_mask, max_length):
        return super().init_cache(encoded, encoder_mask, max_length) | {"self": jnp.zeros((len(encoded), max_length))}

    def decode_step(self, tokens, position, cache):
        logits, _ = super().decode_step(tokens, position, cache)
        return logits, cache | {"self": cache["self"].at[:, position].set(tokens)}

    def grow_cache(self, cache, max_length):
        return cache


class Selfless(Cached):
    def init_cache(self, encoded, encoder_mask, max_length):
        return {"last": jnp.zeros(len(encoded))}


class BlindToBeams(Cached):
    def spread_cache(self, cache, copies):
        return cache


class Typed(Bag):
    def __init__(self, *args, dtype, **kwargs):
        super().__init__(*args, **kwargs)
        self.encoder.dtype = dtype


class Widthless(nnx.Module):
    def __init__(self, *, rngs):
        self.proj = nnx.Linear(3, 4, rngs=rngs)


@pytest.fixture(autouse=True)
def my_modules(monkeypatch):
    """These classes as a module that can be imported by name."""
    module = types.ModuleType("my_modules")
    for kind in (TorchBag, Bag, Wide, Short, Keyless, Hungry, OwnRandom, OwnSearch, Cached, Typed, Widthless):
        setattr(module, kind.__name__, kind)
    for kind in (LogitsOfAll, Widening, LazyGrow, Selfless, BlindToBeams):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "my_modules", module)


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    frames = {name: rng.normal(size=(2, 4, 3, 30, 30)).astype(np.float32) for name in ("face", "hand_l", "hand_r")}
    return frames | {"pose": rng.normal(size=(2, 4, 6)).astype(np.float32), "labels": rng.integers(2, 20, (2, 5))}


def translator(**changes) -> Translator:
    plan = plan_model(build_section("model", MODEL | changes))
    return Translator(plan, split_model(plan.build(seed=1))[1])


def test_a_model_of_own_modules_goes_through_a_checkpoint(tmp_path):
    ours = translator()
    _, entries = ours.blueprint.structure()
    state = to_state(ours.params, entries)
    assert state["decoder.model.encoder.weight"].shape == (20, 16)
    assert state["encoder.face_backbone.stem.1.conv.weight"].shape == (8, 4, 3, 3)
    write_pt(
        tmp_path / "own.pt",
        {
            "model_state": state,
            "config": {"model": dataclasses.asdict(ours.config)},
            "architecture": ours.blueprint.record(),
        },
    )
    checkpoint = read_checkpoint(tmp_path / "own.pt")
    plan = blueprint(checkpoint, trust={"my_modules:Bag"})
    again = Translator(plan, load_params(checkpoint, plan.structure()[1]))
    np.testing.assert_array_equal(again.logits(batch()), ours.logits(batch()))
    tokens = ours.generate(batch(), max_length=6)
    assert tokens.shape[1] <= 6
    assert (tokens[:, 0] == 0).all()  # pad_token_id comes first
    np.testing.assert_array_equal(
        again.generate(batch(), max_length=6, num_beams=2), ours.generate(batch(), max_length=6, num_beams=2)
    )


def test_a_part_named_encoder_is_trained():
    plan = plan_model(build_section("model", MODEL))
    structure, entries = plan.structure()
    paths = {entry.path for entry in entries}
    assert set(trained_paths(plan.config, paths, structure.buffers)) == paths


def test_own_search_and_shift_take_the_place_of_ours():
    ours = translator(decoder_class="my_modules:OwnSearch")
    np.testing.assert_array_equal(ours.generate(batch(), max_length=3), np.full((2, 3), 7))
    logits = ours.logits(batch())
    np.testing.assert_array_equal(logits, np.broadcast_to(logits[:, :1], logits.shape))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_cache_of_ones_own_finds_the_same_texts(beams):
    whole, cached = translator(decoder_class="my_modules:Bag"), translator(decoder_class="my_modules:Cached")
    search = {"num_beams": beams, "max_length": 9, "no_repeat_ngram_size": 1}
    expected = whole.generate(batch(), **search)
    np.testing.assert_array_equal(cached.generate(batch(), **search), expected)
    assert len(set(expected.ravel().tolist())) > 5


def test_dtype_is_given_where_it_is_asked_for():
    plan = plan_model(build_section("model", MODEL | {"decoder_class": "my_modules:Typed"}))
    assert plan.build(dtype=jnp.bfloat16).decoder.model.encoder.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Wide", "the decoder's d_model is 32 but model.d_model is 16; set --d-model 32"),
        ("Short", r"its logits have the shape (2, 4, 20) where (2, 5, vocab_size 20) is expected"),
        ("Keyless", "calling it fails: TypeError"),
        ("Hungry", "missing 1 required positional argument: 'temperature'"),
        ("LogitsOfAll", "decode_step gives logits (2, 1, 20) where (2, 20) is expected"),
        ("Widening", "decode_step turns cache['self'] float32[2, 16] into float32[2, 32]"),
        ("LazyGrow", "grow_cache makes cache['self'] float32[2, 4] where init_cache has float32[2, 8]"),
        ("Selfless", "init_cache gives no dict with the key 'self'"),
        ("BlindToBeams", "calling it fails: "),
        ("OwnRandom", "it keeps random numbers of its own"),
        ("Nothing", "has no Flax NNX class 'Nothing'"),
        ("TorchBag", "is a torch.nn.Module, which JAX cannot train; write it as a class of flax.nnx.Module"),
    ],
)
def test_what_breaks_the_protocol_is_said_at_the_start(kind, message):
    with pytest.raises(UserError) as error:
        decoder_settings(build_section("model", MODEL | {"decoder_class": f"my_modules:{kind}"}))
    assert message in str(error.value)
    assert f"--decoder-class my_modules:{kind}" in str(error.value)
    assert str(error.value).count("my_modules:") == 1
    assert "\n" not in str(error.value)


def test_a_name_without_a_colon_is_told_how():
    with pytest.raises(UserError, match=r"--decoder-class my_modules\.Bag: write module:Class, my_modules:Bag"):
        decoder_settings(build_section("model", MODEL | {"decoder_class": "my_modules.Bag"}))


def test_a_module_that_does_not_run_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def f(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UserError, match="cannot be imported \\(SyntaxError: invalid syntax"):
        decoder_settings(build_section("model", MODEL | {"decoder_class": "broken_module:Bag"}))


def test_decoder_kwargs_override_and_are_checked():
    with pytest.raises(UserError, match=r"the decoder's d_model is 8 but model\.d_model is 16"):
        decoder_settings(build_section("model", MODEL | {"decoder_kwargs": {"d_model": 8}}))
    with pytest.raises(UserError, match="unexpected keyword argument 'colour'"):
        decoder_settings(build_section("model", MODEL | {"decoder_kwargs": {"colour": 8}}))


def test_backbones_need_a_width():
    with pytest.raises(UserError, match="no integer attribute embed_dim"):
        load_dinov2_backbone("my_modules:Widthless")


# --- weights of any layer -----------------------------------------------------------------------------------------


class TorchCNN(torch.nn.Module):
    """SmallCNN's torch twin, for layouts and the formulas of the layers."""

    def __init__(self, widths, embed_dim):
        super().__init__()
        channels = [3, *widths]
        self.stem = torch.nn.ModuleList()
        for i, (before, after) in enumerate(itertools.pairwise(channels)):
            stride = 4 if i == 0 else 2
            stage = torch.nn.Module()
            stage.conv = torch.nn.Conv2d(before, after, stride + 1, stride, (stride + 1) // 2)
            stage.norm = torch.nn.GroupNorm(next(n for n in (8, 4, 2, 1) if after % n == 0), after)
            self.stem.append(stage)
        self.proj = torch.nn.Linear(channels[-1], embed_dim)

    def forward(self, x):
        for stage in self.stem:
            x = torch.relu(stage.norm(stage.conv(x)))
        return self.proj(x.mean(dim=(2, 3)))


def test_small_cnn_is_its_torch_twin():
    torch.manual_seed(0)
    theirs = TorchCNN((8, 16, 24), 10)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    structure, found = describe(lambda: SmallCNN((8, 16, 24), 10, rngs=nnx.Rngs(0)))
    entries = table(found)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    assert [entry.key for entry in entries] == list(state)
    params = to_params(state, entries)
    images = np.random.default_rng(0).normal(size=(2, 50, 37, 3)).astype(np.float32)
    actual = jax.jit(lambda params: structure.merge(params)(jnp.asarray(images)))(params)
    expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).detach().numpy()
    assert relative_error(actual, expected) <= 1e-5
    for key, array in to_state(params, entries).items():
        np.testing.assert_array_equal(array, state[key])


class Everything(nnx.Module):
    """One of each kind of layer that people use."""

    def __init__(self, *, rngs):
        self.line = nnx.Conv(4, 6, (3,), rngs=rngs)
        self.volume = nnx.Conv(2, 3, (2, 3, 4), rngs=rngs)
        self.grouped = nnx.Conv(4, 8, (3, 3), feature_group_count=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.heads = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=rngs)
        self.sequence = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jax.nn.relu, nnx.LayerNorm(4, rngs=rngs))
        self.scales = nnx.List([nnx.Param(jnp.ones(2)), nnx.Param(jnp.zeros(3))])


def test_any_leaf_converts_both_ways():
    structure, found = describe(lambda: Everything(rngs=nnx.Rngs(0)))
    _, params = split_model(Everything(rngs=nnx.Rngs(0)))
    entries = table(found)
    assert {entry.path for entry in entries} == set(params)
    assert structure.buffers == {"norm.mean", "norm.var"}
    state = to_state(params, entries)
    theirs = {
        "line.weight": torch.nn.Conv1d(4, 6, 3).weight,
        "volume.weight": torch.nn.Conv3d(2, 3, (2, 3, 4)).weight,
        "grouped.weight": torch.nn.Conv2d(4, 8, 3, groups=2).weight,
        "norm.running_mean": torch.nn.BatchNorm1d(5).running_mean,
        "sequence.layers.0.weight": torch.nn.Linear(3, 4).weight,
    }
    for key, tensor in theirs.items():
        assert state[key].shape == tuple(tensor.shape), key
    again = to_params(state, entries)
    for path, array in params.items():
        np.testing.assert_array_equal(again[path], array)
