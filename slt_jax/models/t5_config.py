"""The settings of T5, T5 v1.1 and mT5: HuggingFace's, with their defaults."""

from collections.abc import Mapping
from typing import Any

from slt_jax.config import ModelConfig
from slt_jax.models.seq2seq import AttentionSizes

DEFAULTS = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "feed_forward_proj": "relu",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": None,
}
MT5_DEFAULTS = {
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
}


def normalise_t5_config(raw: Mapping) -> dict:
    """Every field the model reads, from a config.json of transformers 4 or 5.

    Up to transformers 4, `tie_word_embeddings: false` (T5 v1.1) meant a separate head and unscaled outputs. Since 5,
    `scale_decoder_outputs` says the latter and every configuration is tied, though weights may bring a separate head.
    Here `tie_word_embeddings` alone decides about the head: who reads weights sets it to what they hold.
    """
    mt5 = raw.get("model_type") == "mt5"
    config: dict[str, Any] = DEFAULTS | (MT5_DEFAULTS if mt5 else {}) | dict(raw)
    config["num_decoder_layers"] = config.get("num_decoder_layers") or config["num_layers"]

    kind, _, name = config["feed_forward_proj"].rpartition("-")
    if kind not in ("", "gated"):
        raise ValueError(f"feed_forward_proj {config['feed_forward_proj']!r}: give ACTIVATION or gated-ACTIVATION")
    config.setdefault("is_gated_act", kind == "gated")
    config.setdefault("dense_act_fn", "gelu_new" if config["feed_forward_proj"] == "gated-gelu" else name)

    config["tie_word_embeddings"] = raw.get("tie_word_embeddings") is not False
    config["scale_decoder_outputs"] = not mt5 and raw.get("scale_decoder_outputs", config["tie_word_embeddings"])
    return config


def settings_from_flags(config: ModelConfig) -> dict:
    """The settings of v9's T5: those that its flags set, beside the ones that all families share."""
    return {
        "d_kv": config.d_model // config.decoder_heads,
        "d_ff": 4 * config.d_model,
        "num_layers": config.decoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.decoder_heads,
        "dropout_rate": config.decoder_dropout,
    }


def attention_sizes(settings: Mapping) -> AttentionSizes:
    """The sizes of the attention of a decoder with these settings."""
    config = normalise_t5_config(settings)
    return AttentionSizes(config["num_decoder_layers"], config["num_heads"], config["d_kv"])
