"""How2Sign: American Sign Language, English; clips of sentences, or long videos with times aligned by hand.

The clips that its page offers were cut by the times of the speech ("segmented using the original timestamps"). The
re-aligned times belong to the long videos, which are taken where they are there.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from slt_jax.corpora.gathering import Folders, Gathering, Part, cut, tables_of_splits
from slt_jax.corpora.rows import parse_clock, read_rows
from slt_jax.corpora.subtitled import Corpus
from slt_jax.data.corpus_folder import SPLITS

COLUMNS = ("video_id", "video_name", "sentence_name", "start_realigned", "end_realigned", "sentence")
PUBLISHED = {"train": 31128, "val": 1741, "test": 2322}
# Where the official download script puts things, and where people do.
_ROOTS = ("", "How2Sign/")
_TABLES = ("", "{split}", "{split}_rgb_front_clips", "sentence_level/{split}/text/en/raw_text/re_aligned")
_VIDEOS = ("video_level/{split}/rgb_front/raw_videos", "video_level/{split}/rgb_front", "{split}_raw_videos/raw_videos",
           "{split}_raw_videos", "{split}_rgb_front_clips/raw_videos", "{split}_rgb_front_clips",
           "sentence_level/{split}/rgb_front/raw_videos", "sentence_level/{split}/rgb_front", "{split}/raw_videos",
           "{split}", "raw_videos")  # fmt: skip
_SIGNER = re.compile(r"-(\d+)-rgb_")


def read(source: Path, wanted: Sequence[str]) -> Corpus:
    """The re-aligned tables of the `wanted` splits. The id is SENTENCE_NAME; VIDEO_ID repeats in each sentence."""
    gathering = Gathering(source)
    tables = [root + place for root in _ROOTS for place in _TABLES]
    names = {split: f"how2sign_realigned_{split}.csv" for split in SPLITS}
    for split, table in tables_of_splits(source, tables, names, wanted):
        folders = [source / (root + place.format(split=split)) for root in _ROOTS for place in _VIDEOS]
        files = Folders(folders)
        for row in read_rows(table, "\t", COLUMNS, quoted=True):
            cells = row.cells
            name = cells.get("sentence_name", "")
            if row.problem:
                gathering.drop((table, row.line), name, "a damaged row", row.problem)
                continue
            start, end = parse_clock(cells["start_realigned"]), parse_clock(cells["end_realigned"])
            parts = [cut(path, start, end) for path in files.video(cells["video_name"])]
            parts += [Part(path) for path in files.video(name)]
            if not parts:
                parts = [Part(source / f"{split}_rgb_front_clips" / "raw_videos" / f"{name}.mp4")]
            signer = _SIGNER.search(cells["video_name"])
            extra = {"signer": signer[1] if signer else "", "lang": "en"}
            gathering.add((table, row.line), name, cells["sentence"], split=split, video=cells["video_id"], parts=parts,
                          extra=extra)  # fmt: skip
    return gathering.finish()
