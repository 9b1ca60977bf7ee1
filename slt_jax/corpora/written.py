"""The tables and the page of a prepared corpus."""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from slt_jax.base.files import replacing
from slt_jax.corpora.data_report import report_page
from slt_jax.corpora.prepared import Prepared
from slt_jax.data.corpus_folder import SPLITS

DROPPED, PAGE = "dropped.csv", "report.html"
LONGEST_NAME = 200  # bytes of an id in a file name, which `_f000000.jpg` follows
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')


def file_id(video_id: str) -> str:
    """The id under which a clip's files are stored: the id itself, if that can be part of a file name."""
    name = _UNSAFE.sub("_", video_id).strip(" .")
    if name == video_id and len(name.encode()) <= LONGEST_NAME:
        return name
    short = name.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
    return f"{short}_{hashlib.sha256(video_id.encode()).hexdigest()[:8]}"


def write_tables(output: Path, title: str, prepared: Prepared, *, text_column: str) -> None:
    """Write meta.csv, the index of each split that has clips, what was dropped and repaired, and the page."""
    index = {split: output / "index" / f"{split}.csv" for split in SPLITS}
    repairs = ((r.line, r.video_id, r.column, r.found, r.value, r.source) for r in prepared.corpus.repairs)
    tables: dict[Path, list[Sequence[Any]]] = {
        output / "meta.csv": _meta_rows(prepared, text_column),
        output / DROPPED: _dropped_rows(prepared),
        output / "repaired.csv": [("line", "id", "column", "found", "value", "source"), *repairs],
    }
    for split, clips in prepared.splits.items():
        if clips:
            tables[index[split]] = [("video_id",), *((file_id(clip.video_id),) for clip in clips)]
        else:
            index[split].unlink(missing_ok=True)  # of an earlier run with other shares
    for path, rows in tables.items():
        _write_table(path, rows)
    _write_page(output / PAGE, title, prepared)
    prepared.written = [*tables, output / PAGE]


def write_audit(output: Path, title: str, prepared: Prepared) -> None:
    """Write only what was dropped and the page: what a corpus has that is not prepared, as too much of it is lost."""
    _write_table(output / DROPPED, _dropped_rows(prepared))
    _write_page(output / PAGE, title, prepared)


def _write_page(path: Path, title: str, prepared: Prepared) -> None:
    with replacing(path) as file:
        file.write(report_page(title, prepared).encode())


def _dropped_rows(prepared: Prepared) -> list[Sequence[Any]]:
    """With the table's name, where a corpus has several."""
    drops = prepared.corpus.drops
    files = any(drop.file for drop in drops)
    header = ["line", "id", "reason", "detail"] + ["file"] * files
    return [header, *([d.line, d.video_id, d.reason, d.detail] + [d.file] * files for d in drops)]


def _meta_rows(prepared: Prepared, text_column: str) -> list[Sequence[Any]]:
    """What training needs of every clip, then the corpus's own columns. Ids are as in file names."""
    clips = prepared.corpus.clips
    split_of = {clip.video_id: split for split, members in prepared.splits.items() for clip in members}
    renamed = any(file_id(clip.video_id) != clip.video_id for clip in clips)
    extras = list(dict.fromkeys(name for clip in clips for name in clip.extra if not (renamed and name == "source_id")))
    extracted = bool(prepared.examined)
    rated = not extracted and any(clip.footage and clip.footage.rate for clip in clips)
    header = ["id", text_column, "video", "start", "end", "duration", "split"]
    header += ["fps"] * (extracted or rated) + ["frame_count"] * extracted + ["source_id"] * renamed
    rows: list[Sequence[Any]] = [[*header, *extras]]
    for clip in clips:
        record = prepared.records.get(clip.video_id, {})
        duration = record.get("duration") if clip.duration is None else clip.duration
        times = ("" if time is None else f"{time:.3f}" for time in (clip.start, clip.end, duration))
        row: list[Any] = [file_id(clip.video_id), clip.text, clip.video, *times, split_of[clip.video_id]]
        if extracted:
            row += [f"{record['fps']:g}", prepared.examined[clip.video_id].frames]
        elif rated:
            row.append(f"{clip.footage.rate:g}" if clip.footage and clip.footage.rate else "")
        row += [clip.video_id] * renamed
        rows.append([*row, *(clip.extra.get(name, "") for name in extras)])
    return rows


def _write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=";", lineterminator="\n")
    writer.writerows([" ".join(str(cell).split()) for cell in row] for row in rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
