"""What each token adds to a text, so that a program without a tokenizer can read a model's tokens."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from slt_jax.data.target_language import language_codes
from slt_jax.data.text import IGNORE, decode
from slt_jax.errors import UserError

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = "▁"  # SentencePiece's
TIDY = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
        (" 've", "'ve"), (" 're", "'re"))  # fmt: skip
SAMPLES, LONGEST = 300, 12


def token_table(tokenizer: Any, named: str) -> dict[str, Any]:
    """The table of a tokenizer that errors call `named`; JSON can hold it.

    `pieces` has for each id nothing where it is not shown, a number where it is that byte of a character (consecutive
    ones that are no UTF-8 are each U+FFFD), else a text. Where `bytes`, the characters of the texts are bytes instead,
    and all of a text's together are UTF-8. `tidy` are replacements of the whole text, whose ends are then stripped.
    Raises UserError for a tokenizer whose texts are made otherwise.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    by_bytes = "ByteLevel" in str(getattr(backend, "decoder", ""))
    hidden = {*tokenizer.all_special_ids, *language_codes(tokenizer).values()}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    byte_of = {letter: chr(byte) for byte, letter in _byte_letters().items()}
    pieces: list[str | int | None] = []
    for number, token in enumerate(tokens):
        if number in hidden or token is None:
            pieces.append(None)
        elif by_bytes:
            known = all(letter in byte_of for letter in token)
            pieces.append("".join(map(byte_of.get, token)) if known else token.encode().decode("latin-1"))  # type: ignore[arg-type]
        elif (byte := BYTE.fullmatch(token)) and _falls_back(backend):
            pieces.append(int(byte[1], 16))
        else:
            pieces.append(token.replace(SPACE, " "))
    tidy = (
        getattr(tokenizer, "clean_up_tokenization_spaces", False)
        and "BPE" not in type(getattr(backend, "model", None)).__name__
    )
    table = {"bytes": by_bytes, "tidy": [list(pair) for pair in TIDY] if tidy else [], "pieces": pieces}
    samples = list(_samples(pieces))
    rows = np.array([ids + [IGNORE] * (LONGEST - len(ids)) for ids in samples])
    if [text_of(table, ids) for ids in samples] != decode(tokenizer, rows):
        raise UserError(f"--tokenizer {named}: its way from tokens to text is not one that the page knows")
    return table


def text_of(table: Mapping[str, Any], ids: Iterable[int]) -> str:
    """The text of tokens, as the page makes it of a table."""
    shown = [piece for piece in (table["pieces"][number] for number in ids) if piece is not None]
    text = "".join(_joined(shown))
    if table["bytes"]:
        text = text.encode("latin-1").decode(errors="replace")
    for old, new in table["tidy"]:
        text = text.replace(old, new)
    return text.strip()


def _joined(shown: Sequence[str | int]) -> Iterable[str]:
    run: list[int] = []
    for piece in [*shown, ""]:
        if isinstance(piece, int):
            run.append(piece)
            continue
        if run:
            try:
                yield bytes(run).decode()
            except UnicodeDecodeError:
                yield "\ufffd" * len(run)
            run = []
        yield piece


def _falls_back(backend: Any) -> bool:
    return backend is None or "ByteFallback" in str(backend.decoder)


def _samples(pieces: Sequence[str | int | None]) -> Iterable[list[int]]:
    """Sequences of ids: any, and of byte pieces with one other among them."""
    rng = np.random.default_rng(0)
    single = [number for number, piece in enumerate(pieces) if isinstance(piece, int)]
    for _ in range(SAMPLES):
        yield rng.integers(len(pieces), size=rng.integers(1, LONGEST + 1)).tolist()
        if single:
            ids = rng.choice(single, size=rng.integers(1, LONGEST + 1))
            ids[rng.integers(len(ids))] = rng.integers(len(pieces))
            yield ids.tolist()


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level pieces: itself where it can be seen, else one from U+0100 on.

    (GPT-2's table.)
    """
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(others)}
