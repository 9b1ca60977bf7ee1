"""Open the checkpoints of an evaluation and settle their settings. Errors in them are raised here."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Blueprint, Checkpoint, load_params
from convert.state_dict import Entry
from slt_jax.base.console import say
from slt_jax.config import DataConfig, ModelConfig, build_section, with_new_names
from slt_jax.data.corpus_folder import FOLDERS
from slt_jax.data.prompts import LANG
from slt_jax.data.target_language import carries_language, set_target_language
from slt_jax.data.text import RowStarts
from slt_jax.decoding.search import Search
from slt_jax.errors import UserError
from slt_jax.evaluation.agreement import agreed_blueprint
from slt_jax.evaluation.clip_selection import SOURCES
from slt_jax.evaluation.request import EvaluationRequest
from slt_jax.models.families import max_positions
from slt_jax.models.params import Structure
from slt_jax.models.trust import trusting
from slt_jax.runtime.precision import compute_dtype
from slt_jax.training.start import last_comes_first, notes_on, starts_of, trained_with_v9_masks
from slt_jax.training.state_store import open_checkpoint
from slt_jax.training.tokenizer import prompts_of, tokenizer_of
from slt_jax.training.workdir import WorkDir

logger = logging.getLogger(__name__)

# Settings that an evaluation takes from the run. The others depend on the machine or must be given.
INHERITED = (*SOURCES, "precision", "batch_size", "val_batch_size", "max_target_length", "tokenizer", "target_lang",
             "prefix")  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that is ready to be evaluated."""

    label: str
    path: Path
    checkpoint: Checkpoint
    data: DataConfig
    plan: Blueprint
    structure: Structure
    entries: list[Entry]
    tokenizer: Any
    search: Search

    @property
    def model(self) -> ModelConfig:
        """The configuration of the model."""
        return self.plan.config

    def starts(self, spoken: Sequence[str]) -> Callable[[Sequence[str]], RowStarts | None]:
        """How texts begin in each of the languages `spoken`, by the rows' column `lang`."""
        prompts = prompts_of(self.tokenizer, str(self.data.tokenizer or "of the run"), spoken, self.data)
        return partial(prompts.starts, last_comes_first=last_comes_first(self.plan))

    @property
    def batch_size(self) -> int:
        """Clips per batch."""
        return self.data.val_batch_size or self.data.batch_size

    def params(self) -> dict[str, np.ndarray]:
        """The weights by path, read from the file."""
        return load_params(self.checkpoint, self.entries)

    def curves(self) -> list[dict[str, Any]]:
        """The records of `metrics.jsonl` in the work-dir; empty without one."""
        for folder in (self.path, self.path.absolute().parent):
            try:
                if records := WorkDir(folder).read_metrics():
                    return records
            except (OSError, ValueError, UserError) as error:
                logger.warning("%s: is left aside (%s)", WorkDir(folder).metrics, error)
        return []


def open_candidates(request: EvaluationRequest) -> list[Candidate]:
    """All checkpoints of the request, to be evaluated on the same clips. Raises UserError that names flag and file."""
    paths = request.checkpoints
    for number, path in enumerate(paths):
        if any(path.resolve() == other.resolve() for other in paths[:number]):
            raise UserError(f"--checkpoint {path}: is given twice")
    candidates = [_open(path, label, request) for path, label in zip(paths, labels(paths), strict=True)]
    first = candidates[0]
    for other in candidates[1:]:
        for key, part in (*((key, "data") for key in SOURCES), ("pose_landmarks", "model"), ("streams", "model")):
            mine, theirs = (getattr(getattr(candidate, part), key) for candidate in (first, other))
            if mine != theirs:
                advice = "give the flag" if part == "data" else "evaluate them one by one"
                both = f"{first.path} was trained with {mine}, {other.path} with {theirs}"
                raise UserError(f"--{key.replace('_', '-')}: {both}; {advice}")
    return candidates


