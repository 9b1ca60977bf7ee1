"""A result that others can check: a folder with predictions, scores, and where they come from.

    DIR/predictions.csv   video_id, reference, prediction: all that the scores need
    DIR/compared.csv      the same of another system, if there is one
    DIR/scores.json       scores with sacrebleu's signatures and its confidence by bootstrap, and the paired test
    DIR/provenance.json   checksums of weights, index and metadata; settings, configuration, versions
    DIR/README.md         a model card as HuggingFace reads it

`check_card` computes the scores again from the predictions, without a model.
"""

import csv
import importlib.metadata
import io
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from slt_jax.base.files import checksums, replacing_folder, sha256, write_json
from slt_jax.base.json_text import read_json
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import Scoring, choose_scoring, nfc
from slt_jax.errors import UserError, shown
from slt_jax.evaluation.card_text import model_card
from slt_jax.evaluation.report import predictions_csv, text_scores

FILES = ("predictions.csv", "compared.csv", "scores.json", "provenance.json", "README.md")
SAMPLES = 1000  # of a bootstrap, as sacrebleu's command takes by default
CLOSE = 1e-6  # percent by which a score may differ between machines
PACKAGES = ("slt-jax", "jax", "flax", "numpy", "transformers", "tokenizers", "sacrebleu", "rapidfuzz")
COLUMNS = ("video_id", "reference", "prediction")


def write_card(
    folder: Path,
    predictions: Sequence[Prediction],
    scoring: Scoring,
    facts: Mapping[str, Any],
    files: Mapping[str, Path],
    *,
    languages: Sequence[str] = (),
    compare: Path | None = None,
) -> dict[str, Any]:
    """Write the folder, whole or not at all, and return its scores.

    `facts` go into provenance.json as they are, with the checksums of `files` (by what they are; a folder has one for
    each of its files). `compare` is a CSV with the predictions of another system for the same clips. Raises UserError
    if that one has other clips or references, and for a folder that holds something else.
    """
    check_place(folder)
    rows = [(p.video_id, p.reference, p.prediction) for p in predictions]
    other = None if compare is None else read_compared(compare, rows)
    scores = card_scores(rows, scoring, other)
    provenance = {
        **facts,
        "checksums": {name: _checksum(path) for name, path in files.items()},
        "versions": _versions(),
    }
    with replacing_folder(folder) as new:
        (new / "predictions.csv").write_bytes(_table(rows))
        if other is not None:
            (new / "compared.csv").write_bytes(_table(other))
        scores["sha256"] = {path.name: sha256(path) for path in sorted(new.glob("*.csv"))}
        write_json(new / "scores.json", scores)
        write_json(new / "provenance.json", provenance)
        card = model_card(scores, provenance, languages)
        (new / "README.md").write_text(card, encoding="utf-8")
    return scores


def check_place(folder: Path) -> None:
    """Raise UserError if a card in this folder would take the place of something else."""
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {*FILES}):
        raise UserError(f"--card {folder}: holds other files; name a new folder")


def card_scores(
    rows: Sequence[tuple[str, str, str]], scoring: Scoring, other: Sequence[tuple[str, str, str]] | None = None
) -> dict[str, Any]:
    """What scores.json says of rows (id, reference, prediction), and of `other` predictions for the same clips."""
    references, texts = [nfc(row[1]) for row in rows], [nfc(row[2]) for row in rows]
    found: dict[str, Any] = {
        "clips": len(rows),
        "bleu_tokens": scoring.bleu_tokens,
        "words": "whitespace" if scoring.spaces else "characters",
        "signatures": scoring.signatures(),
        "scores": text_scores(references, texts, scoring),
        "bootstrap": {"samples": SAMPLES, **{name: _interval(m, texts, references) for name, m in _metrics(scoring)}},
    }
    if other is not None:
        found["paired"] = _paired([nfc(row[2]) for row in other], texts, references, scoring)
    return found


def check_card(folder: Path) -> dict[str, Any]:
    """Compute the scores of a folder again and return them.

    Raises UserError that names what differs, or the file that is missing or not what it was.
    """
    if not (folder / "scores.json").is_file():
        raise UserError(f"--check {folder}: has no scores.json; name a folder that slt-eval --card wrote")
    told = read_json(folder / "scores.json", "--check")
    try:
        scoring = Scoring(str(told["bleu_tokens"]), spaces=told["words"] == "whitespace")
        sums, compared = dict(told["sha256"]), "paired" in told
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"--check {folder}: scores.json lacks {error}; it is damaged") from None
    for name, wanted in sums.items():
        if name not in FILES or not (folder / name).is_file():
            raise UserError(f"--check {folder}: {shown(name)} is missing")
        if sha256(folder / name) != wanted:
            raise UserError(f"--check {folder}: {name} is not the file that was scored; its checksum differs")
    choose_scoring([], scoring.bleu_tokens)  # says it if the tokeniser cannot be used here
    rows = read_rows(folder / "predictions.csv", "--check")
    again = card_scores(rows, scoring, read_rows(folder / "compared.csv", "--check") if compared else None)
    different = [f"{name} {said} (again: {now})" for name, said, now in _differences(told, again)]
    if different:
        raise UserError(f"--check {folder}: other scores come out: {'; '.join(different[:5])}")
    return again


