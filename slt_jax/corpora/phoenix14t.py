"""RWTH-PHOENIX-Weather 2014T: German Sign Language, German; folders of frames, with glosses."""

from collections.abc import Sequence
from pathlib import Path

from slt_jax.corpora.gathering import Gathering, Part, tables_of_splits
from slt_jax.corpora.rows import read_rows
from slt_jax.corpora.subtitled import Corpus

COLUMNS = ("name", "speaker", "orth", "translation")
PUBLISHED = {"train": 7096, "val": 519, "test": 642}
FPS = 25.0
_OWN_NAMES = {"train": "train", "val": "dev", "test": "test"}
_ROOTS = ("", "PHOENIX-2014-T/", "PHOENIX-2014-T-release-v3/PHOENIX-2014-T/")


def read(source: Path, wanted: Sequence[str]) -> Corpus:
    """The corpus files of the `wanted` splits. Texts and glosses stay as they are: tokenised, lower and upper case."""
    gathering = Gathering(source)
    names = {split: f"PHOENIX-2014-T.{own}.corpus.csv" for split, own in _OWN_NAMES.items()}
    for split, table in tables_of_splits(source, [f"{root}annotations/manual" for root in _ROOTS], names, wanted):
        frames = table.parents[2] / "features" / "fullFrame-210x260px" / _OWN_NAMES[split]
        for row in read_rows(table, "|", COLUMNS):
            name = row.cells.get("name", "")
            if row.problem:
                gathering.drop((table, row.line), name, "a damaged row", row.problem)
                continue
            # The column `video` says NAME/1/*.png; the release has the frames in NAME itself.
            parts = [Part(frames / name, rate=FPS), Part(frames / name / "1", rate=FPS)] if name else []
            broadcast = name.rpartition("-")[0]
            extra = {"gloss": row.cells["orth"], "signer": row.cells["speaker"], "lang": "de"}
            gathering.add((table, row.line), name, row.cells["translation"], split=split, video=broadcast, parts=parts,
                          extra=extra)  # fmt: skip
    return gathering.finish()
