"""Rows of the field's own tables: one line each, no quoting, whatever stands in the texts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from slt_jax.base.json_text import parse_json
from slt_jax.data.lines import read_lines
from slt_jax.errors import UserError

QUOTE = '"'


class Row(NamedTuple):
    """A row by the names of its columns, in lower case. `problem` says why it cannot be used; empty if it can."""

    line: int
    cells: dict[str, str]
    problem: str = ""

    @property
    def first(self) -> str:
        """The first cell, which often is the id, also of a row that cannot be used."""
        return next(iter(self.cells.values()), "")


def read_rows(path: Path, delimiter: str, columns: Sequence[str], *, quoted: bool = False) -> Iterator[Row]:
    """Every row of a table whose header has `columns`, in any order and case; with or without BOM, LF or CRLF.

    Texts are taken as they stand: a quotation mark means nothing. With `quoted`, a cell that begins and ends with
    marks, as pandas and spreadsheets write it, is read without them. Where the last column is one of `columns`, it may
    hold the delimiter, which becomes a space. Raises UserError if a column is missing.
    """
    header: list[str] = []
    for line, text in enumerate(read_lines(path), 1):
        cells = text.rstrip("\r\n").split(delimiter)
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip().lower() for cell in cells]
            missing = [name for name in columns if name not in header]
            if missing:
                found = ", ".join(header[:12])
                raise UserError(f"{path}: no column {missing[0]} in its header ({found}); is it the official file?")
            continue
        if len(cells) > len(header):
            cells = [*cells[: len(header) - 1], " ".join(cells[len(header) - 1 :])] if header[-1] in columns else cells
        if quoted:
            cells = [_unquoted(cell) for cell in cells]
        problem = "" if len(cells) == len(header) else f"{len(cells)} cells where the header has {len(header)}"
        yield Row(line, {name: cell.strip() for name, cell in zip(header, cells, strict=False)}, problem)
    if not header:
        raise UserError(f"{path}: the file is empty")


def _unquoted(cell: str) -> str:
    """A quoted cell as it was meant; one whose marks are only part of the text stays."""
    if len(cell) < 2 or not (cell.startswith(QUOTE) and cell.endswith(QUOTE)):
        return cell
    inside = cell[1:-1]
    whole = inside.replace(QUOTE * 2, "")
    return inside.replace(QUOTE * 2, QUOTE) if QUOTE not in whole else cell


def read_json(path: Path) -> object:
    """The value in a JSON file, with or without BOM. Raises UserError that names the file."""
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error})") from None


def parse_clock(text: str) -> float | None:
    """Seconds of a time such as `01:02:03.456`, `02:03,456` or `3.5`; None if it is none."""
    try:
        parts = [float(part) for part in text.strip().replace(",", ".").split(":")]
    except ValueError:
        return None
    if not 1 <= len(parts) <= 3 or any(part < 0 or part != part or part == float("inf") for part in parts):
        return None
    if any(part >= 60 for part in parts[1:]):
        return None
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + part
    return seconds
