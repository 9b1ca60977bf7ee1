"""report.html: an evaluation as one page to look at, complete in itself.

Styles, scripts and pictures are inside, and nothing is loaded from elsewhere. The parts in `page_parts` are put
together here, with all results as JSON that the scripts draw.
"""

import base64
import html
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from slt_jax.base.files import replacing
from slt_jax.data.clip_files import ClipFiles
from slt_jax.decoding.results import Prediction
from slt_jax.errors import UserError
from slt_jax.pictures.sheet import clip_sheet
from slt_jax.streams import STREAMS

# With these, a page of many real clips takes a few megabytes.
SHEETS, COLUMNS, CELL, QUALITY = 150, 12, 56, 60
CURVES = ("train_loss", "val_loss", "val_translation_cer", "val_teacher_forced_cer", "val_gloss_wer",
          "val_contrastive_accuracy", "val_bleu", "val_chrf", "lr")  # fmt: skip


def write_page(
    path: str | Path,
    *,
    title: str,
    report: Mapping[str, Any],
    results: Mapping[str, Sequence[Prediction]],
    files: Mapping[str, ClipFiles],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write the page.

    `report` is the content of report.json. `results` (translations) and `curves` (records of metrics.jsonl) are by the
    checkpoint's label, `files` by video id. Contact sheets are drawn for the worst and the best clips, at most 150.
    """
    clips: dict[str, dict[str, Any]] = {}
    for prediction in itertools.chain.from_iterable(results.values()):
        fact = {"id": prediction.video_id, "reference": prediction.reference, "group": prediction.group, "sheet": None}
        clips.setdefault(prediction.video_id, fact)
    for video_id in itertools.islice(filter(files.__contains__, extremes(results)), SHEETS):
        clips[video_id]["sheet"] = _sheet(files[video_id])
    place = {video_id: index for index, video_id in enumerate(clips)}
    known = {checkpoint.get("label"): checkpoint for checkpoint in report.get("checkpoints", ())}
    data = {
        "split_by": report.get("split_by"),
        "streams": ", ".join(stream.title for stream in STREAMS),
        "devices": report.get("devices"),
        "aggregate": report.get("aggregate", {}),
        "checkpoints": [
            _checkpoint(label, known.get(label, {}), predictions, place) for label, predictions in results.items()
        ],
        "clips": list(clips.values()),
        "curves": _curves(curves),
    }
    parts = package_files("slt_jax.evaluation") / "page_parts"
    page, style, curve_script, script = (
        (parts / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "curves.js", "page.js")
    )
    fillings = {
        "title": html.escape(title), "style": style, "script": curve_script + script, "data": _embedded(data),
    }  # fmt: skip
    text = re.sub("@(title|style|script|data)@", lambda mark: fillings[mark[1]], page)
    with replacing(path) as file:
        file.write(text.encode())


def extremes(results: Mapping[str, Sequence[Prediction]]) -> Iterator[str]:
    """All ids, each once: first every checkpoint's worst and best clip by chrF, then the second worst, and so on."""
    ranked = [sorted(predictions, key=lambda prediction: prediction.chrf) for predictions in results.values()]
    given = set()
    for rank in range(max(map(len, ranked), default=0)):
        for predictions in ranked:
            for prediction in (*predictions[rank : rank + 1], *predictions[::-1][rank : rank + 1]):
                if prediction.video_id not in given:
                    given.add(prediction.video_id)
                    yield prediction.video_id


def _sheet(files: ClipFiles) -> list[int | str] | str:
    """Width, height and JPEG of a contact sheet, or why there is none."""
    try:
        sheet = clip_sheet(files, columns=COLUMNS, cell=CELL)
    except UserError as error:
        return str(error)
    jpeg = io.BytesIO()
    sheet.save(jpeg, "JPEG", quality=QUALITY, optimize=True)
    return [*sheet.size, base64.b64encode(jpeg.getvalue()).decode()]


def _checkpoint(
    label: str, known: Mapping[str, Any], predictions: Sequence[Prediction], place: Mapping[str, int]
) -> dict[str, Any]:
    """A checkpoint's part of the report, with its translations as [index of the clip, text, chrF, ms]."""
    return {
        "label": label,
        "path": known.get("checkpoint"),
        "epoch": known.get("epoch"),
        **{key: known.get(key, {}) for key in ("metrics", "groups", "settings", "skipped", "signatures")},
        "rows": [[place[p.video_id], p.prediction, round(p.chrf, 2), round(p.latency_ms, 2)] for p in predictions],
    }


def _curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The curves of every run. Checkpoints of one run share them."""
    runs: list[dict[str, Any]] = []
    for label, records in curves.items():
        kept = _finite([{key: record.get(key) for key in ("epoch", *CURVES)} for record in records])
        same = next((run for run in runs if run["records"] == kept), None)
        if same:
            same["labels"].append(label)
        elif kept:
            runs.append({"labels": [label], "records": kept})
    return runs


def _embedded(data: Any) -> str:
    """JSON for a script element: no text in it can end the element, and numbers that are not finite become null."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
