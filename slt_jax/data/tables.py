"""CSV tables with ids, row by row: every row of the file is given, or refused with the number of its line.

Real files are dirty, so what the corpora in circulation contain is read: `;`, `,` or tab, with or without BOM, rows
whose last cells are missing. Lines are read one at a time and are bounded, so that no file fills the memory.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slt_jax.base.console import say
from slt_jax.data.ids import PLAIN, check_id, shown_id
from slt_jax.data.lines import RowLines, read_lines
from slt_jax.errors import UserError

ID_COLUMNS = ("video_id", "id")
TEXT_COLUMNS = ("texto", "text")
DELIMITERS = (";", "\t", ",")
FILLED = "shorter than the header: the missing cells are taken as empty"
_NEWLINE = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STRAY = "a quotation mark opens here and is not closed in its row; remove it, or write it twice inside quotes"


@dataclass(frozen=True)
class Table:
    """A table of texts. `rows` gives (line number, cells); `fit` makes the cells of a row as many as the header's."""

    path: str | Path
    header: list[str]
    id_column: int
    text_column: int
    delimiter: str
    rows: Iterator[tuple[int, list[str]]]

    def fit(self, line: int, cells: list[str]) -> list[str]:
        """As many cells as the header. Missing last cells are empty; an unquoted `;` in a last text is put back.

        Raises UserError if cells are missing or left over in another way.
        """
        width, text_column = len(self.header), self.text_column
        if len(cells) == width:
            return cells
        while len(cells) > width and not cells[-1].strip():
            cells = cells[:-1]
        if len(cells) > width and text_column == width - 1:
            return [*cells[:text_column], self.delimiter.join(cells[text_column:])]
        problem = f"{self.path}, line {line}: {count(cells)} where the header has {width}"
        if len(cells) > width:
            raise UserError(f"{problem}; quote the texts that contain a separator")
        if len(cells) < width:
            if len(cells) <= max(self.id_column, text_column):
                raise UserError(f"{problem}; quote the texts that contain a line break, and leave no cell out")
            if any(self.delimiter in cell for cell in cells):
                raise UserError(f"{problem}; a quotation mark spans several of them")
        return [*cells, *[""] * (width - len(cells))]


def read_table(path: str | Path) -> Table:
    """A table with a header that has a column of ids and one of texts. Raises UserError if it has not."""
    delimiter = find_delimiter(path, ID_COLUMNS)
    rows = read_rows(path, delimiter, ID_COLUMNS)
    _, header = next(rows, (0, []))
    return table_of(path, header, delimiter, rows)


def table_of(path: str | Path, header: list[str], delimiter: str, rows: Iterator[tuple[int, list[str]]]) -> Table:
    """The table of a header and its rows. Raises UserError without a column of ids or of texts."""
    id_column, text_column = find_column(header, ID_COLUMNS), find_column(header, TEXT_COLUMNS)
    if id_column is None or text_column is None:
        wanted = "id or video_id" if id_column is None else "texto or text"
        found = ", ".join(shown(cell) for cell in header[:20]) + (", ..." if len(header) > 20 else "")
        raise UserError(f"{path}: the header has no column {wanted} (found: {found or 'an empty file'})")
    return Table(path, header, id_column, text_column, delimiter, rows)


def find_column(header: list[str], names: tuple[str, ...]) -> int | None:
    """The column with the first of `names`; of several columns with one name, the last."""
    lowered = [cell.strip().lower() for cell in header]
    for name in names:
        if name in lowered:
            return len(lowered) - 1 - lowered[::-1].index(name)
    return None


def find_delimiter(path: str | Path, columns: tuple[str, ...]) -> str:
    """The separator with which the first line is a header with one of `columns`; without a header, the one in use."""
    first = next((line for line in read_lines(path) if line.strip()), "").rstrip("\r\n")
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:
            continue  # `read_rows` says why
        if len(cells) > 1 and find_column(cells, columns) is not None:
            return delimiter
    return next((d for d in DELIMITERS if d in first), ";")


