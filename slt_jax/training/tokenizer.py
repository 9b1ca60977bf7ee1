"""The tokenizer that belongs to a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.checkpoint import Blueprint
from slt_jax.config import DataConfig
from slt_jax.data.prompts import LANG, Prompts, open_prompts
from slt_jax.data.splits import tokenizer_of_decoder
from slt_jax.data.target_language import carries_language, frame, language_codes
from slt_jax.data.text import load_tokenizer, vocabulary_size
from slt_jax.errors import UserError
from slt_jax.training.start import tokenizer_beside


def tokenizer_of(path: Path, plan: Blueprint, given: str | None, saved: str | None) -> Any:
    """The tokenizer `given`, else the one beside the checkpoint, else `saved` in its configuration, else the decoder's.

    Raises UserError where there is none, or its vocabulary is not the model's.
    """
    beside = tokenizer_beside(path)
    named = given or beside or saved or tokenizer_of_decoder(plan.config.decoder_model)
    if not named:
        raise UserError(f"--tokenizer is not given, and there is none beside {path}; name the one it was trained with")
    tokenizer = load_tokenizer(named, local_files_only=plan.config.local_files_only)
    if plan.decoder is None:
        raise UserError(f"{path} holds an encoder without a decoder, which makes no text")
    size, vocabulary = vocabulary_size(tokenizer), plan.vocabulary
    if tokenizer.vocab_size == vocabulary:  # as runs of 0.1.0 counted, with padding beyond it
        return tokenizer
    # Decoders made by others have room for more tokens than their tokenizer has; so may a run's own.
    roomy = plan.config.decoder_model or plan.config.decoder_config or named == beside
    if size > vocabulary or (size < vocabulary and not roomy):
        raise UserError(
            f"--tokenizer {named}: its vocabulary of {size} does not fit the {vocabulary} of {path}; "
            f"name the tokenizer that it was trained with"
        )
    return tokenizer


def prompts_of(tokenizer: Any, named: str, spoken: Sequence[str], data: DataConfig) -> Prompts:
    """What stands before texts in the languages `spoken`, under the settings of a run, whose tokenizer has a language.

    Raises UserError as `open_prompts` does.
    """
    framing, codes = {id for side in frame(tokenizer) for id in side}, language_codes(tokenizer)
    chosen = next((code for code, id in codes.items() if id in framing), None)
    prompted = carries_language(tokenizer) or LANG in (data.prefix or "")
    target = data.target_lang if prompted else None
    return open_prompts(tokenizer, named, spoken, target_lang=target, prefix=data.prefix, chosen=chosen)
