"""What an evaluation leaves on disk: a CSV of predictions per checkpoint, report.json and report.csv.

    report.json = {
        "aggregate": {METRIC: {"mean", "std", "min", "max", "count"}}     over the checkpoints
        "checkpoints": [{
            "checkpoint": label, "path", "predictions": file name, "epoch": number or null, "clips": number,
            "metrics": {METRIC: number},
            "signatures": {"bleu", "chrf"}, sacrebleu's,
            "examples": five of {"video_id", "prediction", "reference", "latency_ms"},
            "groups": {VALUE: {"clips", "bleu", "chrf", "cer", "wer", "rouge_l"}}, empty without --split-by
            "compile_seconds": number, "skipped": {video_id: reason}, empty without --skip-bad-clips
            "settings": {"num_beams", "max_length", "min_length", "precision", "batch_size", "v9_hand_masks"}
        }],
        "eval_index": path, "split_by": column or null, "devices": text
    }

METRIC: bleu, chrf, cer, wer, rouge_l in percent; latency_avg_ms, latency_std_ms, latency_p50_ms, latency_p95_ms,
latency_min_ms, latency_max_ms of a clip. Standard deviations divide by n.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.files import replacing
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import corpus_scores, signatures

SCORES = ("bleu", "chrf", "cer", "wer", "rouge_l")
LATENCIES = tuple(f"latency_{name}_ms" for name in ("avg", "std", "p50", "p95", "min", "max"))
EXAMPLES = 5


def checkpoint_report(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The part of report.json that follows from the translations of one checkpoint."""
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        if prediction.group is not None:
            groups.setdefault(prediction.group, []).append(prediction)
    return {
        "clips": len(predictions),
        "metrics": {**_scores(predictions), **_latencies(predictions)},
        "signatures": dict(signatures()),
        "examples": [_row(prediction) for prediction in predictions[:EXAMPLES]],
        "groups": {name: {"clips": len(groups[name]), **_scores(groups[name])} for name in sorted(groups)},
    }


def aggregate(checkpoints: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, std, min, max and count of each metric over the checkpoints."""
    return {
        metric: {
            "mean": float(np.mean(values)), "std": float(np.std(values)), "min": min(values), "max": max(values),
            "count": len(values),
        }
        for metric in (*SCORES, *LATENCIES)
        if (values := [checkpoint["metrics"][metric] for checkpoint in checkpoints])
    }  # fmt: skip


def write_predictions(path: str | Path, predictions: Sequence[Prediction]) -> None:
    """Write `video_id,prediction,reference,latency_ms`, in the order of the index."""
    _write_csv(path, ("video_id", "prediction", "reference", "latency_ms"), map(_row, predictions))


def write_report_csv(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write a row per checkpoint, a row per group, and the aggregates; `kind` says which of these a row is."""
    rows = []
    for checkpoint in report["checkpoints"]:
        name = {"checkpoint": checkpoint["checkpoint"]}
        facts = {key: checkpoint[key] for key in ("clips", "compile_seconds")}
        rows.append({"kind": "checkpoint", **name, **facts, **checkpoint["metrics"]})
        rows += [{"kind": "group", **name, "group": group, **row} for group, row in checkpoint["groups"].items()]
    for kind in ("mean", "std", "min", "max", "count"):
        rows.append({"kind": kind, **{metric: values[kind] for metric, values in report["aggregate"].items()}})
    _write_csv(path, ("kind", "checkpoint", "group", "clips", *SCORES, *LATENCIES, "compile_seconds"), rows)


def _scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    return corpus_scores([p.reference for p in predictions], [p.prediction for p in predictions])


def _latencies(predictions: Sequence[Prediction]) -> dict[str, float]:
    times = np.array([prediction.latency_ms for prediction in predictions])
    p50, p95 = np.percentile(times, (50, 95))
    values = (times.mean(), times.std(), p50, p95, times.min(), times.max())
    return dict(zip(LATENCIES, map(float, values), strict=True))


def _row(prediction: Prediction) -> dict[str, Any]:
    return {
        "video_id": prediction.video_id, "prediction": prediction.prediction, "reference": prediction.reference,
        "latency_ms": round(prediction.latency_ms, 3),
    }  # fmt: skip


def _write_csv(path: str | Path, header: Sequence[str], rows) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header)  # rows end with \r\n, or a lone \r in a text would not be quoted
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
