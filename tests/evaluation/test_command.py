"""The command from end to end: what it translates, and what it leaves."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import CHRF

import slt_jax
from convert import read_pt, write_pt
from slt_jax.cli.convert import main as convert
from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import by_stream
from slt_jax.data.text import decode, load_tokenizer
from slt_jax.decoding.scores import corpus_scores
from slt_jax.evaluation import evaluate as module
from tests.evaluation.conftest import CLIPS, arguments, data_flags, folders, write_run

ROOT = Path(__file__).resolve().parents[2]


def one_by_one(corpus: Path, run: Path, **options) -> list[str]:
    """Every clip by itself, at full length, through the public interface."""
    translator = slt_jax.load(run)
    tokenizer = load_tokenizer(run / "tokenizer")
    data, model = folders(corpus), translator.config
    ids = (corpus / "index" / "test.csv").read_text().split()[1:]
    files = scan(by_stream(data), ids)
    texts = []
    for video_id in ids:
        clip = read_clip(
            files[video_id], sequence_length=model.sequence_length, image_size=model.image_size, num_landmarks=13
        )
        tokens = translator.generate({name: array[None] for name, array in clip.items()}, min_length=2, **options)
        texts += decode(tokenizer, tokens)
    return texts


@pytest.fixture(scope="module")
def greedy(corpus, run) -> list[str]:
    texts = one_by_one(corpus, run, max_length=9)
    assert len(set(texts)) > CLIPS // 2  # else the comparisons below say little
    return texts


# --- translations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_batches_and_buckets_change_nothing(evaluate, run, greedy, batch_size):
    """Partial batches and shorter frame numbers included: what each clip gives by itself."""
    assert evaluate(run, "--batch-size", str(batch_size)).texts() == greedy


def test_beams_and_new_tokens(corpus, evaluate, run, greedy):
    expected = one_by_one(corpus, run, num_beams=3, early_stopping=True, max_new_tokens=5)
    assert expected != one_by_one(corpus, run, max_new_tokens=5)
    found = evaluate(run, "--num-beams", "3", "--max-new-tokens", "5")
    assert found.texts() == expected
    assert found.report["checkpoints"][0]["settings"]["max_length"] == 6  # the start token is the sixth


@pytest.mark.slow
def test_devices_and_workers_change_nothing(corpus, run, greedy, tmp_path):
    """Eight devices, whose batch is larger than the split; then data workers, by v9's command name."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    for more, environment in ((["--batch-size", "16"], {"XLA_FLAGS": flags}), (["--num-workers", "2"], {})):
        output = tmp_path / more[0] / "p.csv"
        done = subprocess.run(
            [sys.executable, "tools/eval_slt_multistream_v9.py", *arguments(corpus, [run], output, *more)],
            cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with open(output, encoding="utf-8", newline="") as file:
            assert [row["prediction"] for row in csv.DictReader(file)] == greedy


def test_settings_follow_the_run_and_then_the_flag(corpus, evaluate, tmp_path):
    run = write_run(tmp_path / "run", corpus, data={"val_batch_size": 16})
    own = evaluate(run).report["checkpoints"][0]["settings"]
    assert (own["precision"], own["batch_size"], own["max_length"]) == ("float32", 16, 9)
    asked = evaluate(run, "--precision", "amp", "--batch-size", "4", "--max-target-length", "5")
    asked = asked.report["checkpoints"][0]["settings"]
    assert (asked["precision"], asked["batch_size"], asked["max_length"]) == ("amp", 4, 5)


def test_v9s_masks_hold_for_v9s_weights(evaluate, run, greedy, tmp_path):
    """Weights that v9 trained never saw a hand; they are not shown one unless asked for."""
    v9 = shutil.copytree(run, tmp_path / "v9")
    content = read_pt(v9 / "best.pt")
    del content["config"]["data"]["v9_hand_masks"]
    write_pt(v9 / "best.pt", content)
    hidden = evaluate(v9)
    assert "v9's hand masks" in hidden.said
    assert hidden.texts() != greedy
    shown = evaluate(v9, "--no-v9-hand-masks")
    assert "v9's hand masks" not in shown.said
    assert shown.texts() == greedy


# --- what is left -------------------------------------------------------------------------------------------------


def test_files(corpus, evaluate, run, greedy):
    found = evaluate(run)
    header = (found.folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "video_id,prediction,reference,latency_ms"
    rows = found.rows()
    assert [row["video_id"] for row in rows] == (corpus / "index" / "test.csv").read_text().split()[1:]
    texts = {line.split(";")[0]: line.split(";")[1] for line in (corpus / "meta.csv").read_text().splitlines()}
    assert [row["reference"] for row in rows] == [texts[row["video_id"]] for row in rows]

    (checkpoint,) = found.report["checkpoints"]
    scores = corpus_scores([row["reference"] for row in rows], greedy)
    assert scores["cer"] > 0
    for name, value in scores.items():
        assert checkpoint["metrics"][name] == pytest.approx(value)
    times = [float(row["latency_ms"]) for row in rows]
    assert checkpoint["metrics"]["avg_latency_ms"] == pytest.approx(np.mean(times), abs=1e-3)
    assert checkpoint["metrics"]["p95_latency_ms"] == pytest.approx(np.percentile(times, 95), abs=1e-3)
    assert checkpoint["metrics"]["max_latency_ms"] == pytest.approx(max(times), abs=1e-3)
    assert checkpoint["compile_seconds"] >= 0
    assert checkpoint["clips"] == CLIPS
    assert checkpoint["epoch"] == 3
    assert checkpoint["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert [example["video_id"] for example in checkpoint["examples"]] == [row["video_id"] for row in rows[:5]]
    assert checkpoint["groups"] == checkpoint["skipped"] == {}
    assert found.report["aggregate"]["cer"] == {
        "mean": scores["cer"], "std": 0.0, "min": scores["cer"], "max": scores["cer"], "count": 1,
    }  # fmt: skip

    for name in ("predictions.csv", "report.json", "report.csv", "report.html"):
        assert str(found.folder / name) in found.said
        assert (found.folder / name).exists()
    assert len(list(found.folder.iterdir())) == 4
    assert f"{scores['chrf']:.2f}" in found.said


def test_several_checkpoints(corpus, evaluate, run, greedy, tmp_path):
    """Two files of one name keep apart, and every form of a run is the same run."""
    second = write_run(tmp_path / "second", corpus, seed=1)
    assert convert(["to-jax", str(run / "best.pt"), str(tmp_path / "states" / "checkpoints"), "--weights-only"]) == 0
    shutil.copytree(run / "tokenizer", tmp_path / "states" / "tokenizer")
    found = evaluate([run / "best.pt", second / "best.pt", run, tmp_path / "states"])
    names = [f"predictions__{label}.csv" for label in ("first_best", "second_best", "first", "states")]
    assert [checkpoint["predictions"] for checkpoint in found.report["checkpoints"]] == names
    first, other, whole, states = (found.texts(name) for name in names)
    assert first == whole == states == greedy
    assert other != first
    scores = [checkpoint["metrics"]["cer"] for checkpoint in found.report["checkpoints"]]
    cer = found.report["aggregate"]["cer"]
    assert (cer["count"], cer["min"], cer["max"]) == (4, min(scores), max(scores))
    assert cer["mean"] == pytest.approx(np.mean(scores))
    assert cer["std"] == pytest.approx(np.std(scores))
    with open(found.folder / "report.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    (mean,) = [row for row in rows if row["name"] == "cer_mean"]
    assert (mean["type"], mean["checkpoint"], float(mean["value"])) == ("aggregate", "ALL", pytest.approx(cer["mean"]))
    own = [row for row in rows if row["type"] == "metric" and row["name"] == "cer"]
    assert [row["checkpoint"] for row in own] == ["best.pt", "best.pt", "first", "states"]
    assert [float(row["value"]) for row in own] == pytest.approx(scores)


def test_groups(corpus, evaluate, run):
    found = evaluate(run, "--split-by", "Signer")
    lines = [line.split(";") for line in (corpus / "meta.csv").read_text().splitlines()]
    column = lines[0].index("signer")
    signers = {cells[0]: cells[column] for cells in lines[1:]}
    groups = found.report["checkpoints"][0]["groups"]
    assert groups.keys() == {signers[row["video_id"]] for row in found.rows()}
    assert sum(group["clips"] for group in groups.values()) == CLIPS
    for name, group in groups.items():
        rows = [row for row in found.rows() if signers[row["video_id"]] == name]
        references, texts = ([row[name] for row in rows] for name in ("reference", "prediction"))
        scores = corpus_scores(references, texts) | {
            "chrf_pp": CHRF(word_order=2).corpus_score(texts, [references]).score
        }
        assert group == pytest.approx(scores | {"clips": len(rows)})
        assert f"  {name}" in found.said


def test_bad_clips_are_left_out_and_named(corpus, evaluate, run, greedy, tmp_path):
    """One is found before anything runs, one only when its image is decoded."""
    broken = shutil.copytree(corpus, tmp_path / "clips")
    (broken / "pose" / "test_000002.npz").write_bytes(b"nothing")
    image = next((broken / "face").glob("test_000005_*.jpg"))
    image.write_bytes(b"\xff\xd8" + b"\x00" * 100 + b"\xff\xd9")
    found = evaluate(run, *data_flags(broken), "--skip-bad-clips")
    kept = [number for number in range(CLIPS) if number not in (2, 5)]
    assert [row["video_id"] for row in found.rows()] == [f"test_{number:06d}" for number in kept]
    assert found.texts() == [greedy[number] for number in kept]
    skipped = found.report["checkpoints"][0]["skipped"]
    assert skipped.keys() == {"test_000002", "test_000005"}
    assert "npz" in skipped["test_000002"]
    assert image.name in skipped["test_000005"]


def test_what_the_page_is_made_of(evaluate, run, tmp_path, monkeypatch):
    """Curves of the work-dir that a checkpoint lies in; a damaged file of metrics is no reason to fail."""
    given = {}
    monkeypatch.setattr(module, "write_page", lambda path, **what: given.update(what, path=path))
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "metrics.jsonl").write_text('{"epoch": 1')
    found = evaluate([run / "best.pt", damaged])
    assert given["path"] == found.folder / "report.html"
    assert given["report"] == found.report
    assert given["curves"] == {"best": [{"epoch": 1, "train_loss": 2.5, "val_loss": 2.0}], "damaged": []}
    assert given["files"].keys() == {row["video_id"] for row in found.rows("predictions__best.csv")}
    for label, predictions in given["results"].items():
        assert [p.prediction for p in predictions] == found.texts(f"predictions__{label}.csv")


def test_settings_from_a_file(corpus, evaluate, run, greedy, tmp_path):
    """A training configuration serves: what it says of optimisation is of no interest, of the model it must fit."""
    file = tmp_path / "training.json"
    file.write_text(json.dumps({
        "data": folders(corpus) | {"batch_size": 3}, "model": {"d_model": 32, "temporal_nhead": "4"},
        "optim": {"lr": 0.1}, "training": {"epochs": 9},
    }))  # fmt: skip
    found = evaluate(run, "--config", str(file), "--set", "data.val_batch_size=5")
    assert found.report["checkpoints"][0]["settings"]["batch_size"] == 5
    assert found.texts() == greedy
