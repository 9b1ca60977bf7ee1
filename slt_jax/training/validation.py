"""Validation during training: teacher-forced loss and CER, glosses, and scores of real translations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from slt_jax.base.console import Progress, say
from slt_jax.config import TrainingConfig
from slt_jax.data.glosses import BLANK, collapsed
from slt_jax.data.loader import Loader
from slt_jax.data.splits import Splits
from slt_jax.data.text import IGNORE, RowStarts, decode
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import Scoring, choose_scoring, corpus_scores
from slt_jax.runtime import hosts
from slt_jax.runtime.sharding import place_batch
from slt_jax.training.gloss_ctc import PREDICTED
from slt_jax.training.ledger import check_finite
from slt_jax.training.metrics import CROSS_ENTROPY, Totals, character_errors
from slt_jax.training.program import Program
from slt_jax.training.state import TrainState

GLOSS_WER = "gloss_wer"  # edits over glosses, of the likeliest id of each frame


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
            rows = hosts.own_rows(results["predicted"], mesh)
            check_finite("validation loss", float(results["loss"]), f"after step {int(state.step)}", [batch])
            valid, labels = batch.arrays["valid"], batch.arrays["labels"]
            predicted = np.where(labels == IGNORE, IGNORE, rows)
            if (beginnings := starts(batch.langs)) is not None:
                said = beginnings.forced >= 0
                predicted[:, : said.shape[1]][said] = IGNORE
            predicted = predicted[valid]
            tokens = (labels[valid] != IGNORE).sum(axis=1)
            texts = [text for text, real in zip(batch.texts, valid, strict=True) if real]
            errors = character_errors(texts, decode(tokenizer, predicted), tokens)
            plain = {CROSS_ENTROPY: results[CROSS_ENTROPY]}
            totals.add(float(results["loss"]), float(results["weight"]), int(valid.sum()), errors, plain)
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


def is_scored(training: TrainingConfig, epoch: int, step: int) -> bool:
    """Whether real translations are scored after this epoch (counted from 0), which ends after so many steps."""
    done, every = epoch + 1, training.eval_bleu_every
    last = done == training.epochs or (training.max_steps is not None and step >= training.max_steps)
    return bool(every) and (done % every == 0 or last)


def choose_scores(training: TrainingConfig, splits: Splits) -> Scoring:
    """How translations are scored during training. Raises UserError for a tokeniser that cannot be used here."""
    if not training.eval_bleu_every:
        return Scoring()
    scoring = choose_scoring((clip.text for clip in splits.val.clips), training.bleu_tokenize)
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