def read_rows(path: str | Path, delimiter: str, id_columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every row that is not empty, with the number of its first line.

    Raises UserError where a quotation mark joins rows, or a line break splits one.
    """
    shape = _Shape(path, delimiter, id_columns)
    width, id_column = 0, 0
    for line, lines, cells in _parsed(path, delimiter):
        if cells is not None:
            if shape.fits(line, lines, cells):
                yield line, cells
        else:
            for number, text in enumerate(lines, line):
                cells = text.split(delimiter)
                if len(cells) == width and cells[id_column].strip():  # nothing is there to be checked
                    shape.last = number, width
                    yield number, cells
                elif shape.fits(number, [], cells):
                    yield number, cells
                    width, id_column = shape.width, shape.id_column
        width, id_column = shape.width, shape.id_column


class _Shape:
    """What the rows of a table have in common, by its first row."""

    def __init__(self, path: str | Path, delimiter: str, id_columns: tuple[str, ...]):
        self._path, self._delimiter, self._id_columns = path, delimiter, id_columns
        self.width, self.id_column = 0, 0  # cells of the first row, and where its id is
        self.last = 0, 0  # line and cells of the row before

    def fits(self, line: int, lines: list[str], cells: list[str]) -> bool:
        """Whether a row says anything. Raises UserError where a quotation mark or a line break goes through rows."""
        path, delimiter = self._path, self._delimiter
        _check_quotes(path, line, lines, delimiter)
        if not any(cell.strip() for cell in cells):
            return False
        if not self.width:
            self.width, self.id_column = len(cells), find_column(cells, self._id_columns) or 0
        width, (last_line, last_width) = self.width, self.last
        if len(lines) > 1 and len(cells) != width:
            raise UserError(f"{path}, line {line}: {_STRAY}")
        if len(lines) > 1 and _joins_rows(cells, width, self.id_column, delimiter):
            advice = "remove the mark, or put a text that is meant so on one line"
            raise UserError(f"{path}, line {line}: a quotation mark opens here and takes in another row; {advice}")
        if len(cells) < width and 0 < last_width < width == last_width + len(cells) - 1:
            raise UserError(
                f"{path}, line {last_line}: the row ends after {last_width} of {width} cells, and line {line} "
                "has the others: a line break splits the row; quote the text, or take the line break out"
            )
        self.last = line, len(cells)
        return True


def _parsed(path: str | Path, delimiter: str) -> Iterator[tuple[int, list[str], list[str] | None]]:
    """The number of the first line of each row, its lines, and its cells.

    Where no quotation mark is near, a row is a line and csv need not look at it: then many lines at once, and no cells.
    """
    source = RowLines(path)
    reader, before = csv.reader(source, delimiter=delimiter), 0
    try:
        while True:
            if plain := source.plain():
                yield before + 1, plain, None
                before = source.number
                continue
            cells = next(reader, None)
            if cells is None:
                return
            line, before = before + 1, source.number
            lines, source.taken[:] = list(source.taken), []
            yield line, lines, cells
    except csv.Error as error:
        where = f"{path}, line {before + 1}"
        if "field limit" in str(error):
            longest = f"a cell has more than {csv.field_size_limit()} characters"
            raise UserError(f"{where}: {longest}; perhaps a quotation mark opens here and is not closed") from None
        raise UserError(f"{where}: {error}") from None


def checked_id(path: str | Path, line: int, cell: str) -> str:
    """The id in a cell, without spaces around. Raises UserError if it is empty or cannot be part of a file name."""
    video_id = cell.strip()
    if PLAIN.fullmatch(video_id):
        return video_id
    where = f"{path}, line {line}"
    if not video_id:
        raise UserError(f"{where}: the id is empty")
    if _CONTROL.search(video_id):
        raise UserError(f"{where}: id {shown_id(video_id)} has a line break or control character in it")
    return check_id(video_id, where)


def count(cells: list[str]) -> str:
    """How many cells a row has, in words."""
    return f"{len(cells)} cell{'s' * (len(cells) > 1)}"


def shown(cell: str) -> str:
    """A cell for a message: on one line and short."""
    text = " ".join(cell.split())
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def tell_lines(path: str | Path, lines: list[int], what: str) -> None:
    """Tell the user of rows that were read otherwise than they stand there."""
    if lines:
        numbers = ", ".join(map(str, lines[:10])) + (", ..." if len(lines) > 10 else "")
        say(f"{path}: {len(lines)} row{'s' * (len(lines) > 1)} {what} (line {numbers})")


def _check_quotes(path: str | Path, line: int, lines: list[str], delimiter: str) -> None:
    """Refuse a mark that is not closed, or is closed on a later line in the middle of a cell.

    Within a line, text after a closing mark (`"no" said he`) is read as spreadsheets read it.
    """
    if not any('"' in part for part in lines):
        return
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if len(lines) > 1 or "unexpected end" in str(error):
            raise UserError(f"{path}, line {line}: {_STRAY}") from None


def _joins_rows(cells: list[str], width: int, id_column: int, delimiter: str) -> bool:
    """Whether a line inside a quoted cell looks like a row: its cells are as many as the header's, its id is one word.

    The last such line ends after the closing mark. It can be a row only if the line that opens the quotes was one.
    """
    spaces = any(part.isspace() for part in cells[id_column].strip())
    for place, cell in enumerate(cells):
        first, *others = _NEWLINE.split(cell)
        rows = [other.split(delimiter) for other in others]
        if rows and place + len(first.split(delimiter)) >= width:
            rows[-1] += cells[place + 1 :]
        for row in rows:
            found = row[id_column].strip() if len(row) >= width > 1 else ""
            if found and (spaces or len(found.split()) == 1):
                return True
    return False