def labels(paths: Sequence[Path]) -> list[str]:
    """A short name for each path that can be part of a file name, with as many parent folders as make it unique."""
    parts = [Path(os.path.abspath(path)).parts[1:] for path in paths]
    for ending in (".pt", ".pth", ".safetensors"):
        parts = [(*part[:-1], part[-1].removesuffix(ending)) for part in parts]
    names = [part[-1] for part in parts]
    for count in range(2, max(map(len, parts)) + 1):
        folded = [name.casefold() for name in names]
        names = [
            "_".join(part[-count:]) if folded.count(name.casefold()) > 1 else name
            for part, name in zip(parts, names, strict=True)
        ]
    folded = [name.casefold() for name in names]
    return [f"{name}_{n}" if folded.count(name.casefold()) > 1 else name for n, name in enumerate(names, 1)]


def _open(path: Path, label: str, request: EvaluationRequest) -> Candidate:
    trust = trusting(request.model.over({}), request.trust_classes)
    checkpoint = open_checkpoint(path, trust)
    data = _data(checkpoint, request.data)
    if checkpoint.encoder_only:
        raise UserError(f"{path}: holds an encoder without a decoder, which cannot translate")
    for note in notes_on(checkpoint):
        say(f"note: {note}")
    plan = agreed_blueprint(checkpoint, request.model, trust)
    structure, entries = plan.structure(dtype=compute_dtype(data.precision))
    load_params(checkpoint, entries)  # strict: what does not fit is reported before anything is compiled
    if data.v9_hand_masks is None:
        masks = trained_with_v9_masks(checkpoint.config)
        data = dataclasses.replace(data, v9_hand_masks=masks)
        if masks:
            say(
                f"{path} was trained with v9's hand masks, which hide every hand: evaluating with them "
                f"(--set data.v9_hand_masks=false shows it hands)"
            )
    tokenizer = tokenizer_of(path, plan, request.data.get("tokenizer"), data.tokenizer)
    search = _search(path, plan, data, request)
    if language := request.data.get("target_lang"):  # else as its configuration says
        if carries_language(tokenizer) or LANG not in (data.prefix or ""):
            set_target_language(tokenizer, language, str(data.tokenizer or "of the run"))
        starts: dict[str, Any] = starts_of(plan, tokenizer)
        search = dataclasses.replace(search, **starts)
    return Candidate(label, path, checkpoint, data, plan, structure, entries, tokenizer, search)


def _data(checkpoint: Checkpoint, given: Mapping[str, Any]) -> DataConfig:
    """The data settings: as given, or else those that the checkpoint was trained with."""
    saved = checkpoint.config.get("data")
    saved = with_new_names("data", saved) if isinstance(saved, Mapping) else {}
    known = {key: saved[key] for key in INHERITED if saved.get(key) is not None}
    if given.keys() & FOLDERS.keys():
        known.pop("packs", None)  # folders that are given are to be read
    if "batch_size" in given:
        known.pop("val_batch_size", None)
    return build_section("data", known | dict(given))


def _search(path: Path, plan: Blueprint, data: DataConfig, request: EvaluationRequest) -> Search:
    """How long texts may be: `--max-new-tokens`, else `max_target_length` with the start token, as in training."""
    if request.max_new_tokens is not None:
        flag, given, longest = "--max-new-tokens", True, request.max_new_tokens + 1
    else:
        flag, given, longest = "--max-target-length", "max_target_length" in request.data, data.max_target_length
    if longest < 2:
        raise UserError(f"{flag} {longest}: leaves no room after the start token; use 2 or more")
    assert plan.decoder is not None  # else there would be no tokenizer
    positions = max_positions(plan.decoder)
    if positions is not None and longest > positions + 1:
        if given:
            raise UserError(
                f"{flag}: {longest - 1} tokens after the start token are more than the {positions} positions of "
                f"{path}; use --max-new-tokens {positions} or less"
            )
        say(f"{path} has {positions} positions: texts end there")
        longest = positions + 1
    return Search(max_length=longest, num_beams=request.num_beams)
