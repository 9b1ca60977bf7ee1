"""CSL-Daily: Chinese Sign Language, Chinese; folders of frames, with glosses. Its annotations are a pickle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.plain_pickle import read_pickle
from slt_jax.corpora.gathering import Gathering, Part
from slt_jax.corpora.rows import read_rows
from slt_jax.corpora.subtitled import Corpus
from slt_jax.errors import UserError, shown

PUBLISHED = {"train": 18401, "val": 1077, "test": 1176}
FPS = 30.0
ANNOTATIONS, SPLIT = "csl2020ct_v2.pkl", "split_1.txt"
_SPLITS = {"train": "train", "dev": "val", "test": "test"}
_LABELS = ("sentence_label", "")
_FRAMES = ("sentence/frames_512x512", "sentence_frames-512x512/frames_512x512", "frames_512x512")


def read(source: Path, wanted: Sequence[str]) -> Corpus:
    """The annotations of the `wanted` splits. A text is the characters of `label_char`, without spaces.

    `split_1.txt` and the annotations differ: a clip that only one of them has is dropped, and named.
    """
    gathering = Gathering(source)
    annotations, split_file = _find(source, ANNOTATIONS), _find(source, SPLIT)
    entries = _entries(annotations)
    split_of: dict[str, str | None] = {}
    for row in read_rows(split_file, "|", ("name", "split")):
        name, own = row.cells.get("name", ""), row.cells.get("split", "")
        split = _SPLITS.get(own)
        if row.problem or split is None:
            gathering.drop((split_file, row.line), name, "a damaged row", row.problem or f"split {own or 'empty'}")
            continue
        if name in split_of:
            gathering.drop((split_file, row.line), name, "id used before")
        elif split in wanted and name not in entries:
            gathering.drop((split_file, row.line), name, "no annotation", f"{ANNOTATIONS} has none of this name")
        split_of.setdefault(name, split)
    home = annotations.parent.parent if annotations.parent.name == _LABELS[0] else annotations.parent
    roots = [home / folder for folder in _FRAMES if (home / folder).is_dir()] or [home / _FRAMES[0]]
    for name, (number, entry) in entries.items():
        if name not in split_of:
            gathering.drop((annotations, number), name, "no split of its own", f"{SPLIT} does not have it")
        elif (split := split_of[name]) in wanted and split is not None:
            # A signer may be a number, and a list of labels one text.
            extra = {
                "gloss": _joined(entry.get("label_gloss"), " "),
                "signer": str(entry.get("signer", "")),
                "lang": "zh",
            }
            gathering.add((annotations, number), name, _joined(entry.get("label_char"), ""), split=split,
                          video=name, parts=[Part(root / name, rate=FPS) for root in roots], extra=extra)  # fmt: skip
    return gathering.finish()


def _find(source: Path, name: str) -> Path:
    places = [source / folder / name for folder in _LABELS]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise UserError(f"--source {source}: no {name} (looked in: {', '.join(_LABELS[:1])}, the folder itself)")
    return found


def _entries(path: Path) -> dict[str, tuple[int, Mapping[str, Any]]]:
    """The entries of `info` by their names, with their numbers. Raises UserError for another pickle."""
    found = read_pickle(path)
    info = found.get("info") if isinstance(found, dict) else None
    if not isinstance(info, list) or not all(isinstance(entry, dict) for entry in info):
        raise UserError(f"{path}: holds no list `info` of entries; is it the official file?")
    entries: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for number, entry in enumerate(info, 1):
        name = entry.get("name")
        if not isinstance(name, str) or "label_char" not in entry:
            raise UserError(f"{path}: entry {number} has no name or no label_char ({shown(list(entry))})")
        entries.setdefault(name, (number, entry))
    return entries


def _joined(labels: Any, between: str) -> str:
    return between.join(map(str, labels)) if isinstance(labels, (list, tuple)) else str(labels or "")
