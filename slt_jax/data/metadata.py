"""The CSV files: clip metadata (texts, frame rates) and the indices that name the clips of a split.

Real files are dirty, so everything the corpora in circulation contain is read: `;`, `,` or tab, with or without BOM,
`id` or `video_id`, `texto` or `text`, decimals that a spreadsheet damaged. What cannot be read without guessing is a
`UserError` that names the file and the line.
"""

import functools
import itertools
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slt_jax.base.heap import no_collection
from slt_jax.base.spellings import Spellings
from slt_jax.data.ids import PLAIN, are_plain
from slt_jax.data.tables import (
    FILLED,
    ID_COLUMNS,
    TEXT_COLUMNS,
    Table,
    checked_id,
    count,
    find_column,
    find_delimiter,
    read_rows,
    read_table,
    tell_lines,
)
from slt_jax.errors import UserError

INDEX_COLUMNS = (*ID_COLUMNS, "0")  # pandas writes an unnamed Series under the header 0
# First cells that are a header, whatever follows; `id` and `video_id` have their meaning above.
HEADER_NAMES = {"clip", "clip_id", "file", "file_name", "filename", "name", "path", "sentence_id", "sentence_name",
                "signer", "split", "text", "texto", "video", "video_name"}  # fmt: skip


NUMBERS = ("fps", "duration", "frame_count")  # columns that a row has as numbers
CELLS = "\0"  # between the cells of a kept row: no table has this character


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One row of the metadata. Durations are in seconds; `None` means that the file says nothing usable."""

    video_id: str
    text: str
    fps: float | None = None
    duration: float | None = None
    frame_count: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def lang(self) -> str:
        """The language of the text, as the column `lang` names it; empty where it does not."""
        return self.extra.get("lang", "")

    def columns(self) -> dict[str, str]:
        """Every column of the row but id and text, by its name in lower case."""
        numbers = {name: getattr(self, name) for name in NUMBERS}
        return dict(self.extra) | {name: f"{value:g}" for name, value in numbers.items() if value is not None}


class Metadata(Mapping[str, ClipRow]):
    """The rows of a metadata CSV by id, in the order of the file.

    A row is kept as one string and taken apart when it is asked for: a million rows as objects would take a gigabyte.
    """

    def __init__(self, table: Table):
        self._text_column = table.text_column
        columns = {name.strip().lower(): column for column, name in enumerate(table.header)}
        self._numbers = [columns.get(name, -1) for name in (*NUMBERS, "start", "end")]
        own = (*ID_COLUMNS, *TEXT_COLUMNS, *NUMBERS)
        self._others = {name: column for name, column in columns.items() if name not in own}
        self._rows: dict[str, str] = {}

    def add(self, video_id: str, cells: list[str]) -> bool:
        """Whether the row is new; the same one again is not. Raises ValueError for another one of this id."""
        row = CELLS.join(cells)
        known = self._rows.setdefault(video_id, row)
        if known is row:
            return True
        if known != row:
            one, other = self._clip(video_id, known), self._clip(video_id, row)
            if one != other or one.extra != other.extra:
                raise ValueError
        return False

    def __getitem__(self, video_id: str) -> ClipRow:
        return self._clip(video_id, self._rows[video_id])

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _clip(self, video_id: str, row: str) -> ClipRow:
        cells = row.split(CELLS)
        cells.append("")  # of a column that the table does not have
        fps, seconds, count, start, end = self._numbers
        duration = parse_number(cells[seconds])
        if duration is None:  # damaged or empty: the limits of the subtitle, if the corpus has them, say the same
            first, last = parse_number(cells[start]), parse_number(cells[end])
            duration = last - first if first is not None and last is not None and last > first else None
        text, frames = cells[self._text_column].strip(), parse_number(cells[count])
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        whole = None if frames is None else round(frames)
        return ClipRow(video_id, text, parse_number(cells[fps]), duration, whole, Others(self._others, row))


class Others(Mapping[str, str]):
    """The cells of a kept row that have no field of their own, by the name of their column."""

    __slots__ = ("_columns", "_row")

    def __init__(self, columns: Mapping[str, int], row: str):
        self._columns, self._row = columns, row

    def __getitem__(self, name: str) -> str:
        return self._row.split(CELLS)[self._columns[name]].strip()

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def read_metadata(path: str | Path) -> Metadata:
    """All clips of a metadata CSV by id, in the order of the file.

    Rows that are there twice become one, short rows are filled up, and texts become NFC; all of it is told. Raises
    UserError for an id with two different rows, and for an id that cannot be part of a file name.
    """
    table = read_table(path)
    clips, width = Metadata(table), len(table.header)
    id_column, text_column = table.id_column, table.text_column
    filled, repeated, composed, is_plain = [], [], [], PLAIN.fullmatch
    for line, found in table.rows:
        cells = found if len(found) == width else table.fit(line, found)
        if len(found) < width:
            filled.append(line)
        video_id = cells[id_column].strip()
        if not is_plain(video_id):
            video_id = checked_id(path, line, cells[id_column])
        text = cells[text_column]
        if not text.isascii() and not unicodedata.is_normalized("NFC", text.strip()):
            composed.append(line)
        try:
            if not clips.add(video_id, cells):
                repeated.append(line)
        except ValueError:
            first = _first_line(path, id_column, video_id)
            problem = f"id {video_id} occurs twice with different values (first on line {first})"
            raise UserError(f"{path}, line {line}: {problem}") from None
    tell_lines(path, filled, FILLED)
    tell_lines(path, repeated, "the same as an earlier one, read once")
    tell_lines(path, composed, "with accents as characters of their own, read as NFC")
    return clips


def _first_line(path: str | Path, column: int, video_id: str) -> int:
    """The line of the first row of an id: looked for again, as only an error asks for it."""
    rows = itertools.islice(read_rows(path, find_delimiter(path, ID_COLUMNS), ID_COLUMNS), 1, None)
    return next(line for line, cells in rows if cells[column].strip() == video_id)


def read_index(path: str | Path) -> list[str]:
    """The video ids of a split, in the order of the file, which may have a header and pandas' row numbers."""
    rows = read_rows(path, find_delimiter(path, INDEX_COLUMNS), INDEX_COLUMNS)
    try:
        return _index_ids(path, rows)
    except UserError:
        for _ in rows:  # a row that cannot be read is told before an id that cannot be meant
            pass
        raise


