"""Validation during training: teacher-forced loss and CER, glosses, and scores of real translations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from slt_jax.base.console import Progress, say
from slt_jax.config import Config, TrainingConfig
from slt_jax.data.glosses import BLANK, collapsed
from slt_jax.data.loader import Batch, Loader
from slt_jax.data.splits import Splits
from slt_jax.data.text import IGNORE, RowStarts, decode
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import Scoring, choose_scoring, corpus_scores
from slt_jax.runtime import hosts
from slt_jax.runtime.sharding import place_batch
from slt_jax.training.gloss_ctc import PREDICTED
from slt_jax.training.joined import translates
from slt_jax.training.ledger import check_finite
from slt_jax.training.metrics import Totals, character_errors
from slt_jax.training.program import Program
from slt_jax.training.state import TrainState

GLOSS_WER = "gloss_wer"  # edits over glosses, of the likeliest id of each frame
OF_BATCH = ("loss", "weight")  # what an evaluation tells of a batch beside other means


def validate(
    program: Program,
    state: TrainState,
    loader: Loader,
    tokenizer: Any,
    stopped: Callable[[], bool],
    starts: Callable[[Sequence[str]], RowStarts | None] = lambda langs: None,
) -> Totals:
    """The sums over a split. What rows must begin with (`Prompts.starts`) counts as no character.

    Ends early if `stopped()` says so. Raises TrainingStopped if a loss is not a number.
    """
    totals, wrong, glosses = Totals(), 0, 0
    params, mesh = state.params, program.mesh
    with Progress("validation", len(loader)) as progress:
        for batch in progress.wait(loader.epoch()):
            results = program.evaluate(params, place_batch(batch.arrays, mesh))
            check_finite("validation loss", float(results["loss"]), f"after step {int(state.step)}", [batch])
            valid, errors = batch.arrays["valid"], 0.0
            if "predicted" in results:
                errors = _errors(batch, hosts.own_rows(results["predicted"], mesh), tokenizer, starts(batch.langs))
            means = {name: value for name, value in results.items() if value.ndim == 0 and name not in OF_BATCH}
            totals.add(float(results["loss"]), float(results["weight"]), int(valid.sum()), errors, means)
            if PREDICTED in results:
                paths = hosts.own_rows(results[PREDICTED], mesh)[valid]
                for path, row in zip(paths, batch.arrays["glosses"][valid], strict=True):
                    wrong += Levenshtein.distance(collapsed(path), row[row != BLANK].tolist())
                    glosses += int((row != BLANK).sum())
            progress.update(hosts.count() * int(valid.sum()), totals.mean_loss)
            if stopped():
                break
    totals.character_errors = sum(hosts.gathered([totals.character_errors]))
    totals.clips = sum(hosts.gathered([totals.clips]))
    if glosses := sum(hosts.gathered([glosses])):
        totals.metrics[GLOSS_WER] = [float(sum(hosts.gathered([wrong]))), float(glosses)]
    return totals


def _errors(batch: Batch, predicted: np.ndarray, tokenizer: Any, beginnings: RowStarts | None) -> float:
    """The character errors of a batch's likeliest tokens (B, S), teacher forced, weighted by label tokens."""
    valid, labels = batch.arrays["valid"], batch.arrays["labels"]
    predicted = np.where(labels == IGNORE, IGNORE, predicted)
    if beginnings is not None:
        said = beginnings.forced >= 0
        predicted[:, : said.shape[1]][said] = IGNORE
    tokens = (labels[valid] != IGNORE).sum(axis=1)
    texts = [text for text, real in zip(batch.texts, valid, strict=True) if real]
    return character_errors(texts, decode(tokenizer, predicted[valid]), tokens)


def is_scored(training: TrainingConfig, epoch: int, step: int) -> bool:
    """Whether real translations are scored after this epoch (counted from 0), which ends after so many steps."""
    done, every = epoch + 1, training.eval_bleu_every
    last = done == training.epochs or (training.max_steps is not None and step >= training.max_steps)
    return bool(every) and (done % every == 0 or last)


def choose_scores(config: Config, splits: Splits) -> Scoring:
    """How translations are scored during training. Raises UserError for a tokeniser that cannot be used here."""
    if not config.training.eval_bleu_every:
        return Scoring()
    if not translates(config):
        say("--eval-bleu-every has no effect: training.objectives gives translation no weight")
        return Scoring()
    scoring = choose_scoring((clip.text for clip in splits.val.clips), config.training.bleu_tokenize)
    if note := scoring.note():
        say(note)
    return scoring


def text_scores(translations: Sequence[Prediction], scoring: Scoring) -> dict[str, float]:
    """BLEU, chrF, CER and more of translations, in percent."""
    return corpus_scores([t.reference for t in translations], [t.prediction for t in translations], scoring)


def as_table(translations: Sequence[Prediction]) -> str:
    """References and predictions as a table in Markdown."""
    rows = [f"| {sample.reference} | {sample.prediction} |" for sample in translations]
    return "\n".join(["| reference | prediction |", "|---|---|", *rows])
