"""Our BART and mBART against HuggingFace's: random models, large weights, padding in both masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import BartConfig, BartForConditionalGeneration, MBartConfig, MBartForConditionalGeneration

from slt_jax.models.bart import Bart, normalise_bart_config
from tests.parity.goldens import Golden, needs_goldens
from tests.parity.torch_weights import (
    buffers_first,
    decoder_state,
    forward,
    gradient_errors,
    inputs,
    load,
    quick_compilation,  # noqa: F401 (a fixture)
    randomise,
    relative_error,
    token_loss,
    torch_forward,
)

SIZES = {
    "vocab_size": 31,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "max_position_embeddings": 48,
    "dropout": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 1,
}
CONFIGS = {
    "gelu": (BartConfig, {}),
    # v9 starts with the padding, whose embedding torch does not train where it is read.
    "relu, scaled, starts with pad": (
        BartConfig,
        {"activation_function": "relu", "scale_embedding": True, "decoder_start_token_id": 0},
    ),
    "untied, 1 + 3 layers": (BartConfig, {"tie_word_embeddings": False, "encoder_layers": 1, "decoder_layers": 3}),
    "mBART": (MBartConfig, {"decoder_start_token_id": None}),
    "mBART, scaled, gelu_new": (MBartConfig, {"scale_embedding": True, "activation_function": "gelu_new"}),
}
MODELS = {BartConfig: BartForConditionalGeneration, MBartConfig: MBartForConditionalGeneration}


def pair(name: str, seed: int = 0, std: float = 0.3):
    """HuggingFace's model with random weights and ours with the same."""
    config_class, overrides = CONFIGS[name]
    theirs = randomise(MODELS[config_class](config_class(**(SIZES | overrides))), seed, std)
    theirs.final_logits_bias.copy_(torch.randn(1, 31, generator=torch.Generator().manual_seed(seed)))
    return theirs, load(Bart(theirs.config.to_dict(), rngs=nnx.Rngs(0)), theirs.state_dict())


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name, masked):
    theirs, ours = pair(name)
    data = inputs()
    _, expected = torch_forward(theirs, data, masked=masked)
    masks = (data["encoder_mask"], data["decoder_mask"]) if masked else (None, None)
    logits = forward(ours, data["encoded"], masks[0], ours.shift_right(data["labels"]), masks[1])
    assert logits.dtype == jnp.float32
    assert relative_error(logits, expected.logits.detach()) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients(name):
    theirs, ours = pair(name)
    data = inputs()
    encoded, expected = torch_forward(theirs, data)
    expected.loss.backward()
    gradients = nnx.jit(nnx.value_and_grad(token_loss, argnums=(0, 1)))
    value, (by_model, by_encoded) = gradients(ours, data["encoded"], data)
    assert abs(value - expected.loss.item()) < 1e-5 * expected.loss.item()
    assert relative_error(by_encoded, encoded.grad) < 1e-4
    # A key bias shifts all scores of a query alike: its gradient is rounding around zero.
    assert gradient_errors(ours, by_model, theirs, ignore="k_proj.bias") < 1e-4