def _index_ids(path: str | Path, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    start, first = next(rows, (0, []))
    if not first:
        raise UserError(f"{path}: the index names no clips")
    width = len(first)
    column, has_header = _index_column(path, start, first)
    listed = [
        cells[column].strip() if len(cells) == width else ""
        for _, cells in (rows if has_header else itertools.chain([(start, first)], rows))
    ]
    if listed and are_plain(listed) and len({*listed}) == len(listed):
        return listed
    return _checked_ids(path, width, column, headers=has_header)


def _checked_ids(path: str | Path, width: int, column: int, *, headers: bool) -> list[str]:
    """The same, row by row: raises UserError for the first that is wrong."""
    rows = itertools.islice(read_rows(path, find_delimiter(path, INDEX_COLUMNS), INDEX_COLUMNS), headers, None)
    first_line: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) != width and (len(cells) < width or any(cell.strip() for cell in cells[width:])):
            raise UserError(f"{path}, line {line}: {count(cells)} where the first row has {width}")
        video_id = checked_id(path, line, cells[column])
        if video_id in first_line:
            raise UserError(f"{path}, line {line}: {video_id} is listed twice (first on line {first_line[video_id]})")
        first_line[video_id] = line
    if not first_line:
        raise UserError(f"{path}: the index names no clips")
    return list(first_line)


def _index_column(path: str | Path, line: int, header: list[str]) -> tuple[int, bool]:
    """The column of an index that holds the ids, and whether its first row, on `line`, is a header."""
    first = [cell.strip().lower() for cell in header]
    counted = _counted_rows(path) if first[0] == "0" else 0
    if len(first) > 1 and counted:
        return 1, False  # pandas' row numbers, without a header
    if counted > 1:
        raise UserError(f"{path}, line {line}: 0 may be a header or an id; write video_id above the ids")
    column = find_column(first, INDEX_COLUMNS)
    names = first[1:] if not first[0] else first
    if column is not None and (first[column] != "0" or names == [str(n) for n in range(len(names))]):
        return column, True
    if found := [name for name in first if name in HEADER_NAMES]:
        raise UserError(f"{path}, line {line}: a header ({found[0]}) without a column video_id; name the ids so")
    return 0, False


def _counted_rows(path: str | Path) -> int:
    """How many rows an index has, if each begins with its number from 0; else 0."""
    number = -1
    for number, (_, cells) in enumerate(read_rows(path, find_delimiter(path, INDEX_COLUMNS), INDEX_COLUMNS)):
        if cells[0].strip() != str(number):
            return 0
    return number + 1


def select(index_ids: Iterable[str], metadata: Mapping[str, ClipRow], split_name: str) -> list[ClipRow]:
    """The clips of a split in its order. In errors, `split_name` (flag and file) says where the ids came from."""
    index_ids = list(index_ids)
    if not all(i in metadata for i in index_ids):
        spellings = Spellings(metadata)
        index_ids = [spellings.meant(i) or i for i in index_ids]
    _refuse([i for i in index_ids if i not in metadata], len(index_ids), split_name, "have no row in the metadata")
    with no_collection():
        rows = [metadata[i] for i in index_ids]
    _refuse([row.video_id for row in rows if not row.text], len(rows), split_name, "have an empty text")
    return rows


def _refuse(ids: list[str], total: int, split_name: str, what: str) -> None:
    if ids:
        shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
        raise UserError(f"{split_name}: {len(ids)} of {total} clips {what}: {shown}")


@functools.lru_cache(1 << 14)  # of many rows, few numbers differ
def parse_number(cell: str) -> float | None:
    """A finite number, perhaps with a decimal comma; `None` for empty or damaged cells such as 6.359.999.990."""
    cell = cell.strip()
    if not cell:
        return None
    if cell.count(",") == 1 and "." not in cell:
        cell = cell.replace(",", ".")
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
