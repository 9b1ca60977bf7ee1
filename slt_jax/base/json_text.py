"""JSON as people write it: a key that is there twice, deep nesting and endless numbers are errors."""

import json
from pathlib import Path
from typing import Any

from slt_jax.base.files import open_regular
from slt_jax.errors import UserError, shortened, shown

DEEPEST = 32  # mappings and lists inside each other
MOST_DIGITS = 40  # of a whole number
LARGEST = 16 << 20  # bytes of a file; vocabularies and label names make the large ones


def parse_json(text: str) -> Any:
    """The value in a text. Raises json.JSONDecodeError if it is not JSON, UserError for JSON that nobody means."""
    try:
        value = json.loads(text, object_pairs_hook=_mapping, parse_int=_integer)
        if not _too_deep(value):
            return value
    except RecursionError:
        pass
    raise UserError(f"is nested more than {DEEPEST} deep")


def read_json(path: str | Path, flag: str) -> Any:
    """The value in a JSON file. Raises UserError that names `flag` and the file."""
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(f"is larger than {LARGEST >> 20} MB")
        return parse_json(content.decode())
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be read ({error.strerror})") from None
    except UserError as error:
        raise UserError(f"{flag} {path}: {error}") from None
    except ValueError:
        raise UserError(f"{flag} {path}: is not JSON") from None


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise UserError(f"the key {shown(key)} is there twice; keep one")
        mapping[key] = value
    return mapping


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise UserError(f"{shortened(text, 40)} is a number of {len(text)} digits")
    return int(text)


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = [part for part in level if isinstance(part, dict | list)]
        if not inner:
            return False
        level = [item for part in inner for item in (part.values() if isinstance(part, dict) else part)]
    return True
