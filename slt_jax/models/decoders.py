"""Which decoder a configuration asks for, and its settings: a HuggingFace decoder, or the user's own class.

The user's own class, `--decoder-class package.module:Class`, is a Flax NNX module with this protocol:

    Class(d_model, vocab_size, num_layers, num_heads, dropout, pad_token_id, eos_token_id, rngs, **decoder_kwargs)
        and dtype, if it has such a parameter
    model(encoded (B, T, d_model), encoder_mask (B, T) or None, ids (B, S), mask (B, S) or None, *, key=None)
        logits (B, S, vocab_size); a position sees itself and the past; `key` turns dropout on
    model.shift_right(labels (B, S))                  optional: decoder inputs; by default pad_token_id comes first
    model.init_cache, model.decode_step               optional: see `seq2seq`; without them each token runs the prefix
    model.grow_cache, model.spread_cache              optional, if it has those two: see `seq2seq`
    model.generate(encoded, encoder_mask, **options)  optional: token ids, in place of our search

Its attribute paths are its torch keys, under `decoder.model.`. docs/custom_decoders.md has an example.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Int

from slt_jax.base.hub import huggingface_folder
from slt_jax.base.json_text import read_json
from slt_jax.config import ModelConfig
from slt_jax.config_rules import check_plain
from slt_jax.errors import UserError, divisors, nearest, shown
from slt_jax.models import seq2seq
from slt_jax.models.custom import build_custom
from slt_jax.models.families import family_of
from slt_jax.models.remat import KEEP_ALL, Memory

# Fields that are read here, though transformers leaves them out of some configurations.
READ = ("model_type", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id")


def decoder_settings(config: ModelConfig, *, tie_word_embeddings: bool = True, checked: bool = True) -> dict[str, Any]:
    """The fields of the HuggingFace configuration of the decoder: from flags, `decoder_config` or `decoder_model`.

    `decoder_kwargs` override fields; a name that the family does not know is a UserError if they are `checked`, which
    those in a file of another program need not be. `tie_word_embeddings` says whether the output layer is the
    embedding; only weights can tell, since transformers 5 writes `true` into every T5 configuration.
    """
    if config.decoder_class:
        return _custom_settings(config)
    fields = _read_settings(config) if config.decoder_config or config.decoder_model else _settings_from_flags(config)
    fields |= config.decoder_kwargs
    settings = _with_defaults(fields)
    if checked:
        _check_names(config.decoder_kwargs, settings["model_type"])
    settings["tie_word_embeddings"] = tie_word_embeddings
    for key in ("encoder_attention_heads", "decoder_attention_heads"):  # T5 has a width for its heads
        if settings["d_model"] % (heads := settings.get(key) or 1):
            raise UserError(
                f"the decoder's d_model {settings['d_model']} is not divisible by {key} {heads}; it is by "
                f"{divisors(settings['d_model'], heads)}"
            )
    if "forced_bos_token_id" in config.decoder_kwargs:  # which transformers 5 has moved out of configurations
        settings["forced_bos_token_id"] = config.decoder_kwargs["forced_bos_token_id"]
    # Labels that begin with their language need no start token, and generation begins with bos there.
    kind = settings["model_type"]
    if settings.get("decoder_start_token_id") is None and kind not in family_of(kind).language_first:
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


def decoder_folder(config: ModelConfig, *, weights: bool = True) -> Path:
    """The folder that `--decoder-model`, a folder or a hub id, names. Raises UserError if it cannot be had."""
    assert config.decoder_model is not None
    return huggingface_folder(
        config.decoder_model, "--decoder-model", weights=weights, local_files_only=config.local_files_only
    )


def build_decoder(settings: Mapping[str, Any], *, dtype, memory: Memory = KEEP_ALL, rngs: nnx.Rngs) -> nnx.Module:
    """The family's module for these settings, or a custom class."""
    if "decoder_class" in settings:
        return _build_custom(settings, dtype=dtype, rngs=rngs)
    return family_of(settings["model_type"]).build(settings, dtype=dtype, memory=memory, rngs=rngs)


def shift_right(model: nnx.Module, labels: Int[Array | np.ndarray, "b s"]) -> Int[Array, "b s"]:
    """Decoder inputs, by the decoder's own rule if it has one."""
    if hasattr(model, "shift_right"):
        return model.shift_right(labels)
    config = getattr(model, "config", {})
    return seq2seq.shift_right(labels, config.get("decoder_start_token_id"), config.get("pad_token_id"))


# --- custom classes -----------------------------------------------------------------------------------------------


def _custom_settings(config: ModelConfig) -> dict[str, Any]:
    """What the constructor of `--decoder-class` gets, tried without computing an array."""
    kwargs = {
        "d_model": config.d_model,
        "vocab_size": config.vocab_size,
        "num_layers": config.decoder_layers,
        "num_heads": config.decoder_heads,
        "dropout": config.decoder_dropout,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
    } | config.decoder_kwargs
    settings = {"decoder_class": config.decoder_class, "kwargs": kwargs}
    flag = f"--decoder-class {config.decoder_class}"
    built = {}

    def call() -> Array:
        model = build_decoder(settings, dtype=jnp.float32, rngs=nnx.Rngs(0))
        built["d_model"] = getattr(model, "d_model", kwargs["d_model"])
        encoded, seen, tokens = jnp.zeros((2, 3, config.d_model)), jnp.ones((2, 3), bool), jnp.zeros((2, 5), jnp.int32)
        if seq2seq.has_cache(model) and not hasattr(model, "generate"):
            _try_cache(model, encoded, seen, kwargs["vocab_size"])
        return model(encoded, seen, tokens, jnp.ones(tokens.shape, bool), key=jax.random.key(0))

    problem = None
    try:
        logits = jax.eval_shape(call)
        shape = getattr(logits, "shape", None)
        if shape != (2, 5, kwargs["vocab_size"]):
            problem = f"its logits have the shape {shape} where (2, 5, vocab_size {kwargs['vocab_size']}) is expected"
    except UserError:
        raise
    except Exception as error:  # whatever foreign code raises
        problem = f"calling it fails: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if built.get("d_model", config.d_model) != config.d_model:
        raise UserError(
            f"{flag}: the decoder's d_model is {built['d_model']} but model.d_model is {config.d_model}; "
            f"set --d-model {built['d_model']}"
        )
    if problem:
        raise UserError(f"{flag}: {problem} (the protocol is in slt_jax/models/decoders.py)")
    return settings


