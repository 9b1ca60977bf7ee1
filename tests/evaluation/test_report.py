"""report.json and report.csv as v9's dashboards read them."""

import csv
import statistics

import pytest

from slt_jax.cli.evaluate import table
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import choose_scoring
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


def test_texts_without_spaces_are_scored_by_what_they_consist_of():
    """Values of sacrebleu: with 13a, a sentence is one word, and BLEU is 0."""
    references = ["你今天想吃什么饭菜", "我的妹妹很喜欢跳舞", "他明天要去北京开会", "这本书是我昨天买的"]
    texts = ["你今天想吃什么东西", "我的妹妹很喜欢唱歌", "他明天要去上海开会", "这本书是她昨天买的"]
    rows = [
        Prediction(str(n), reference, text, latency_ms=1.0, chrf=0.0, group="ab"[n % 2])
        for n, (reference, text) in enumerate(zip(references, texts, strict=True))
    ]
    found = checkpoint_report(rows)
    assert found["metrics"]["bleu"] == pytest.approx(64.749, abs=1e-3)
    assert found["metrics"]["wer"] == found["metrics"]["cer"] == pytest.approx(100 * 7 / 36)
    assert "|tok:zh|" in found["signatures"]["bleu"]
    assert found["signatures"]["words"] == "characters"
    assert [group["clips"] for group in found["groups"].values()] == [2, 2]
    found = checkpoint_report(rows, choose_scoring(references, "13a"))
    assert found["metrics"]["bleu"] == pytest.approx(0, abs=1e-9)
    assert "|tok:13a|" in found["signatures"]["bleu"]
    report = {"checkpoints": [{"label": "a", "compile_seconds": 0.0, **checkpoint_report(rows)}], "aggregate": {}}
    assert "BLEU (zh)" in table(report)[0]
    assert "WER (characters)" in table(report)[0]
