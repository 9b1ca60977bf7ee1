"""The text side of a checkpoint, from what its run wrote down: tokenizer, longest text, language and prompt."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.checkpoint import Blueprint
from slt_jax.config import DataConfig, with_new_names
from slt_jax.decoding.inference import TextSide
from slt_jax.decoding.search import Search
from slt_jax.training.start import last_comes_first, starts_of
from slt_jax.training.tokenizer import prompts_of, tokenizer_of


def text_side_of(
    path: str | Path, config: Mapping[str, Any], plan: Blueprint, tokenizer: Any = None, target_lang: str | None = None
) -> TextSide:
    """The text side of the checkpoint `path`, trained with `config`, with the `tokenizer` given (a name or the object).

    Without one it is the run's. Texts are in `target_lang`, else in the language of most of the run's. Raises UserError
    as `tokenizer_of` does.
    """
    data = data_of(config)
    named = isinstance(tokenizer, str | Path)
    given = str(tokenizer) if named else None
    own = tokenizer is None or named
    loaded = tokenizer_of(Path(path), plan, given, data.get("tokenizer")) if own else tokenizer
    search = Search(max_length=data.get("max_target_length") or Search.max_length)
    asked = DataConfig(target_lang=target_lang or data.get("target_lang"), prefix=data.get("prefix"))
    prompts = prompts_of(loaded, given or "of the run", [""], asked)
    start = prompts.starts([""], last_comes_first=last_comes_first(plan))
    if target_lang and start is None:
        begun: dict[str, Any] = starts_of(plan, loaded)
        search = dataclasses.replace(search, **begun)
    return TextSide(loaded, search, start)


def data_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Section `data` of a checkpoint's configuration; empty without one."""
    data = config.get("data")
    return with_new_names("data", data) if isinstance(data, Mapping) else {}