def read_compared(path: Path, rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Another system's predictions, in the order of `rows`. Raises UserError if they are not for the same clips."""
    other = {row[0]: row for row in read_rows(path, "--compare")}
    if missing := [row[0] for row in rows if row[0] not in other]:
        raise UserError(f"--compare {path}: {len(missing)} of {len(rows)} clips are not in it, such as {missing[0]}")
    if more := other.keys() - {row[0] for row in rows}:
        raise UserError(f"--compare {path}: {len(more)} clips of it are not in the index, such as {min(more)}")
    for video_id, reference, _ in rows:
        if nfc(other[video_id][1]) != nfc(reference):
            raise UserError(f"--compare {path}: {video_id} has another reference there; both must be the same texts")
    return [other[row[0]] for row in rows]


def read_rows(path: Path, flag: str) -> list[tuple[str, str, str]]:
    """(id, reference, prediction) of the rows of a CSV of predictions. Raises UserError with flag and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows: dict[str, tuple[str, str, str]] = {}
    try:
        if lacking := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise UserError(f"{flag} {path}: has no column {lacking[0]}; it needs {', '.join(COLUMNS)}")
        for row in reader:
            cells = tuple(row[name] for name in COLUMNS)
            if None in cells or not cells[0] or cells[0] in rows:
                what = "lacks a cell" if None in cells or not cells[0] else f"repeats the clip {cells[0]}"
                raise UserError(f"{flag} {path}, line {reader.line_num}: {what}")
            rows[cells[0]] = (cells[0], cells[1], cells[2])
    except csv.Error as error:
        raise UserError(f"{flag} {path}, line {reader.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{flag} {path}: has no predictions")
    return list(rows.values())


def _metrics(scoring: Scoring) -> list[tuple[str, BLEU | CHRF]]:
    return [("bleu", BLEU(tokenize=scoring.bleu_tokens)), ("chrf", _CHRF()), ("chrf_pp", _CHRF(word_order=2))]


class _CHRF(CHRF):
    """sacrebleu's, which cannot take the mean of resampled corpora if some of them score 0: these are no float32."""

    def _compute_score_from_stats(self, stats: list[int]) -> Any:
        score = super()._compute_score_from_stats(stats)
        score.score = score.score or np.float32(0)  # type: ignore[assignment]  # sacrebleu says float
        return score


def _interval(metric: BLEU | CHRF, texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """sacrebleu's mean of resampled corpora, and half of the interval that holds 95 % of them."""
    score = metric.corpus_score(list(texts), [list(references)], n_bootstrap=SAMPLES)
    return {"mean": float(score._mean), "ci95": float(score._ci)}


def _paired(
    other: Sequence[str], texts: Sequence[str], references: Sequence[str], scoring: Scoring
) -> dict[str, dict[str, float]]:
    """sacrebleu's paired bootstrap: how likely the difference to the `other` system is chance."""
    metrics = dict(_metrics(scoring))
    systems: list[tuple[str, Sequence[str]]] = [("other", other), ("this", texts)]
    _, results = PairedTest(systems, metrics, [list(references)], "bs", SAMPLES)()
    tested: list[Any] = [pair for name, pair in results.items() if name != "System"]  # sacrebleu has names of its own
    return {
        name: {"other": float(theirs.score), "this": float(ours.score), "p_value": float(ours.p_value)}
        for name, (theirs, ours) in zip(metrics, tested, strict=True)
    }


def _differences(told: Mapping[str, Any], again: Mapping[str, Any], name: str = "") -> list[tuple[str, Any, Any]]:
    """(name, value told, value found) of all that differs, however deep."""
    found = []
    for key, value in again.items():
        said, path = told.get(key), f"{name}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            found += _differences(said if isinstance(said, Mapping) else {}, value, path)
        elif isinstance(value, float):
            known = isinstance(said, int | float)
            if not known or not math.isclose(float(said or 0), value, rel_tol=0, abs_tol=CLOSE):
                found.append((path, said, value))
        elif said != value:
            found.append((path, said, value))
    return found


def _checksum(path: Path) -> str | dict[str, str]:
    return checksums(path, without="") if path.is_dir() else sha256(path)


def _versions() -> dict[str, str]:
    known = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **known}


def _table(rows: Sequence[tuple[str, str, str]]) -> bytes:
    return predictions_csv(COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in rows])


def push_card(folder: Path, repository: str) -> str:
    """Upload the folder as a model repository and return its address. Raises UserError if the hub refuses."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type="model", exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, allow_patterns=list(FILES), commit_message="slt-eval")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"--push {repository}: {reason}; {folder} is kept. Log in with `hf auth login`") from None
    return str(url)
