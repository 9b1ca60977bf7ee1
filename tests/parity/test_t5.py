"""Our T5 against HuggingFace's: random models, large weights, padding in both masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from slt_jax.models.t5 import T5, distance_buckets
from slt_jax.models.t5_config import normalise_t5_config
from tests.parity.goldens import T5_CASES, Golden
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
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
CONFIGS = {
    "v1.0": (T5Config, {}),
    "v1.1": (T5Config, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "untied": (T5Config, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "separate_head": True}),
    "silu, other d_kv, 3 + 1 layers": (
        T5Config,
        {"feed_forward_proj": "gated-silu", "d_kv": 10, "num_layers": 3, "num_decoder_layers": 1},
    ),
    "gelu, few buckets": (
        T5Config,
        {"feed_forward_proj": "gelu", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10},
    ),
    "mT5": (MT5Config, {"decoder_start_token_id": 3}),
}


def pair(name: str, seed: int = 0, std: float = 0.4):
    """HuggingFace's model with random weights and ours with the same."""
    config_class, overrides = CONFIGS[name]
    overrides = dict(overrides)
    separate_head = overrides.pop("separate_head", False)
    config = config_class(**(SIZES | overrides))
    model_class = MT5ForConditionalGeneration if config_class is MT5Config else T5ForConditionalGeneration
    theirs = model_class(config)
    settings = normalise_t5_config(config.to_dict())
    if separate_head:
        theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.detach().clone())
        settings["tie_word_embeddings"] = False
    randomise(theirs, seed, std)
    return theirs, load(T5(settings, rngs=nnx.Rngs(0)), theirs.state_dict())


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
    assert gradient_errors(ours, by_model, theirs) < 1e-4


@pytest.mark.parametrize("name", ["v1.0", "silu, other d_kv, 3 + 1 layers", "gelu, few buckets"])
def test_text_encoder(name):
    theirs, ours = pair(name)
    ids = np.random.default_rng(2).integers(0, 31, (3, 40))
    mask = np.arange(40) < np.array([[40], [17], [3]])
    with torch.no_grad():
        expected = theirs.encoder(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
    states = nnx.jit(T5.encode)(ours, ids, mask)
    assert relative_error(np.asarray(states)[mask], expected.numpy()[mask]) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_decode_step_equals_the_full_forward(name):
    _, ours = pair(name)
    data = inputs()
    ids = ours.shift_right(data["labels"])
    full = forward(ours, data["encoded"], data["encoder_mask"], ids)
    cache = ours.init_cache(jnp.asarray(data["encoded"]), jnp.asarray(data["encoder_mask"]), 12)
    step = nnx.jit(T5.decode_step)
    for position in range(ids.shape[1]):
        logits, cache = step(ours, ids[:, position], jnp.int32(position), cache)
        assert relative_error(logits, full[:, position]) < 1e-5


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 10), (16, 64), (64, 256), (12, 100), (20, 33)])
def test_buckets(buckets, max_distance, causal):
    ours = distance_buckets(1000, buckets, max_distance, causal)
    theirs = T5Attention._relative_position_bucket(-torch.arange(1000), not causal, buckets, max_distance)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["v1.0", "v1.1", "mT5"])
def test_initialisation_has_huggingface_scales(name):
    config_class, overrides = CONFIGS[name]
    larger = {"d_model": 96, "d_kv": 16, "d_ff": 160, "vocab_size": 200, "initializer_factor": 0.7}
    config = config_class(**(SIZES | overrides | larger))
    theirs = (MT5ForConditionalGeneration if config_class is MT5Config else T5ForConditionalGeneration)(config)
    ours = T5(config.to_dict(), rngs=nnx.Rngs(0))
    assert [key for key, _, _ in buffers_first(ours)] == list(theirs.state_dict())
    for key, variable, _ in buffers_first(ours):
        expected, actual = theirs.state_dict()[key], np.asarray(variable[...])
        if expected.ndim == 1:
            np.testing.assert_array_equal(actual, expected)
        else:  # the sample deviation of n normal numbers is within 4 of its own standard deviations
            assert abs(actual.std() / expected.std().item() - 1) < 4 / actual.size**0.5 + 0.01, key


