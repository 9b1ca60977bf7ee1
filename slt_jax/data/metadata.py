"""The CSV files: clip metadata (texts, frame rates) and the indices that name the clips of a split.

Real files are dirty, so everything the corpora in circulation contain is read: `;`, `,` or tab, with or without BOM,
`id` or `video_id`, `texto` or `text`, decimals that a spreadsheet damaged. What cannot be read without guessing is a
`UserError` that names the file and the line.
"""

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from slt_jax.data.tables import (
    FILLED,
    ID_COLUMNS,
    TEXT_COLUMNS,
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


@dataclass(frozen=True)
class ClipRow:
    """One row of the metadata. Durations are in seconds; `None` means that the file says nothing usable."""

    video_id: str
    text: str
    fps: float | None = None
    duration: float | None = None
    frame_count: int | None = None
    extra: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def lang(self) -> str:
        """The language of the text, as the column `lang` names it; empty where it does not."""
        return self.extra.get("lang", "")

    def columns(self) -> dict[str, str]:
        """Every column of the row but id and text, by its name in lower case."""
        numbers = {"fps": self.fps, "duration": self.duration, "frame_count": self.frame_count}
        return self.extra | {name: f"{value:g}" for name, value in numbers.items() if value is not None}


def read_metadata(path: str | Path) -> dict[str, ClipRow]:
    """All clips of a metadata CSV by id, in the order of the file.

    Rows that are there twice become one, short rows are filled up, and texts become NFC; all of it is told. Raises
    UserError for an id with two different rows, and for an id that cannot be part of a file name.
    """
    table = read_table(path)
    clips: dict[str, ClipRow] = {}
    first_line: dict[str, int] = {}
    filled, repeated, composed = [], [], []
    names = [name.strip().lower() for name in table.header]
    for line, found in table.rows:
        cells = table.fit(line, found)
        if len(found) < len(cells):
            filled.append(line)
        video_id = checked_id(path, line, cells[table.id_column])
        named = dict(zip(names, map(str.strip, cells), strict=True))
        text = cells[table.text_column].strip()
        if not text.isascii() and (composed_text := unicodedata.normalize("NFC", text)) != text:
            composed.append(line)
            text = composed_text
        clip = _clip(video_id, text, named)
        known = clips.setdefault(video_id, clip)
        first = first_line.setdefault(video_id, line)
        if known is not clip:
            if known != clip or known.extra != clip.extra:
                problem = f"id {video_id} occurs twice with different values (first on line {first})"
                raise UserError(f"{path}, line {line}: {problem}")
            repeated.append(line)
    tell_lines(path, filled, FILLED)
    tell_lines(path, repeated, "the same as an earlier one, read once")
    tell_lines(path, composed, "with accents as characters of their own, read as NFC")
    return clips


def read_index(path: str | Path) -> list[str]:
    """The video ids of a split, in the order of the file, which may have a header and pandas' row numbers."""
    rows = list(read_rows(path, find_delimiter(path, INDEX_COLUMNS), INDEX_COLUMNS))
    if not rows:
        raise UserError(f"{path}: the index names no clips")
    width = len(rows[0][1])
    column, has_header = _index_column(path, rows)

    first_line: dict[str, int] = {}
    for line, cells in rows[has_header:]:
        if len(cells) != width and (len(cells) < width or any(cell.strip() for cell in cells[width:])):
            raise UserError(f"{path}, line {line}: {count(cells)} where the first row has {width}")
        video_id = checked_id(path, line, cells[column])
        if video_id in first_line:
            raise UserError(f"{path}, line {line}: {video_id} is listed twice (first on line {first_line[video_id]})")
        first_line[video_id] = line
    if not first_line:
        raise UserError(f"{path}: the index names no clips")
    return list(first_line)


def _index_column(path: str | Path, rows: list[tuple[int, list[str]]]) -> tuple[int, bool]:
    """The column of an index that holds the ids, and whether its first row is a header."""
    line, first = rows[0][0], [cell.strip().lower() for cell in rows[0][1]]
    counted = all(cells[0].strip() == str(number) for number, (_, cells) in enumerate(rows))
    if len(first) > 1 and counted:
        return 1, False  # pandas' row numbers, without a header
    if len(rows) > 1 and counted:
        raise UserError(f"{path}, line {line}: 0 may be a header or an id; write video_id above the ids")
    column = find_column(first, INDEX_COLUMNS)
    names = first[1:] if not first[0] else first
    if column is not None and (first[column] != "0" or names == [str(n) for n in range(len(names))]):
        return column, True
    if header := [name for name in first if name in HEADER_NAMES]:
        raise UserError(f"{path}, line {line}: a header ({header[0]}) without a column video_id; name the ids so")
    return 0, False


def select(index_ids: Iterable[str], metadata: dict[str, ClipRow], split_name: str) -> list[ClipRow]:
    """The clips of a split in its order. In errors, `split_name` (flag and file) says where the ids came from."""
    index_ids = list(index_ids)
    _refuse([i for i in index_ids if i not in metadata], len(index_ids), split_name, "have no row in the metadata")
    _refuse([i for i in index_ids if not metadata[i].text], len(index_ids), split_name, "have an empty text")
    return [metadata[i] for i in index_ids]


def _refuse(ids: list[str], total: int, split_name: str, what: str) -> None:
    if ids:
        shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
        raise UserError(f"{split_name}: {len(ids)} of {total} clips {what}: {shown}")


def _clip(video_id: str, text: str, named: dict[str, str]) -> ClipRow:
    """The row of these cells; takes from `named` what has a field of its own."""
    duration = parse_number(named.pop("duration", ""))
    if duration is None:  # damaged or empty: the limits of the subtitle, if the corpus has them, say the same
        start, end = parse_number(named.get("start", "")), parse_number(named.get("end", ""))
        duration = end - start if start is not None and end is not None and end > start else None
    frames = parse_number(named.pop("frame_count", ""))
    fps = parse_number(named.pop("fps", ""))
    for name in (*ID_COLUMNS, *TEXT_COLUMNS):
        named.pop(name, None)
    return ClipRow(video_id, text, fps, duration, None if frames is None else round(frames), named)


def parse_number(cell: str) -> float | None:
    """A finite number, perhaps with a decimal comma; `None` for empty or damaged cells such as 6.359.999.990."""
    if not cell:
        return None
    if cell.count(",") == 1 and "." not in cell:
        cell = cell.replace(",", ".")
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