def _try_cache(model: Any, encoded: Array, seen: Array, vocab: int) -> None:
    """Generate a token as greedy and beam search do. Raises ValueError if shapes are not those of the protocol."""
    for beams in (1, 2):
        rows = beams * len(encoded)
        cache = model.init_cache(encoded, seen, 4)
        if not isinstance(cache, dict) or "self" not in cache:
            raise ValueError("init_cache gives no dict with the key 'self'")
        cache = seq2seq.cache_for_beams(model, cache, beams)
        if hasattr(model, "grow_cache"):
            longer = seq2seq.cache_for_beams(model, model.init_cache(encoded, seen, 8), beams)
            cache = model.grow_cache(cache, 8)
            _compare(_shapes(cache), _shapes(longer), "grow_cache makes", "where init_cache has")
        logits, after = model.decode_step(jnp.zeros(rows, jnp.int32), jnp.int32(0), cache)
        if logits.shape != (rows, vocab):
            raise ValueError(f"decode_step gives logits {logits.shape} where {(rows, vocab)} is expected")
        _compare(_shapes(cache), _shapes(after), "decode_step turns", "into")
        if any(x.shape[:1] != (rows,) for x in jax.tree.leaves(after["self"])):
            raise ValueError("what lies under 'self' in the cache needs a row for each beam first")


def _compare(had: dict[str, str], has: dict[str, str], verb: str, link: str) -> None:
    for name in had | has:
        if had.get(name) != has.get(name):
            raise ValueError(f"{verb} cache{name} {had.get(name, 'nothing')} {link} {has.get(name, 'nothing')}")


def _shapes(cache: seq2seq.Cache) -> dict[str, str]:
    """The type and shape of each of its arrays, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(cache)
    return {jax.tree_util.keystr(path): f"{jnp.result_type(x)}{list(jnp.shape(x))}" for path, x in leaves}


def _build_custom(settings: Mapping[str, Any], *, dtype, rngs: nnx.Rngs) -> nnx.Module:
    name, kwargs = settings["decoder_class"], settings["kwargs"]
    model = build_custom(name, kwargs, f"--decoder-class {name}", dtype=dtype, rngs=rngs)
    if not hasattr(model, "config"):  # which generation reads
        model.config = seq2seq.FrozenConfig({"decoder_start_token_id": kwargs["pad_token_id"]} | kwargs)
    return model


# --- HuggingFace decoders -----------------------------------------------------------------------------------------


def _settings_from_flags(config: ModelConfig) -> dict[str, Any]:
    """v9's decoder when nothing else is named: T5, or the family of `decoder_kwargs.model_type`."""
    kind = config.decoder_kwargs.get("model_type", "t5")
    return {
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "decoder_start_token_id": config.pad_token_id,
    } | family_of(kind).settings_from_flags(config)


def _read_settings(config: ModelConfig) -> dict[str, Any]:
    """A HuggingFace `config.json`: as a mapping, a file, the folder that holds it, or a hub id."""
    source = config.decoder_config
    if isinstance(source, Mapping):
        return dict(source)
    if source:
        flag, path = "--decoder-config", Path(source)
        if not path.exists():
            path = huggingface_folder(source, flag, weights=False, local_files_only=config.local_files_only)
    else:
        flag, path = "--decoder-model", decoder_folder(config)
    path = path / "config.json" if path.is_dir() else path
    settings = read_json(path, flag)
    if not isinstance(settings, dict):
        raise UserError(f"{flag} {path}: is not a JSON object")
    check_plain(f"{flag} {path}", settings)
    return settings


def _with_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` completed with transformers' defaults for their `model_type`."""
    from transformers import CONFIG_MAPPING  # slow to import

    kind = fields.get("model_type")
    family_of(kind)  # an unknown one is an error
    try:
        settings = CONFIG_MAPPING[kind](**{k: v for k, v in fields.items() if k != "model_type"})
    except Exception as error:  # transformers and its hub have kinds of their own
        raise UserError(f"the decoder's configuration is not valid: {' '.join(str(error).split())}") from None
    start = getattr(settings, "decoder_start_token_id", None)  # `to_dict` of a T5 configuration leaves it out
    return settings.to_dict() | {"decoder_start_token_id": start, "model_type": kind}


def _check_names(given: Mapping[str, Any], kind: str) -> None:
    """Raise UserError for a name that no configuration of this kind has, as transformers takes any."""
    from transformers import CONFIG_MAPPING

    usual = CONFIG_MAPPING[kind]()
    known = {*usual.to_dict(), *usual.attribute_map, *READ}
    if unknown := [name for name in given if name not in known]:
        raise UserError(
            f"--decoder-kwargs: {shown(unknown[0])} is no field of a {kind} configuration"
            f"{nearest(unknown[0], sorted(known), listed=False)}"
        )