def test_dropout_is_seeded_and_off_without_a_key():
    config = T5Config(**(SIZES | {"dropout_rate": 0.3}))
    model = T5(config.to_dict(), rngs=nnx.Rngs(0))
    data = inputs()
    run = functools.partial(forward, model, data["encoded"], data["encoder_mask"], model.shift_right(data["labels"]))
    np.testing.assert_array_equal(run(), run())
    np.testing.assert_array_equal(run(key=jax.random.key(1)), run(key=jax.random.key(1)))
    assert relative_error(run(key=jax.random.key(1)), run(key=jax.random.key(2))) > 0.05


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_near_float32(dtype):
    theirs, _ = pair("v1.1", std=0.1)
    ours = load(T5(theirs.config.to_dict(), dtype=dtype, rngs=nnx.Rngs(0)), theirs.state_dict())
    data = inputs()
    _, expected = torch_forward(theirs, data)
    ids = ours.shift_right(data["labels"])
    logits = forward(ours, data["encoded"], data["encoder_mask"], ids, data["decoder_mask"])
    assert logits.dtype == jnp.float32
    assert relative_error(logits, expected.logits.detach()) < (2e-2 if dtype == jnp.bfloat16 else 3e-3)


def test_configs_of_transformers_4_and_5():
    old_v1_1 = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    config = normalise_t5_config(old_v1_1)
    assert (config["tie_word_embeddings"], config["scale_decoder_outputs"]) == (False, False)
    assert (config["dense_act_fn"], config["is_gated_act"]) == ("gelu_new", True)
    assert normalise_t5_config(config) == config
    new = normalise_t5_config(T5Config(**old_v1_1).to_dict())
    assert (new["tie_word_embeddings"], new["scale_decoder_outputs"]) == (True, False)
    new["tie_word_embeddings"] = False  # a loader that found a separate head
    assert normalise_t5_config(new) == new
    mt5 = normalise_t5_config(MT5Config().to_dict() | {"tie_word_embeddings": False})
    assert (mt5["tie_word_embeddings"], mt5["scale_decoder_outputs"]) == (False, False)
    for raw in ({}, old_v1_1, {"num_layers": 3}, {"scale_decoder_outputs": False}, {"feed_forward_proj": "gated-silu"}):
        ours, theirs = normalise_t5_config(raw), T5Config(**raw).to_dict() | raw
        assert ours == {name: theirs.get(name) for name in ours}
    with pytest.raises(ValueError, match="feed_forward_proj"):
        normalise_t5_config({"feed_forward_proj": "double-gelu"})
    with pytest.raises(ValueError, match="unknown activation 'gulu'"):
        T5(SIZES | {"feed_forward_proj": "gated-gulu"}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("case", T5_CASES)
def test_golden_logits(case):
    golden = Golden(case)
    ours = golden_t5(golden)
    names = [name for name in golden.expected["param_names"] if name.startswith("decoder.")]
    keys = [f"decoder.model.{key}" for key, _, _ in buffers_first(ours)]
    assert [key for key in keys if key in names] == names  # tied tensors perhaps once
    batch = golden.batch()
    ids = ours.shift_right(batch["labels"])
    logits = forward(ours, golden.expected["encoded"], batch["pad_mask"], ids, batch["decoder_attention_mask"])
    assert relative_error(logits, golden.expected["logits"]) < 1e-5


def golden_t5(golden: Golden) -> T5:
    if (golden.folder / "decoder_config").exists():
        config = T5Config.from_pretrained(golden.folder / "decoder_config").to_dict()
    else:
        model = golden.model
        width, heads = model["d_model"], model["decoder_heads"]
        config = {"vocab_size": model["vocab_size"], "d_model": width, "d_kv": width // heads, "d_ff": 4 * width}
        config |= {"num_layers": model["decoder_layers"], "num_heads": heads}
        config |= {"decoder_start_token_id": 0, "dropout_rate": 0.0}
    return load(T5(config, rngs=nnx.Rngs(0)), decoder_state(golden.checkpoint))
