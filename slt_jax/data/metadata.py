"""The CSV files: clip metadata (texts, frame rates) and the indices that name the clips of a split.

Real files are dirty, so everything the corpora in circulation contain is read: `;`, `,` or tab, with or without BOM,
`id` or `video_id`, `texto` or `text`, decimals that a spreadsheet damaged. What cannot be read without guessing is a
`UserError` that names the file and the line.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slt_jax.errors import UserError

ID_COLUMNS = ("video_id", "id")
TEXT_COLUMNS = ("texto", "text")
INDEX_COLUMNS = (*ID_COLUMNS, "0")  # pandas writes an unnamed Series under the header 0
DELIMITERS = (";", "\t", ",")


@dataclass(frozen=True)
class ClipRow:
    """One row of the metadata. Durations are in seconds; `None` means that the file says nothing usable."""

    video_id: str
    text: str
    fps: float | None = None
    duration: float | None = None
    frame_count: int | None = None
    extra: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def columns(self) -> dict[str, str]:
        """Every column of the row but id and text, by its name in lower case."""
        numbers = {"fps": self.fps, "duration": self.duration, "frame_count": self.frame_count}
        return self.extra | {name: f"{value:g}" for name, value in numbers.items() if value is not None}


def read_metadata(path: str | Path) -> dict[str, ClipRow]:
    """All clips of a metadata CSV by id, in the order of the file."""
    delimiter = find_delimiter(path, ID_COLUMNS)
    rows = read_rows(path, delimiter)
    _, header = next(rows, (0, []))
    id_column, text_column = find_column(header, ID_COLUMNS), find_column(header, TEXT_COLUMNS)
    if id_column is None or text_column is None:
        wanted = "id or video_id" if id_column is None else "texto or text"
        raise UserError(f"{path}: the header has no column {wanted} (found: {', '.join(header) or 'an empty file'})")

    clips: dict[str, ClipRow] = {}
    for line, cells in rows:
        cells = fit_cells(path, line, cells, len(header), text_column, delimiter)
        video_id = cells[id_column].strip()
        if not video_id:
            raise UserError(f"{path}, line {line}: the id is empty")
        named = {name.strip().lower(): value.strip() for name, value in zip(header, cells, strict=True)}
        clip = _clip(video_id, cells[text_column].strip(), named)
        known = clips.setdefault(video_id, clip)
        if known is not clip and (known != clip or known.extra != clip.extra):
            raise UserError(f"{path}, line {line}: id {video_id} occurs twice with different values")
    return clips


def read_index(path: str | Path) -> list[str]:
    """The video ids of a split, in the order of the file, which may have a header and pandas' row numbers."""
    rows = list(read_rows(path, find_delimiter(path, INDEX_COLUMNS)))
    if not rows:
        raise UserError(f"{path}: the index names no clips")
    column = find_column(rows[0][1], INDEX_COLUMNS)
    if len(rows[0][1]) > 1 and [cells[0].strip() for _, cells in rows] == [str(n) for n in range(len(rows))]:
        column = 1  # pandas' row numbers, without a header
    elif column is not None:
        rows = rows[1:]
    else:
        column = 0

    first_line: dict[str, int] = {}
    for line, cells in rows:
        video_id = cells[column].strip() if column < len(cells) else ""
        if not video_id:
            raise UserError(f"{path}, line {line}: the id is empty")
        if video_id in first_line:
            raise UserError(f"{path}, line {line}: {video_id} is listed twice (first on line {first_line[video_id]})")
        first_line[video_id] = line
    if not first_line:
        raise UserError(f"{path}: the index names no clips")
    return list(first_line)


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
    duration = parse_number(named.get("duration", ""))
    if duration is None:  # damaged or empty: the limits of the subtitle, if the corpus has them, say the same
        start, end = parse_number(named.get("start", "")), parse_number(named.get("end", ""))
        duration = end - start if start is not None and end is not None and end > start else None
    frames = parse_number(named.get("frame_count", ""))
    used = {*ID_COLUMNS, *TEXT_COLUMNS, "fps", "duration", "frame_count"}
    return ClipRow(
        video_id=video_id,
        text=text,
        fps=parse_number(named.get("fps", "")),
        duration=duration,
        frame_count=None if frames is None else round(frames),
        extra={name: value for name, value in named.items() if name not in used},
    )


def parse_number(cell: str) -> float | None:
    """A finite number, perhaps with a decimal comma; `None` for empty or damaged cells such as 6.359.999.990."""
    if cell.count(",") == 1 and "." not in cell:
        cell = cell.replace(",", ".")
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def find_column(header: list[str], names: tuple[str, ...]) -> int | None:
    """The column with the first of `names`; of several columns with one name, the last."""
    lowered = [cell.strip().lower() for cell in header]
    for name in names:
        if name in lowered:
            return len(lowered) - 1 - lowered[::-1].index(name)
    return None


def fit_cells(path: str | Path, line: int, cells: list[str], width: int, text_column: int, delimiter: str) -> list[str]:
    """As many cells as the header. Short rows are filled up; an unquoted `;` in a last text column is put back."""
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) > width and text_column == width - 1:
        return [*cells[:text_column], delimiter.join(cells[text_column:])]
    if len(cells) > width:
        problem = f"{len(cells)} cells where the header has {width}"
        raise UserError(f"{path}, line {line}: {problem}; quote the texts that contain a separator")
    return [*cells, *[""] * (width - len(cells))]


def find_delimiter(path: str | Path, columns: tuple[str, ...]) -> str:
    """The separator with which the first line is a header with one of `columns`; without a header, the one in use."""
    first = next((line for line in _text(path).splitlines() if line.strip()), "")
    for delimiter in DELIMITERS:
        cells = next(csv.reader([first], delimiter=delimiter), [])
        if len(cells) > 1 and find_column(cells, columns) is not None:
            return delimiter
    return next((d for d in DELIMITERS if d in first), ";")


def read_rows(path: str | Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every row that is not empty, with the number of its first line."""
    text = _text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    width, before = None, 0
    try:
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            width = width or len(cells)
            runs_to_the_end = "\n" in cells[-1] and before >= text.count("\n") and not text.rstrip().endswith('"')
            if before > line and (len(cells) != width or runs_to_the_end):
                raise UserError(f"{path}, line {line}: a quotation mark opens here and is not closed in its row")
            yield line, cells
    except csv.Error as error:
        raise UserError(f"{path}, line {before + 1}: {error}") from None


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
