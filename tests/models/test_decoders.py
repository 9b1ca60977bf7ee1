"""The settings of a decoder, completed as transformers completes them."""

import pytest
import transformers

from slt_jax.config import build_section
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
