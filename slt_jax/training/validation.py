"""Validation during training: teacher-forced loss and CER."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slt_jax.base.console import Progress
from slt_jax.data.loader import Loader
from slt_jax.data.text import IGNORE, RowStarts, decode
from slt_jax.runtime import hosts
from slt_jax.runtime.sharding import place_batch
from slt_jax.training.ledger import check_finite
from slt_jax.training.metrics import CROSS_ENTROPY, Totals, character_errors
from slt_jax.training.program import Program
from slt_jax.training.state import TrainState


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
    totals = Totals()
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
            progress.update(hosts.count() * int(valid.sum()), totals.mean_loss)
            if stopped():
                break
    totals.character_errors = sum(hosts.gathered([totals.character_errors]))
    totals.clips = sum(hosts.gathered([totals.clips]))
    return totals
