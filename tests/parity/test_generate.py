"""Greedy and beam search against HuggingFace's `generate`, token by token, on many random models."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from slt_jax.decoding import generate as module
from slt_jax.decoding.generate import _generate
from slt_jax.decoding.search import Search
from slt_jax.models.bart import Bart
from slt_jax.models.t5 import T5
from tests.parity.goldens import T5_CASES, Golden, needs_goldens
from tests.parity.test_t5 import golden_t5
from tests.parity.torch_weights import (
    decoder_state,
    load,
    quick_compilation,  # noqa: F401 (a fixture)
    randomise,
)

SEEDS = 18
VOCAB, WIDTH, FRAMES, BATCH = 13, 16, 5, 4
T5_SIZES = {"vocab_size": VOCAB, "d_model": WIDTH, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2}
BART_SIZES = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 16,
}


@dataclass
class Family:
    ours: type
    theirs: type
    config: object
    std: float

    def build(self):
        model = self.theirs(self.config).eval()
        return model, self.ours(self.config.to_dict(), rngs=nnx.Rngs(0))


@dataclass
class Case:
    family: str
    settings: dict = field(default_factory=dict)


FAMILIES = {
    # Padding 0: HuggingFace's beam search then fills finished rows with the end token.
    "t5": Family(T5, T5ForConditionalGeneration, T5Config(**T5_SIZES, decoder_start_token_id=0), 0.4),
    "t5 v1.1": Family(
        T5,
        T5ForConditionalGeneration,
        T5Config(
            **T5_SIZES,
            decoder_start_token_id=3,
            pad_token_id=3,
            eos_token_id=2,
            feed_forward_proj="gated-gelu",
            scale_decoder_outputs=False,
        ),
        0.3,
    ),
    "bart": Family(
        Bart,
        BartForConditionalGeneration,
        BartConfig(**BART_SIZES, pad_token_id=1, eos_token_id=2, forced_eos_token_id=2, decoder_start_token_id=2),
        0.4,
    ),
    "mbart": Family(
        Bart,
        MBartForConditionalGeneration,
        MBartConfig(**BART_SIZES, pad_token_id=1, bos_token_id=0, eos_token_id=2, forced_eos_token_id=None),
        0.4,
    ),
}
CASES = {
    "greedy": Case("t5"),
    "greedy, no repeats": Case("t5 v1.1", {"min_length": 4, "no_repeat_ngram_size": 2}),
    "greedy, forced end": Case("bart", {"no_repeat_ngram_size": 2, "max_length": 9}),
    "greedy, forced start, new tokens": Case(
        "mbart", {"forced_bos_token_id": 7, "eos_token_id": [2, 4], "max_length": None, "max_new_tokens": 8}
    ),
    "2 beams": Case("t5", {"num_beams": 2}),
    "3 beams, no repeats": Case("t5", {"num_beams": 3, "no_repeat_ngram_size": 2}),
    "4 beams as v9 calls them": Case("t5 v1.1", {"num_beams": 4, "min_length": 2, "early_stopping": True}),
    "5 beams, long, never early": Case(
        "t5", {"num_beams": 5, "early_stopping": "never", "length_penalty": 0.7, "no_repeat_ngram_size": 3}
    ),
    "4 beams, short, never early": Case(
        "bart", {"num_beams": 4, "early_stopping": "never", "length_penalty": -0.6, "min_length": 3}
    ),
    "3 beams, no penalty": Case("bart", {"num_beams": 3, "length_penalty": 0.0, "forced_bos_token_id": 5}),
    "5 beams, two ends": Case("mbart", {"num_beams": 5, "eos_token_id": [2, 4], "no_repeat_ngram_size": 2}),
    "2 beams, forced start and end": Case(
        "mbart", {"num_beams": 2, "early_stopping": True, "forced_bos_token_id": 7, "forced_eos_token_id": 2}
    ),
}


def random_frames(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    encoded = 2 * rng.normal(size=(BATCH, FRAMES, WIDTH)).astype(np.float32)
    return encoded, np.arange(FRAMES) < rng.integers(1, FRAMES + 1, (BATCH, 1))


def generate(model, encoded, mask=None, **settings) -> np.ndarray:
    """Ours, with HuggingFace's defaults."""
    given = {name: value for name, value in settings.items() if value is not None}
    search = Search(**{"min_length": 0, "early_stopping": False} | given)
    return module.generate(model, encoded, mask, search)


