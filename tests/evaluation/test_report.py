"""report.json and report.csv as v9's dashboards read them."""

import csv
import statistics

import pytest

from slt_jax.decoding.results import Prediction
from slt_jax.evaluation.report import aggregate, checkpoint_report, write_predictions, write_report_csv

TEXTS = {"bleu", "chrf", "cer", "wer"}
TIMES = {f"{name}_latency_ms" for name in ("avg", "std", "p50", "p95", "min", "max")}


def predictions(shift: float) -> list[Prediction]:
    pairs = [
        ("hola a todos", "hola a todos"),
        ("buen día", "buen dia"),
        ("gracias", ""),
        ("uno", "dos"),
        ("a", "a"),
        ("b", "c"),
    ]
    return [
        Prediction(f"v{n}", reference, text, latency_ms=10.0 + shift + n, chrf=0.0)
        for n, (reference, text) in enumerate(pairs)
    ]


@pytest.fixture
def report():
    checkpoints = [
        {"checkpoint": f"runs/{name}/best.pt", "label": name, "compile_seconds": 1.5, **checkpoint_report(rows)}
        for name, rows in (("a", predictions(0.0)), ("b", predictions(2.0)))
    ]
    return {"aggregate": aggregate(checkpoints), "checkpoints": checkpoints}


def test_keys_and_types(report):
    assert report["aggregate"].keys() >= TEXTS | TIMES
    for name in TEXTS | TIMES:
        values = [checkpoint["metrics"][name] for checkpoint in report["checkpoints"]]
        assert all(type(value) is float for value in values)
        found = report["aggregate"][name]
        assert found == {
            "mean": pytest.approx(statistics.fmean(values)), "std": pytest.approx(statistics.pstdev(values)),
            "min": min(values), "max": max(values), "count": 2,
        }  # fmt: skip
        assert type(found["count"]) is int
    for checkpoint in report["checkpoints"]:
        assert [example["video_id"] for example in checkpoint["examples"]] == ["v0", "v1", "v2", "v3", "v4"]
        assert set(checkpoint["examples"][0]) == {"video_id", "prediction", "reference", "latency_ms"}


def test_rows(report, tmp_path):
    write_report_csv(tmp_path / "report.csv", report)
    with open(tmp_path / "report.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["type", "checkpoint", "name", "value", "reference"]
    assert ["aggregate", "ALL", "bleu_count", "2", ""] in rows
    assert ["aggregate", "ALL", "max_latency_ms_max", "17.0", ""] in rows
    assert ["metric", "best.pt", "min_latency_ms", "12.0", ""] in rows
    assert ["example", "best.pt", "v1", "buen dia", "buen día"] in rows
    assert sum(row[0] == "aggregate" for row in rows) == 5 * len(report["aggregate"])


def test_times_have_six_decimals(tmp_path):
    write_predictions(tmp_path / "p.csv", [Prediction("v", "a", "a", latency_ms=1 / 3, chrf=0.0)])
    assert (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[1] == "v,a,a,0.333333"