@pytest.mark.parametrize("name", ["gelu", "mBART, scaled, gelu_new"])
def test_text_encoder(name):
    theirs, ours = pair(name)
    ids = np.random.default_rng(2).integers(0, 31, (3, 40))
    mask = np.arange(40) < np.array([[40], [17], [3]])
    with torch.no_grad():
        text = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        expected = theirs.model.encoder(**text).last_hidden_state
    assert relative_error(np.asarray(nnx.jit(Bart.encode)(ours, ids, mask))[mask], expected.numpy()[mask]) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_decode_step_equals_the_full_forward(name):
    _, ours = pair(name)
    data = inputs()
    ids = ours.shift_right(data["labels"])
    full = forward(ours, data["encoded"], data["encoder_mask"], ids)
    cache = ours.init_cache(jnp.asarray(data["encoded"]), jnp.asarray(data["encoder_mask"]), 12)
    step = nnx.jit(Bart.decode_step)
    for position in range(ids.shape[1]):
        logits, cache = step(ours, ids[:, position], jnp.int32(position), cache)
        assert relative_error(logits, full[:, position]) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_initialisation_has_huggingface_scales(name):
    config_class, overrides = CONFIGS[name]
    larger = {"d_model": 96, "vocab_size": 200, "max_position_embeddings": 90, "init_std": 0.04}
    theirs = MODELS[config_class](config_class(**(SIZES | overrides | larger)))
    ours = Bart(theirs.config.to_dict(), rngs=nnx.Rngs(0))
    assert [key for key, _, _ in buffers_first(ours)] == list(theirs.state_dict())
    for key, variable, _ in buffers_first(ours):
        expected, actual = theirs.state_dict()[key], np.asarray(variable[...])
        if expected.ndim == 1 or key == "final_logits_bias":
            np.testing.assert_array_equal(actual, expected)
        else:
            assert (actual == 0).all(axis=1).sum() == (expected == 0).all(dim=1).sum(), key  # the padding's row
            assert abs(actual.std() / expected.std().item() - 1) < 4 / actual.size**0.5 + 0.01, key


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "activation_dropout", "decoder_layerdrop"])
def test_dropout_is_seeded_and_off_without_a_key(rate):
    model = Bart(BartConfig(**(SIZES | {rate: 0.4, "init_std": 0.3})).to_dict(), rngs=nnx.Rngs(0))
    data = inputs()
    run = functools.partial(forward, model, data["encoded"], data["encoder_mask"], model.shift_right(data["labels"]))
    np.testing.assert_array_equal(run(), run())
    np.testing.assert_array_equal(run(key=jax.random.key(1)), run(key=jax.random.key(1)))
    assert max(relative_error(run(key=jax.random.key(1)), run(key=jax.random.key(i))) for i in range(2, 6)) > 0.01


def test_bfloat16_stays_near_float32():
    theirs, _ = pair("gelu", std=0.1)
    ours = load(Bart(theirs.config.to_dict(), dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), theirs.state_dict())
    data = inputs()
    _, expected = torch_forward(theirs, data)
    ids = ours.shift_right(data["labels"])
    logits = forward(ours, data["encoded"], data["encoder_mask"], ids, data["decoder_mask"])
    assert logits.dtype == jnp.float32
    assert relative_error(logits, expected.logits.detach()) < 2e-2


@pytest.mark.parametrize("config_class", [BartConfig, MBartConfig])
def test_defaults_are_huggingfaces(config_class):
    theirs = config_class().to_dict()
    ours = normalise_bart_config({"model_type": config_class.model_type})
    assert ours == {name: theirs.get(name) for name in ours}


def test_too_many_tokens_for_the_positions():
    model = Bart(SIZES | {"max_position_embeddings": 8}, rngs=nnx.Rngs(0))
    encoded = jnp.zeros((1, 3, 24))
    with pytest.raises(ValueError, match="9 tokens are more than the 8 positions"):
        model(encoded, None, jnp.zeros((1, 9), jnp.int32))
    with pytest.raises(ValueError, match="max_length 10 needs more positions"):
        model.init_cache(encoded, None, 9)


@needs_goldens
def test_golden_logits():
    golden = Golden("bart")
    config = BartConfig.from_pretrained(golden.folder / "decoder_config").to_dict()
    ours = load(Bart(config, rngs=nnx.Rngs(0)), decoder_state(golden.checkpoint))
    names = [name for name in golden.expected["param_names"] if name.startswith("decoder.")]
    assert [f"decoder.model.{key}" for key, _, _ in buffers_first(ours)] == names
    batch = golden.batch()
    ids = ours.shift_right(batch["labels"])
    logits = forward(ours, golden.expected["encoded"], batch["pad_mask"], ids, batch["decoder_attention_mask"])
    assert relative_error(logits, golden.expected["logits"]) < 1e-5