def huggingface(model, encoded, mask, **settings):
    with torch.no_grad():
        return model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.tensor(encoded)),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            **settings,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_tokens_are_huggingfaces(name):
    case = CASES[name]
    family = FAMILIES[case.family]
    theirs, ours = family.build()
    settings = {"max_length": 12} | case.settings
    compiled_before, finished_early, distinct = _generate._cache_size(), 0, set()
    for seed in range(SEEDS):
        randomise(theirs, seed, family.std)
        with torch.no_grad():  # an end likely enough to come at all lengths
            theirs.get_input_embeddings().weight[family.config.eos_token_id] *= 2
        load(ours, theirs.state_dict())
        encoded, mask = random_frames(seed)
        expected = huggingface(theirs, encoded, mask, **settings).numpy()
        tokens = generate(ours, encoded, mask, **settings)
        assert tokens.dtype == np.int32
        if not np.array_equal(tokens, expected):
            assert_tie(tokens, theirs, encoded, mask, settings)
        finished_early += (expected[:, 1:-1] == family.config.eos_token_id).any(axis=1).sum()
        distinct |= {tuple(row) for row in expected.tolist()}
    assert _generate._cache_size() - compiled_before == 1  # weights are arguments
    assert finished_early > 3
    assert len(distinct) > SEEDS


@pytest.mark.parametrize("family", ["t5 v1.1", "bart"])
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_that_outgrow_the_first_cache(family, beams):
    """It has room for 32 tokens."""
    family = FAMILIES[family]
    config = type(family.config)(**family.config.to_dict() | {"max_position_embeddings": 80})
    theirs, ours = Family(family.ours, family.theirs, config, family.std).build()
    settings = {"num_beams": beams, "min_length": 38, "max_length": 72, "no_repeat_ngram_size": 3}
    lengths = set()
    for seed in range(3):
        load(ours, randomise(theirs, seed, family.std).state_dict())
        encoded, mask = random_frames(seed)
        expected = huggingface(theirs, encoded, mask, **settings).numpy()
        tokens = generate(ours, encoded, mask, **settings)
        if not np.array_equal(tokens, expected):
            assert_tie(tokens, theirs, encoded, mask, settings)
        np.testing.assert_array_equal(generate(WithoutCache(ours), encoded, mask, **settings), tokens)
        lengths |= {int((row != config.pad_token_id).sum()) for row in expected}
    assert len(lengths) > 1


def assert_tie(tokens, model, encoded, mask, settings):
    """Every row is one of HuggingFace's beams, and within 1e-5 of the best one's score."""
    assert settings.get("num_beams", 1) > 1, tokens
    beams = settings["num_beams"]
    found = huggingface(
        model, encoded, mask, **settings, num_return_sequences=beams, return_dict_in_generate=True, output_scores=True
    )
    sequences = found.sequences.numpy().reshape(BATCH, beams, -1)
    scores = found.sequences_scores.numpy().reshape(BATCH, beams)
    for row, hypotheses, row_scores in zip(tokens, sequences, scores, strict=True):
        width = min(len(row), hypotheses.shape[1])
        same = (hypotheses[:, :width] == row[:width]).all(axis=1)
        assert same.any(), (row, hypotheses)
        assert row_scores[0] - row_scores[same].max() < 1e-5, (row, hypotheses, row_scores)


