"""The teacher of a distillation (`training.teacher`): a checkpoint, and whether it can teach a student."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Blueprint, blueprint, load_params
from slt_jax.base.console import say
from slt_jax.config import Config
from slt_jax.errors import UserError
from slt_jax.models.trust import Trust
from slt_jax.runtime.precision import compute_dtype
from slt_jax.streams import POSE, STREAMS, streams_of
from slt_jax.training.distillation import Teacher
from slt_jax.training.start import (
    apart_from_average,
    check_target_length,
    learned_to_translate,
    tokenizer_beside,
    trained_with_v9_masks,
)
from slt_jax.training.state_store import open_checkpoint
from slt_jax.training.text_side import data_of
from slt_jax.training.tokenizer import tokenizer_of


@dataclass(frozen=True)
class Teaching:
    """A trained translator, with its arrays by path on the host, its tokenizer, and its run's `prefix`."""

    path: Path
    plan: Blueprint
    params: Mapping[str, np.ndarray]
    tokenizer: Any
    prefix: str | None
    v9_hand_masks: bool

    @classmethod
    def open(cls, named: str, trust: Trust) -> "Teaching":
        """The translator in a checkpoint of any kind. Raises UserError that names the key if it holds none."""
        path = Path(named)
        try:
            checkpoint = open_checkpoint(path, trust)
            plan, data = blueprint(checkpoint, trust=trust), data_of(checkpoint.config)
            tokenizer = tokenizer_of(path, plan, None, data.get("tokenizer"))
            params = load_params(checkpoint, plan.structure()[1])
        except UserError as error:
            raise UserError(f"training.teacher: {error}") from None
        if not learned_to_translate(checkpoint.config):
            raise UserError(f"training.teacher: {path} was trained to align videos with texts, not to translate")
        if note := apart_from_average(checkpoint):
            say(f"note: training.teacher: {note}")
        masks = trained_with_v9_masks(checkpoint.config)
        return cls(path, plan, params, tokenizer, data.get("prefix"), masks)

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where its run kept the tokenizer."""
        return tokenizer_beside(self.path)

    def joining(self, config: Config) -> Config:
        """The student's configuration with the streams of both, which are what has to be loaded."""
        wanted = {*streams_of(config.model), *streams_of(self.plan.config)}
        names = None if len(wanted) == len(STREAMS) else [stream.name for stream in STREAMS if stream in wanted]
        return dataclasses.replace(config, model=dataclasses.replace(config.model, streams=names))

    def teacher(self, config: Config) -> Teacher:
        """It as a part of the step, in the precision of `config`."""
        structure, _ = self.plan.structure(dtype=compute_dtype(config.data.precision))
        return Teacher(structure, self.params)

    def check(self, config: Config, student: Blueprint, tokenizer: Any) -> None:
        """Raise UserError where it cannot read what the student reads and writes; say what may do it harm."""
        name, own, other = f"training.teacher {self.path}", self.plan.config, config.model
        if self.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise UserError(f"{name}: has another tokenizer than the student; give the student its own (--tokenizer)")
        if self.plan.vocabulary != student.vocabulary:
            raise UserError(
                f"{name}: its decoder has {self.plan.vocabulary} tokens and the student's {student.vocabulary}; set "
                f"model.vocab_size to {self.plan.vocabulary}"
            )
        if own.image_size != other.image_size:
            raise UserError(f"{name}: sees pictures of {own.image_size} pixels; set --image-size {own.image_size}")
        if own.sequence_length < other.sequence_length:
            raise UserError(
                f"{name}: has positions for {own.sequence_length} frames; set --sequence-length to at most that"
            )
        if POSE in streams_of(own) and own.pose_landmarks != other.pose_landmarks:
            raise UserError(f"{name}: reads {own.pose_landmarks} landmarks; set --pose-landmarks {own.pose_landmarks}")
        try:
            check_target_length(self.plan, config.data.max_target_length)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if self.v9_hand_masks != bool(config.data.v9_hand_masks):
            masks = "v9's hand masks, which hide every hand" if self.v9_hand_masks else "correct hand masks"
            say(f"note: {name} was trained with {masks}, and the student is not")
        if (self.prefix or None) != (config.data.prefix or None):
            say(f"note: {name} was trained with the prefix {self.prefix!r}, and the student is not")
