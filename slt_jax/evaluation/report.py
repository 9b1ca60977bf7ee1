"""What an evaluation leaves on disk: a CSV of predictions per checkpoint, report.json and report.csv.

Keys, layout and types are v9's, so that what reads its reports reads these. Ours stand beside them:

    report.json = {
        "aggregate": {METRIC: {"mean", "std", "min", "max", "count"}}     over the checkpoints
        "checkpoints": [{
            "checkpoint": path, "metrics": {METRIC: number},
            "examples": five of {"video_id", "prediction", "reference", "latency_ms"},
            "label": text, "predictions": file name, "epoch": number or null, "clips": number,
            "signatures": {"bleu", "chrf", "chrf_pp"}, sacrebleu's; "words": "whitespace" or "characters"; "texts"
            "groups": {VALUE: {"clips", "bleu", "chrf", "chrf_pp", "cer", "wer", "rouge_l"}}, empty without --split-by;
                      of --split-by lang also "bleu_tokens": the tokeniser of the language
            "compile_seconds": number, "skipped": {video_id: reason}, empty without --skip-bad-clips
            "settings": {"num_beams", "max_length", "min_length", "precision", "batch_size", "v9_hand_masks"}
        }],
        "eval_index": path, "split_by": column or null, "devices": text
    }

METRIC: bleu, chrf, chrf_pp (chrF++), cer, wer, rouge_l in percent; avg_latency_ms, std_latency_ms, p50_latency_ms,
p95_latency_ms, min_latency_ms, max_latency_ms of a clip. Standard deviations divide by n.

The columns of report.csv are type, checkpoint (a file name), name, value, reference. By their type, rows hold
    aggregate   ALL, METRIC_STATISTIC, number
    metric      METRIC, number
    example     video_id, prediction, reference
    run         clips or compile_seconds, number
    group       METRIC, number, and as reference the group
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.files import replacing
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import Scoring, choose_scoring, chrf_plus_plus, corpus_scores

SCORES = ("bleu", "chrf", "chrf_pp", "cer", "wer", "rouge_l")
LATENCIES = tuple(f"{name}_latency_ms" for name in ("avg", "std", "p50", "p95", "min", "max"))
EXAMPLES = 5


def checkpoint_report(
    predictions: Sequence[Prediction], scoring: Scoring | None = None, *, languages: str | None = None
) -> dict[str, Any]:
    """The part of report.json that follows from the translations of one checkpoint.

    Without `scoring`, it is chosen by the references, for all groups alike. If the groups are `languages`, each has the
    tokeniser that is asked for so ("auto": its own).
    """
    scoring = scoring or choose_scoring(p.reference for p in predictions)
    groups: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        if prediction.group is not None:
            groups.setdefault(prediction.group, []).append(prediction)
    return {
        "clips": len(predictions),
        "metrics": {**_latencies(predictions), **_scores(predictions, scoring)},
        "signatures": scoring.signatures(),
        "examples": [_row(prediction) for prediction in predictions[:EXAMPLES]],
        "groups": {name: _group(groups[name], scoring, languages) for name in sorted(groups)},
    }


def _group(predictions: Sequence[Prediction], scoring: Scoring, languages: str | None) -> dict[str, Any]:
    if languages is None:
        return {"clips": len(predictions), **_scores(predictions, scoring)}
    own = choose_scoring((p.reference for p in predictions), languages)
    return {"clips": len(predictions), **_scores(predictions, own), "bleu_tokens": own.bleu_tokens}


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
    """Write aggregates, metrics and examples as v9 does, a row each, and then what v9's report does not have."""
    rows = [
        {"type": "aggregate", "checkpoint": "ALL", "name": f"{metric}_{statistic}", "value": value}
        for metric, statistics in report["aggregate"].items()
        for statistic, value in statistics.items()
    ]
    for checkpoint in report["checkpoints"]:
        rows += [{"checkpoint": Path(checkpoint["checkpoint"]).name, **row} for row in _rows(checkpoint)]
    _write_csv(path, ("type", "checkpoint", "name", "value", "reference"), rows)


def _rows(checkpoint: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in checkpoint["metrics"].items():
        yield {"type": "metric", "name": name, "value": value}
    for example in checkpoint["examples"]:
        texts = {"value": example["prediction"], "reference": example["reference"]}
        yield {"type": "example", "name": example["video_id"], **texts}
    for name in ("clips", "compile_seconds"):
        yield {"type": "run", "name": name, "value": checkpoint[name]}
    for group, scores in checkpoint["groups"].items():
        for name, value in scores.items():
            yield {"type": "group", "name": name, "value": value, "reference": group}


def _scores(predictions: Sequence[Prediction], scoring: Scoring) -> dict[str, float]:
    return text_scores([p.reference for p in predictions], [p.prediction for p in predictions], scoring)


def text_scores(references: Sequence[str], texts: Sequence[str], scoring: Scoring) -> dict[str, float]:
    """`SCORES` of translations, in percent."""
    scores = corpus_scores(references, texts, scoring) | {"chrf_pp": chrf_plus_plus(references, texts)}
    return {name: scores[name] for name in SCORES}


def _latencies(predictions: Sequence[Prediction]) -> dict[str, float]:
    times = np.array([prediction.latency_ms for prediction in predictions])
    p50, p95 = np.percentile(times, (50, 95))
    values = (times.mean(), times.std(), p50, p95, times.min(), times.max())
    return dict(zip(LATENCIES, map(float, values), strict=True))


def _row(prediction: Prediction) -> dict[str, Any]:
    return {
        "video_id": prediction.video_id, "prediction": prediction.prediction, "reference": prediction.reference,
        "latency_ms": round(prediction.latency_ms, 6),
    }  # fmt: skip


def _write_csv(path: str | Path, header: Sequence[str], rows) -> None:
    with replacing(path) as file:
        file.write(predictions_csv(header, rows))


def predictions_csv(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, header)  # rows end with \r\n, or a lone \r in a text would not be quoted
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
