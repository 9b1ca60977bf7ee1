"""Which decoder a configuration asks for, and its HuggingFace settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from slt_jax.config import ModelConfig
from slt_jax.errors import UserError


def decoder_settings(config: ModelConfig, *, tie_word_embeddings: bool = True) -> dict[str, Any]:
    """The fields of the HuggingFace configuration of the decoder: from flags, `decoder_config` or `decoder_model`.

    `decoder_kwargs` override fields. `tie_word_embeddings` says whether the output layer is the embedding; only
    weights can tell, since transformers 5 writes `true` into every T5 configuration.
    """
    source = config.decoder_config or config.decoder_model
    fields = _read_settings(source) if source else _settings_from_flags(config)
    fields |= config.decoder_kwargs
    settings = _with_defaults(fields)
    settings["tie_word_embeddings"] = tie_word_embeddings
    if settings.get("decoder_start_token_id") is None:
        settings["decoder_start_token_id"] = settings["pad_token_id"]
    if settings["d_model"] != config.d_model:
        flags = (("--decoder-config", config.decoder_config), ("--decoder-model", config.decoder_model))
        where = next((flag for flag, given in flags if given), "--decoder-kwargs")
        raise UserError(
            f"{where}: the decoder's d_model is {settings['d_model']} but model.d_model is {config.d_model}; "
            f"set --d-model {settings['d_model']}"
        )
    if config.vocab_size is not None and settings["vocab_size"] < config.vocab_size:
        raise UserError(
            f"the decoder's vocab_size {settings['vocab_size']} is smaller than the tokenizer's {config.vocab_size}; "
            f"use the tokenizer that belongs to the decoder"
        )
    return settings


def build_decoder(settings: Mapping[str, Any], *, dtype, rngs: nnx.Rngs) -> nnx.Module:
    """A `T5` or `Bart` for these settings."""
    if settings["model_type"] in ("t5", "mt5"):
        from slt_jax.models.t5 import T5

        return T5(settings, dtype=dtype, rngs=rngs)
    from slt_jax.models.bart import Bart

    return Bart(settings, dtype=dtype, rngs=rngs)


def _settings_from_flags(config: ModelConfig) -> dict[str, Any]:
    """v9's decoder when nothing else is named: T5, or BART/mBART where `decoder_kwargs.model_type` says so."""
    kind = config.decoder_kwargs.get("model_type", "t5")
    common = {
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.pad_token_id,
    }
    if kind in ("t5", "mt5"):
        return common | {
            "d_kv": config.d_model // config.decoder_heads,
            "d_ff": 4 * config.d_model,
            "num_layers": config.decoder_layers,
            "num_decoder_layers": config.decoder_layers,
            "num_heads": config.decoder_heads,
            "dropout_rate": config.decoder_dropout,
        }
    return common | {
        "encoder_layers": config.decoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.decoder_heads,
        "decoder_attention_heads": config.decoder_heads,
        "encoder_ffn_dim": 4 * config.d_model,
        "decoder_ffn_dim": 4 * config.d_model,
        "dropout": config.decoder_dropout,
    }


def _read_settings(source: str | Mapping) -> dict[str, Any]:
    """A HuggingFace `config.json`: as a mapping, a file, or the folder that holds it."""
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--decoder-config {source}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise UserError(f"--decoder-config {path}: is not JSON") from None


def _with_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` completed by transformers' defaults for their `model_type`."""
    from transformers import CONFIG_MAPPING  # slow to import

    kind = fields.get("model_type")
    if kind not in ("t5", "mt5", "bart", "mbart"):
        raise UserError(f"decoder model_type {kind!r} is not supported; use t5, mt5, bart or mbart")
    try:
        settings = CONFIG_MAPPING[kind](**{k: v for k, v in fields.items() if k != "model_type"})
    except (TypeError, ValueError) as error:
        raise UserError(f"the decoder's configuration is not valid: {' '.join(str(error).split())}") from None
    return settings.to_dict() | {"decoder_start_token_id": fields.get("decoder_start_token_id")} | {"model_type": kind}