class WithoutCache(nnx.Module):
    """A custom decoder: no `init_cache`, no `decode_step`."""

    def __init__(self, model):
        self.model = model
        self.config = model.config

    def __call__(self, *args, **kwargs):
        return self.model(*args, **kwargs)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_decoder_without_a_cache(beams):
    theirs, ours = FAMILIES["bart"].build()
    load(ours, randomise(theirs, 0, 0.4).state_dict())
    encoded, mask = random_frames(0)
    settings = {"num_beams": beams, "max_length": 8, "no_repeat_ngram_size": 2}
    expected = generate(ours, encoded, mask, **settings)
    np.testing.assert_array_equal(generate(WithoutCache(ours), encoded, mask, **settings), expected)


def test_explicit_arguments_win_over_the_config():
    theirs, ours = FAMILIES["bart"].build()
    load(ours, randomise(theirs, 0, 0.4).state_dict())
    encoded, _ = random_frames(0)
    endless = {"max_length": 6, "eos_token_id": ()}
    free = generate(ours, encoded, **endless, forced_eos_token_id=(), decoder_start_token_id=5)
    assert (free[:, 0] == 5).all()
    assert (free[:, -1] != 2).any()
    assert (generate(ours, encoded, **endless)[:, -1] == 2).all()  # the config's forced end
    assert (generate(ours, encoded, **endless, forced_eos_token_id=9)[:, -1] == 9).all()


def test_generation_ends_with_the_positions():
    """HuggingFace fails there with an IndexError; this decoder has 16."""
    _, ours = FAMILIES["bart"].build()
    encoded, _ = random_frames(0)
    assert generate(ours, encoded, max_length=99, eos_token_id=()).shape[1] == 17


@pytest.mark.parametrize("beams", [1, 2])
def test_no_repeats_of_more_tokens_than_there_are(beams):
    theirs, ours = FAMILIES["t5"].build()
    load(ours, randomise(theirs, 0, 0.4).state_dict())
    encoded, mask = random_frames(0)
    settings = {"num_beams": beams, "max_length": 4, "no_repeat_ngram_size": 6}
    expected = huggingface(theirs, encoded, mask, **settings).numpy()
    np.testing.assert_array_equal(generate(ours, encoded, mask, **settings), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forced_bos_token_id": VOCAB}, f"forced_bos_token_id {VOCAB}: the vocabulary has the ids 0 to {VOCAB - 1}"),
        ({"eos_token_id": [2, 99]}, "eos_token_id 2, 99: the vocabulary has the ids"),
        ({"decoder_start_token_id": -1}, "decoder_start_token_id -1: the vocabulary has the ids"),
    ],
)
def test_settings_that_huggingface_refuses_too(settings, message):
    _, ours = FAMILIES["bart"].build()
    with pytest.raises(ValueError, match=message):
        generate(ours, random_frames(0)[0], **settings)


def test_what_cannot_be_generated():
    _, ours = FAMILIES["bart"].build()
    encoded = jnp.zeros((1, 2, WIDTH))
    with pytest.raises(ValueError, match="max_length 1 must be at least 2"):
        generate(ours, encoded, max_length=1)
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        generate(T5(T5_SIZES, rngs=nnx.Rngs(0)), encoded, max_length=4)


@pytest.mark.parametrize("name", [*T5_CASES, pytest.param("bart", marks=needs_goldens)])
def test_goldens(name):
    golden = Golden(name)
    if name == "bart":
        config = BartConfig.from_pretrained(golden.folder / "decoder_config").to_dict()
        model = load(Bart(config, rngs=nnx.Rngs(0)), decoder_state(golden.checkpoint))
    else:
        model = golden_t5(golden)
    encoded, mask = golden.expected["encoded"], golden.batch()["pad_mask"]
    greedy = generate(model, encoded, mask, min_length=2, max_length=16)
    np.testing.assert_array_equal(greedy, golden.expected["generate_greedy"])
    beams = generate(model, encoded, mask, num_beams=4, min_length=2, max_length=16, early_stopping=True)
    np.testing.assert_array_equal(beams, golden.expected["generate_beam4"])
