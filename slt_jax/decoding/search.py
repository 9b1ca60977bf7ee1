"""How to search for tokens: what a caller asks for, completed from the decoder's configuration."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from slt_jax.errors import UserError
from slt_jax.models.families import max_positions


@dataclass(frozen=True)
class ResolvedSearch:
    """Everything about a search that is compiled into its program."""

    start: int
    pad: int
    eos: tuple[int, ...]
    max_length: int
    min_length: int
    num_beams: int
    early_stopping: bool | Literal["never"]
    length_penalty: float
    no_repeat_ngram_size: int
    forced_bos: int | None
    forced_eos: tuple[int, ...]


@dataclass(frozen=True)
class Search:
    """What a caller asks for, in HuggingFace's terms. None takes the value of the decoder's configuration.

    `max_length` and `min_length` count the start token. `max_new_tokens` does not, and wins over `max_length`. If
    `early_stopping` is None, a search with several beams ends with the first finished ones. `forced_eos_token_id=()`
    turns off a forced end that the configuration asks for.
    """

    max_length: int = 128
    num_beams: int = 1
    min_length: int = 2
    early_stopping: bool | Literal["never"] | None = None
    max_new_tokens: int | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None

    def options(self) -> dict[str, Any]:
        """The keyword arguments for a decoder with its own `generate`, without those that are None."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given["early_stopping"] = self._stops_early()
        return {name: value for name, value in given.items() if value is not None}

    def resolved(self, config: Mapping[str, Any]) -> ResolvedSearch:
        """The search for a decoder with this configuration. It ends with the decoder's positions.

        Raises ValueError if the start or pad token is missing, if there is no room for a token, or no beam; UserError
        for a token that the vocabulary does not have.
        """

        def setting(name: str, default=None):
            asked = getattr(self, name)
            return asked if asked is not None else config[name] if config.get(name) is not None else default

        eos = _as_tuple(setting("eos_token_id", ()))
        start = setting("decoder_start_token_id", config.get("bos_token_id"))
        pad = setting("pad_token_id", eos[0] if eos else None)
        if start is None or pad is None:
            raise ValueError("generation needs decoder_start_token_id and pad_token_id, as arguments or in the config")
        if self.early_stopping not in (True, False, None, "never"):
            raise UserError(f"early_stopping {self.early_stopping!r} must be True, False or 'never'")
        max_length = self.max_length if self.max_new_tokens is None else self.max_new_tokens + 1
        if (positions := max_positions(config)) is not None:
            max_length = min(max_length, positions + 1)
        if max_length < 2 or self.num_beams < 1:
            raise ValueError(f"max_length {max_length} must be at least 2 and num_beams {self.num_beams} at least 1")
        forced_bos, forced_eos = setting("forced_bos_token_id"), _as_tuple(setting("forced_eos_token_id", ()))
        vocab = config.get("vocab_size")
        for name, ids in {"decoder_start_token_id": (start,), "pad_token_id": (pad,), "eos_token_id": eos,
                          "forced_bos_token_id": () if forced_bos is None else (forced_bos,),
                          "forced_eos_token_id": forced_eos}.items():  # fmt: skip
            if vocab is not None and not all(0 <= id < vocab for id in ids):
                raise UserError(f"{name} {', '.join(map(str, ids))}: the vocabulary has the ids 0 to {vocab - 1}")
        return ResolvedSearch(
            start=start,
            pad=pad,
            eos=eos,
            max_length=max_length,
            min_length=self.min_length,
            num_beams=self.num_beams,
            early_stopping=self._stops_early(),
            length_penalty=float(setting("length_penalty", 1.0)),
            no_repeat_ngram_size=setting("no_repeat_ngram_size", 0),
            forced_bos=forced_bos,
            forced_eos=forced_eos,
        )

    def _stops_early(self) -> bool | Literal["never"]:
        return self.num_beams > 1 if self.early_stopping is None else self.early_stopping


def _as_tuple(ids: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(ids) if isinstance(ids, Iterable) else (int(ids),)
