"""One record per decoder family: what the rest of the program must know about it besides its module.

A new family is a file with its module (`seq2seq` has the protocol) and a row of `FAMILIES`. To be exported as ONNX it
also needs a file in `export/`, named by `export/decoder.py`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx

from slt_jax.config import ModelConfig
from slt_jax.errors import UserError
from slt_jax.models import bart, t5_config
from slt_jax.models.seq2seq import AttentionSizes
from slt_jax.models.t5 import T5

PREFIX = "decoder.model."  # of every decoder's keys in a checkpoint


@dataclass(frozen=True)
class Family:
    """A HuggingFace decoder family.

    Keys are those of its HuggingFace state dict. `base` stands before the keys of the bare model, which are all but the
    output layer's, and is left out of the fields here.
    """

    name: str
    model_types: tuple[str, ...]  # as `model_type` in a HuggingFace configuration
    build: Callable[..., nnx.Module]  # build(settings, dtype=, memory=, rngs=)
    settings_from_flags: Callable[[ModelConfig], dict[str, Any]]  # without the settings that all families share
    attention_sizes: Callable[[Mapping[str, Any]], AttentionSizes]  # of settings

    layers: str  # before the numbers of the decoder's layers
    base: str = ""
    text_encoder: str = "encoder."  # takes no part in the loss, as our encoder replaces it
    embeddings: tuple[str, ...] = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    head: str = "lm_head.weight"
    heads_in: str | None = None  # an array (anything, heads), from which a file tells the number of heads
    zero_if_missing: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()  # found in old files, and read by nothing

    # How tensor parallelism splits its layers, by the last part of their path.
    split_by_outputs: tuple[str, ...] = ()
    split_by_inputs: tuple[str, ...] = ()
    split_by_vocabulary: tuple[str, ...] = ()
    vocabulary_rows: tuple[str, ...] = ()  # arrays (1, vocabulary), split likewise

    position_limit: str | None = None  # the setting that limits the number of tokens
    language_first: tuple[str, ...] = ()  # model types whose labels begin with their language, not with a start token

    def layer_numbers(self, keys: Iterable[str]) -> set[int]:
        """The numbers of the decoder layers among `keys`, with or without `base`."""
        pattern = re.compile(rf"(?:{re.escape(self.base)})?{re.escape(self.layers)}\.(\d+)\.")
        return {int(match[1]) for key in keys if (match := pattern.match(key))}


FAMILIES = {
    "t5": Family(
        name="t5",
        model_types=("t5", "mt5"),
        build=T5,
        settings_from_flags=t5_config.settings_from_flags,
        attention_sizes=t5_config.attention_sizes,
        layers="decoder.block",
        heads_in="decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        leftovers=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", "lm_head.bias"),
        split_by_outputs=("q", "k", "v", "wi", "wi_0", "wi_1"),
        split_by_inputs=("o", "wo"),
        split_by_vocabulary=("shared", "embed_tokens", "lm_head"),
    ),
    "bart": Family(
        name="bart",
        model_types=("bart", "mbart"),
        build=bart.Bart,
        settings_from_flags=bart.settings_from_flags,
        attention_sizes=bart.attention_sizes,
        layers="decoder.layers",
        base="model.",
        zero_if_missing=("final_logits_bias",),
        leftovers=(
            "encoder.version",
            "decoder.version",
            "encoder.embed_positions._float_tensor",
            "decoder.embed_positions._float_tensor",
            "lm_head.bias",
        ),
        split_by_outputs=("q_proj", "k_proj", "v_proj", "fc1"),
        split_by_inputs=("out_proj", "fc2"),
        split_by_vocabulary=("shared", "embed_tokens", "lm_head"),
        vocabulary_rows=("final_logits_bias",),
        position_limit="max_position_embeddings",
        language_first=("mbart",),
    ),
}


def family_of(model_type: str | None) -> Family:
    """The family of a HuggingFace `model_type`. Raises UserError for an unknown one."""
    if (family := _known(model_type)) is not None:
        return family
    *others, last = (name for family in FAMILIES.values() for name in family.model_types)
    raise UserError(f"decoder model_type {model_type!r} is not supported; use {', '.join(others)} or {last}")


def family_with_layers(keys: Iterable[str]) -> Family | None:
    """The family that names its decoder layers as in these `keys` of a state dict, or None."""
    keys = list(keys)
    return next((family for family in FAMILIES.values() if family.layer_numbers(keys)), None)


def text_encoders() -> tuple[str, ...]:
    """The prefixes of the paths of text encoders, whatever the family."""
    return tuple(f"{PREFIX}{family.base}{family.text_encoder}" for family in FAMILIES.values())


def max_positions(settings: Mapping[str, Any]) -> int | None:
    """How many tokens a decoder with these settings has positions for; None if there is no limit.

    The user's own decoder may have the limit `max_position_embeddings` in its `config`.
    """
    family = _known(settings.get("model_type"))
    name = "max_position_embeddings" if family is None else family.position_limit
    return settings.get(name) if name else None


def _known(model_type: str | None) -> Family | None:
    return next((family for family in FAMILIES.values() if model_type in family.model_types), None)
