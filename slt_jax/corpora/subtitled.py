"""A corpus of long videos with subtitles: read its CSV row by row, and repair what the file itself can repair.

Spreadsheets damage such files: 165.33 becomes `16.532.999.999.999.900`, and a text that begins with `-` `#NAME?`.
LSA-T's column `split` holds the subtitle lines of each clip, [(text, start, end), ...], which have both again.
Nothing is guessed: a row that still has no text or no times is dropped, with its reason.
"""

import ast
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from slt_jax.base.console import say
from slt_jax.data import tables
from slt_jax.data.metadata import parse_number
from slt_jax.errors import UserError
from slt_jax.media.video import SUFFIXES

SHORTEST, LONGEST = 0.2, 300.0  # seconds that a clip may last
VIDEO_COLUMNS = ("video", "video_name", "source_video")
SENTENCE_COLUMNS = ("sentence_name", "sentence_id", "clip_name", "clip_id", "segment_name", "segment_id")
CLOSE = 0.01  # seconds; durations that differ by more are different
# Columns read here, or (the gaps between clips) damaged beyond use and known from the times anyway.
USED_COLUMNS = {*tables.ID_COLUMNS, *tables.TEXT_COLUMNS, *VIDEO_COLUMNS, "start", "end", "duration", "split", "splits",
                "prev_delta", "post_delta", "fps", "frame_count"}  # fmt: skip
_SPREADSHEET_ERROR = re.compile(r"#\s?[¡¿]?(NOMBRE|NAME|REF|VALUE|VALOR|DIV/0|NUM|NULL|NULO|N/A|N/D|CALC)[?!]?")


@dataclass(frozen=True)
class Footage:
    """What a clip is cut from: a video, or a folder of frames with their `rate` a second."""

    path: str | Path
    rate: float | None = None


@dataclass(frozen=True)
class CorpusClip:
    """A usable row. Times are seconds in the video, or None if the whole video is one clip."""

    line: int
    video_id: str
    text: str
    video: str
    start: float | None
    end: float | None
    split: str  # as the file has it
    extra: Mapping[str, str] = field(default_factory=dict)
    file: str = ""  # the table's name, where a corpus has several
    footage: Footage | None = None  # what the clip is cut from, once it is found
    seconds: float | None = None  # of a whole video or folder of frames that is the clip, where known
    rate: float | None = None  # frames a second, as the table says
    signer_box: tuple[float, float, float, float] | None = None  # left, top, right, bottom, as fractions of the picture

    @property
    def duration(self) -> float | None:
        """Seconds, or None if the whole video is the clip and its length is not known."""
        return self.seconds if self.start is None or self.end is None else self.end - self.start

    @property
    def recording(self) -> str:
        """The name of the video, alike in all rows that name it: with its ending and folder or without, in NFC."""
        video = unicodedata.normalize("NFC", self.video)
        path = PurePosixPath(video.replace("\\", "/"))
        if path.suffix.lower() in SUFFIXES:
            return path.stem
        found_by_name = self.footage is not None and self.footage.rate is None  # folders of frames are found by path
        return path.name if found_by_name else video


@dataclass(frozen=True)
class Repair:
    """A cell that was repaired; `source` says where its new value comes from."""

    line: int
    video_id: str
    column: str
    found: str
    value: str
    source: str


@dataclass(frozen=True)
class Drop:
    """A row that is not used. `reason` is one of a few, `detail` what the row says."""

    line: int
    video_id: str
    reason: str
    detail: str = ""
    file: str = ""  # the table's name, where a corpus has several
    by_rule: bool = False  # left out as the corpus's authors do, and so not lost


@dataclass
class Corpus:
    """A corpus as read: its usable clips, and the rows that were repaired or dropped."""

    clips: list[CorpusClip] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    rows: int = 0

    @property
    def lost(self) -> list[Drop]:
        """The dropped rows that the corpus counts as its own."""
        return [drop for drop in self.drops if not drop.by_rule]


class _Unusable(Exception):
    """Why a row is dropped, and what it says."""


def read_corpus(path: str | Path, table: tables.Table | None = None) -> Corpus:
    """Read every row of a corpus CSV, as a clip or as dropped. Columns and separators are those of `read_metadata`,
    unless the `table` is open already.

    Without a column `video`, the id names the video. Where more than a tenth of the ids repeat, and a sentence column
    (`sentence_name` and the like) repeats none, the latter has the ids, which is told. Raises UserError for a file that
    is not such a table, or whose ids repeat in most rows.
    """
    table = table or tables.read_table(path)
    rows = list(table.rows)
    if not rows:
        raise UserError(f"{path}: the file has a header and no rows")
    id_column = _id_column(table, rows)
    if id_column != table.id_column:
        given, taken = (table.header[column].strip() for column in (table.id_column, id_column))
        say(f"{path}: the column {given} repeats, so {taken} names the clips")
    corpus = Corpus(rows=len(rows))
    first: dict[str, CorpusClip] = {}
    repeats: list[tuple[int, CorpusClip]] = []
    for line, cells in rows:
        video_id = cells[id_column].strip() if id_column < len(cells) else ""
        try:
            if not video_id:
                raise _Unusable("no id")
            clip, repairs = _clip(line, video_id, *_named(table, line, cells))
            if (known := first.setdefault(video_id, clip)) is not clip:
                same = (known.text, known.video, known.start) == (clip.text, clip.video, clip.start)
                if not same:
                    repeats.append((line, known))
                values = "the same values" if same else "other values"
                raise _Unusable("id used before", f"on line {known.line}, with {values}")
        except _Unusable as reason:
            corpus.drops.append(Drop(line, video_id, *reason.args))
        else:
            corpus.clips.append(clip)
            corpus.repairs += repairs
    short = {line for line, cells in rows if len(cells) < len(table.header)} - {drop.line for drop in corpus.drops}
    tables.tell_lines(path, sorted(short), tables.FILLED)
    if 2 * len(repeats) > len(rows):
        line, known = repeats[0]
        problem = (
            f"id {tables.shown(known.video_id)} is on line {known.line} too, and {len(repeats)} of {len(rows)} rows"
        )
        advice = f"give each row its own in the column {table.header[id_column].strip()}"
        raise UserError(f"{path}, line {line}: {problem} repeat an id so; {advice}")
    return corpus


