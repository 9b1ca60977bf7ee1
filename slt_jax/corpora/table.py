"""Tables of people's own, and LSA-T's: where they are, what their columns mean, and the videos they speak of."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from slt_jax.base.json_text import parse_json
from slt_jax.base.spellings import Spellings
from slt_jax.corpora.gathering import size_of
from slt_jax.corpora.subtitled import Corpus, Footage
from slt_jax.data import tables
from slt_jax.data.tables import Table
from slt_jax.errors import UserError, nearest
from slt_jax.media.frames import SUFFIXES as PICTURES
from slt_jax.media.jobs import find_videos
from slt_jax.media.video import SUFFIXES

LSA_T, TABLE = "lsa-t", "table"
LSA_T_TABLES = ("meta.csv", "labels.csv")
ENDINGS = (".csv", ".tsv", ".json", ".jsonl")
ROLES = ("id", "text", "video", "start", "end", "split", "signer", "gloss", "lang", "fps")  # what a column may be


def find_table(source: Path, corpus: str) -> Path:
    """The table in a corpus's folder. Raises UserError if there is none, or if several may be meant."""
    if corpus == LSA_T:
        found = [source / name for name in LSA_T_TABLES if (source / name).is_file()]
        if not found:
            raise UserError(f"--source {source}: holds no {' or '.join(LSA_T_TABLES)}")
        return found[0]
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise UserError(f"--source {source}: name its table with --metadata ({', '.join(ENDINGS)}; found: {names})")
    return found[0]


def open_table(path: Path, columns: Mapping[str, str]) -> Table:
    """A CSV, TSV, JSON or JSONL with the columns that are named: {"text": "SENTENCE"} makes SENTENCE the text."""
    if path.suffix.lower() in (".json", ".jsonl"):
        header, rows = _records(path)
        delimiter = "\t"
    else:
        wanted = (columns["id"].lower(),) if "id" in columns else tables.ID_COLUMNS
        delimiter = tables.find_delimiter(path, wanted)
        found = tables.read_rows(path, delimiter, wanted)
        header, rows = next(found, (0, []))[1], found
    if "text" not in columns and tables.find_column(header, tables.TEXT_COLUMNS) is None and "label" in header:
        columns = {**columns, "text": "label"}  # as LSA-T's page calls it
    header = _renamed(path, header, columns)
    return tables.table_of(path, header, delimiter, rows)


def _renamed(path: Path, header: list[str], columns: Mapping[str, str]) -> list[str]:
    """The header with the columns under the names that they are meant as; others of those names step aside."""
    lowered = [name.strip().lower() for name in header]
    renamed = list(header)
    for role, own in columns.items():
        if own.lower() not in lowered:
            raise UserError(f"--columns {role}={own}: {path} has no such column{nearest(own, header)}")
        aliases = {"id": tables.ID_COLUMNS, "text": tables.TEXT_COLUMNS}.get(role, (role,))
        for place, name in enumerate(lowered):
            if name == own.lower():
                renamed[place] = role
            elif name in aliases and name not in (given.lower() for given in columns.values()):
                renamed[place] = f"source_{name}"
    return renamed


def _records(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header and the rows of a file of JSON objects: a list, one a line, or an object of objects by their ids."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from None
    found: list[tuple[int, object]] = []
    if path.suffix.lower() == ".jsonl":
        for line, content in enumerate(text.split("\n"), 1):
            if content.strip():
                found.append((line, _parsed(f"{path}, line {line}", content)))
    else:
        whole = _parsed(str(path), text)
        if isinstance(whole, Mapping):
            whole = [{"id": key, **value} if isinstance(value, Mapping) else value for key, value in whole.items()]
        found = list(enumerate(whole if isinstance(whole, list) else [whole], 1))
    for number, record in found:
        if not isinstance(record, Mapping):
            raise UserError(f"{path}, record {number}: not an object of columns and values")
    records = [(number, record) for number, record in found if isinstance(record, Mapping)]
    header = list(dict.fromkeys(str(name) for _, record in records for name in record))
    return header, iter([(number, [_cell(record.get(name)) for name in header]) for number, record in records])


def _parsed(place: str, text: str) -> object:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{place}: no JSON ({error})") from None


def _cell(value: object) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def holds_footage(folder: Path) -> bool:
    """Whether a folder or one inside it has a video or an image in it."""
    return any(path.suffix.lower() in (*SUFFIXES, *PICTURES) for path in folder.rglob("*"))


def find_footage(corpus: Corpus, folder: Path, *, named_by_id: bool = False) -> None:
    """Give each clip the video that it names, with or without ending and folder, or a folder of frames of that name.

    With `named_by_id`, a video with the clip's own id is the clip, whole. A folder of frames needs its rate in the
    column `fps`. Clips whose video is not there stay without.
    """
    frames_only = folder.is_dir() and not any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))
    paths = [] if frames_only else [Path(job.video) for job in find_videos(folder)]
    by_name = {path.stem: path for path in paths} | {path.name: path for path in paths}
    names = Spellings(by_name)
    for place, clip in enumerate(corpus.clips):
        found = names.meant(clip.video) or names.meant(Path(clip.video).name)
        path = by_name[found] if found else None
        if named_by_id and (own := names.meant(clip.video_id)):
            corpus.clips[place] = replace(clip, start=None, end=None, footage=Footage(by_name[own]))
        elif path:
            corpus.clips[place] = replace(clip, footage=Footage(path))
        elif clip.rate and isinstance(frames := size_of(folder / clip.video), int) and (folder / clip.video).is_dir():
            seconds = frames / clip.rate if clip.start is None else None
            corpus.clips[place] = replace(clip, footage=Footage(folder / clip.video, clip.rate), seconds=seconds)
    if frames_only and not any(clip.footage for clip in corpus.clips):
        find_videos(folder)  # says that there is none
