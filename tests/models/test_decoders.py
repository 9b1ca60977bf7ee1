"""The settings of a decoder, completed as transformers completes them."""

import pytest
import transformers

from slt_jax.config import build_section
from slt_jax.errors import UserError
from slt_jax.models.decoders import decoder_settings

MODEL = {"d_model": 32, "temporal_nhead": 4, "decoder_heads": 4, "vocab_size": 50}


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"model_type": "t5"}, 0),  # T5 has none of its own: v9 takes pad
        ({"model_type": "t5", "decoder_start_token_id": 3}, 3),
        ({"model_type": "bart"}, transformers.BartConfig().decoder_start_token_id),
        ({"model_type": "bart", "decoder_start_token_id": 7}, 7),
        ({"model_type": "mbart"}, None),  # its labels begin with their language
        (None, 0),
    ],
    ids=str,
)
def test_start_token(fields, start):
    given = None if fields is None else fields | {"d_model": 32, "vocab_size": 50}
    settings = decoder_settings(build_section("model", MODEL | {"decoder_config": given}))
    assert settings["decoder_start_token_id"] == start


def test_kwargs_override_fields():
    config = build_section("model", MODEL | {
        "decoder_config": {"model_type": "bart", "d_model": 32, "vocab_size": 50, "forced_eos_token_id": 1},
        "decoder_kwargs": {"forced_eos_token_id": None, "decoder_layers": 1},
    })  # fmt: skip
    settings = decoder_settings(config)
    assert (settings["forced_eos_token_id"], settings["decoder_layers"]) == (None, 1)


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        ({"foo": 1}, "--decoder-kwargs: 'foo' is no field of a t5 configuration"),
        (
            {"dropout": 0.3},
            "--decoder-kwargs: 'dropout' is no field of a t5 configuration; did you mean 'dropout_rate'?",
        ),
        (
            {"model_type": "bart", "decoder_ffn": 8},
            "--decoder-kwargs: 'decoder_ffn' is no field of a bart configuration; did you mean 'decoder_ffn_dim'?",
        ),
    ],
    ids=str,
)
def test_a_name_that_the_family_does_not_know(kwargs, line):
    config = build_section("model", MODEL | {"decoder_kwargs": kwargs})
    with pytest.raises(UserError) as refused:
        decoder_settings(config)
    assert str(refused.value) == line
    decoder_settings(config, checked=False)  # as v9 has written it into a file


def test_names_that_the_families_know():
    kwargs = {"num_hidden_layers": 2, "forced_bos_token_id": 3, "decoder_start_token_id": 2}
    for kind in ("t5", "mt5", "bart", "mbart"):
        decoder_settings(build_section("model", MODEL | {"decoder_kwargs": {"model_type": kind, **kwargs}}))
    foreign = {"model_type": "t5", "d_model": 32, "vocab_size": 50, "task_specific_params": {}, "n_positions": 512}
    decoder_settings(build_section("model", MODEL | {"decoder_config": foreign}))  # a configuration may have more
