"""OpenASL: American Sign Language, English; long videos from the web with times, and a box of the signer."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from slt_jax.base.console import say
from slt_jax.corpora.gathering import Folders, Gathering, Part, cut
from slt_jax.corpora.rows import parse_clock, read_json, read_rows
from slt_jax.corpora.subtitled import Corpus
from slt_jax.errors import UserError

COLUMNS = ("vid", "yid", "start", "end", "raw-text", "split")
PUBLISHED = {"train": 96476, "val": 966, "test": 975}
TABLE, BOXES = "openasl-v1.0.tsv", "bbox-v1.0.json"
_SPLITS = {"train": "train", "valid": "val", "val": "val", "dev": "val", "test": "test"}
_HOMES = ("", "data")
_VIDEOS = ("", "raw-video", "raw_video", "raw_videos", "videos", "video-clip", "video_clip", "clips")
Box = tuple[float, float, float, float]


def read(source: Path, wanted: Sequence[str]) -> Corpus:
    """The table of the `wanted` splits; the text is `raw-text`.

    Clips that its script cut (`vid` with % in place of :) are taken where the long video is not there.
    """
    gathering = Gathering(source)
    table = next((path for home in _HOMES if (path := source / home / TABLE).is_file()), None)
    if table is None:
        raise UserError(f"--source {source}: no {TABLE} (looked in: the folder itself, data)")
    boxes = _boxes(next((path for home in _HOMES if (path := source / home / BOXES).is_file()), None), source)
    files = Folders(source / folder for folder in _VIDEOS)
    for row in read_rows(table, "\t", COLUMNS):
        cells = row.cells
        split = _SPLITS.get(cells.get("split", ""))
        if row.problem or split is None:
            problem = row.problem or f"split {cells.get('split') or 'empty'}"
            gathering.drop((table, row.line), row.first, "a damaged row", problem)
            continue
        if split not in wanted:
            continue
        name, video = cells["vid"], cells["yid"]
        start, end = parse_clock(cells["start"]), parse_clock(cells["end"])
        parts = [cut(path, start, end, boxes.get(name)) for path in files.video(video)]
        parts += [Part(path) for path in files.video(*(name.replace(":", mark) for mark in "%:_-"))]
        parts = parts or [Part(source / _VIDEOS[1] / f"{video}.mp4")]
        extra = {"lang": "en"} | ({"gloss": cells["gloss"]} if cells.get("gloss") else {})
        gathering.add((table, row.line), name, cells["raw-text"], split=split, video=video, parts=parts, extra=extra)
    return gathering.finish()


def _boxes(path: Path | None, source: Path) -> dict[str, Box]:
    """The signer's box of each clip, inside the picture. Boxes that are none are told, and their clips go without."""
    if path is None:
        say(f"{source}: no {BOXES}; the signer is looked for in the whole picture")
        return {}
    found = read_json(path)
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: not an object of boxes by the clips' names")
    boxes = {name: box for name, given in found.items() if (box := _box(given))}
    if len(boxes) < len(found):
        say(f"{path}: {len(found) - len(boxes)} of {len(found)} boxes are none; there the whole picture is looked at")
    return boxes


def _box(given: object) -> Box | None:
    """[x0, y0, x1, y1] in fractions of the picture, cut to it."""
    if not isinstance(given, list) or len(given) != 4 or not all(isinstance(side, (int, float)) for side in given):
        return None
    if not all(math.isfinite(side) for side in given):
        return None
    left, top, right, bottom = (min(max(float(side), 0.0), 1.0) for side in given)
    return (left, top, right, bottom) if left < right and top < bottom else None