def _id_column(table: tables.Table, rows: Sequence[tuple[int, list[str]]]) -> int:
    """The column that names the rows: the table's ids or, if more than a tenth repeat, a sentence column."""
    values = [cells[table.id_column].strip() for _, cells in rows if table.id_column < len(cells)]
    if len(set(values)) >= 0.9 * len(values):
        return table.id_column
    for name in SENTENCE_COLUMNS:
        column = tables.find_column(table.header, (name,))
        if column is not None:
            names = [cells[column].strip() for _, cells in rows if column < len(cells)]
            if len(names) == len(rows) == len(set(names)) and all(names):
                return column
    return table.id_column


def _named(table: tables.Table, line: int, cells: list[str]) -> tuple[str, str, dict[str, str]]:
    """The text of a row, its id in the table, and its cells by the name of their column in lower case."""
    try:
        cells = table.fit(line, cells)
    except UserError:
        width = len(table.header)
        more = "more" if len(cells) > width else "fewer"
        raise _Unusable(f"{more} cells than columns", f"{tables.count(cells)} where the header has {width}") from None
    named = {name.strip().lower(): cell.strip() for name, cell in zip(table.header, cells, strict=True)}
    return cells[table.text_column], cells[table.id_column].strip(), named


def _clip(
    line: int, video_id: str, text: str, default_video: str, named: Mapping[str, str]
) -> tuple[CorpusClip, list[Repair]]:
    repairs = []
    lines = _subtitles(
        named.get("splits", "") or named.get("split", "")
    )  # as LSA-T's own page calls it, and as it circulates

    def repair(column: str, found: str, value: str, source: str) -> None:
        repairs.append(Repair(line, video_id, column, found, value, source))

    text = " ".join(text.split())
    if _SPREADSHEET_ERROR.fullmatch(text):
        if not lines:
            raise _Unusable("no text", f"a spreadsheet's error: {text}")
        cell, text = text, " ".join(" ".join(words for words, _, _ in lines).split())
        repair("text", cell, text, "subtitle lines")
    if not text:
        raise _Unusable("no text")
    text = unicodedata.normalize("NFC", text)  # as training reads it, so that the same sentence is found again
    video_column = next((name for name in VIDEO_COLUMNS if name in named), None)
    video = named[video_column] if video_column else default_video

    if not {"start", "end"} & named.keys():
        start = end = None
    else:
        given = {column: named.get(column, "") for column in ("start", "end")}
        start, end = (parse_number(given[column]) for column in given)
        if None in (start, end) and lines:
            start = lines[0][1] if start is None else start
            end = lines[-1][2] if end is None else end
            for column, value in (("start", start), ("end", end)):
                if parse_number(given[column]) is None:
                    repair(column, given[column], f"{value:.3f}", "subtitle lines")
        start, end = _checked_times(given, start, end)
        cell = named.get("duration", "")
        written = parse_number(cell)
        if "duration" in named and (written is None or abs(written - (end - start)) > CLOSE):
            repair("duration", cell, f"{end - start:.3f}", "end - start")
    if not video:
        raise _Unusable("no video")
    extra = {name: value for name, value in named.items() if name and name not in USED_COLUMNS}
    split = "" if _subtitles(named.get("split", "")) else named.get("split", "")
    rate = parse_number(named.get("fps", ""))
    return CorpusClip(line, video_id, text, video, start, end, split, extra, rate=rate), repairs


def _checked_times(given: Mapping[str, str], start: float | None, end: float | None) -> tuple[float, float]:
    shown = f"start {given['start'] or 'empty'}, end {given['end'] or 'empty'}"
    if not any(given.values()):
        raise _Unusable("no start and end")
    if start is None or end is None:
        raise _Unusable("start or end cannot be read", shown)
    if start < 0:
        raise _Unusable("start before the video", shown)
    if end <= start:
        raise _Unusable("end not after start", shown)
    if not SHORTEST <= end - start <= LONGEST:
        raise _Unusable("absurd duration", f"{end - start:g} s, outside {SHORTEST:g} to {LONGEST:g}")
    return start, end


def _subtitles(cell: str) -> list[tuple[str, float, float]]:
    """The subtitle lines in a cell; empty if it holds something else."""
    if not cell.startswith("["):
        return []
    try:
        lines = ast.literal_eval(cell)
        return [(str(text), float(start), float(end)) for text, start, end in lines]
    except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):
        return []
