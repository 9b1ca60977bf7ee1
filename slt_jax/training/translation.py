"""Translation, the first task: from streams of a signer to text."""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from convert.adapters import AdapterTable
from convert.checkpoint import Blueprint, plan_model
from convert.compatibility import v9_notes
from convert.state_dict import Entry
from slt_jax.base.console import say
from slt_jax.base.files import copy_file
from slt_jax.base.places import check_folder
from slt_jax.config import Config, TrainingConfig
from slt_jax.config_rules import by_step
from slt_jax.data.loader import Batch
from slt_jax.data.splits import Splits, open_splits
from slt_jax.data.text import RowStarts
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import Scoring
from slt_jax.decoding.search import Search
from slt_jax.decoding.translate import BatchDecoder, translate
from slt_jax.errors import UserError
from slt_jax.models.freeze import frozen_paths, training_table
from slt_jax.models.params import Structure
from slt_jax.models.trust import Trust, trusting
from slt_jax.runtime import hosts
from slt_jax.runtime.precision import compute_dtype
from slt_jax.runtime.sharding import check_batch_size, device_mesh
from slt_jax.streams import POSE, streams_of
from slt_jax.training.adapters import check_same_adapters
from slt_jax.training.contrastive import CONTRASTIVE, check_text_encoder
from slt_jax.training.earlier import Earlier
from slt_jax.training.ema import average_of, averaged, weights_beside
from slt_jax.training.feature_pass import features_are_read, read_from_cache
from slt_jax.training.joined import heads_of, translates
from slt_jax.training.memory import keep_decoded, with_memory_rule
from slt_jax.training.metrics import CROSS_ENTROPY, Totals
from slt_jax.training.poses import knows_poses, standardised_poses
from slt_jax.training.position import Position, Taken
from slt_jax.training.program import Program
from slt_jax.training.rate import Rates, schedule_notes
from slt_jax.training.run import Run
from slt_jax.training.start import (
    check_target_length,
    find_resume,
    last_comes_first,
    resume_checkpoint,
    starting_params,
    tokenizer_beside,
    trained_with_v9_masks,
    with_starts,
    with_tokenizer,
)
from slt_jax.training.state import TrainState
from slt_jax.training.state_store import Exporter, exporter_of, is_sound
from slt_jax.training.task import Evaluation, Task
from slt_jax.training.teaching import Teaching
from slt_jax.training.tracking import check_tensorboard
from slt_jax.training.translation_program import abstract_batch, encode, translation_program
from slt_jax.training.validation import as_table, choose_scores, is_scored, text_scores, validate
from slt_jax.training.workdir import WorkDir

SAMPLES = 5  # translations shown in TensorBoard and at the end
TRANSLATED = 8  # validation clips that are translated after each epoch


def train(
    config: Config,
    merged: Mapping[str, Any],
    *,
    resume: str | None = None,
    overwrite: bool = False,
    trust_classes: bool = False,
) -> dict[str, Any] | None:
    """Train as `config` says and return the last epoch's metrics; None if no epoch was left to train.

    `merged` is what the user asked for, kept in the work-dir; `resume` is a path, "" for the work-dir itself, or None.
    `trust_classes` lets `training.init_checkpoint` name classes that `config` does not (`slt_jax.models.trust`).
    Raises UserError before anything is compiled, TrainingStopped on a loss that is no number, and Interrupted on
    SIGTERM or SIGINT, after saving.
    """
    # --- the folder, the data, the model; what is wrong is reported here --------------------------------------------
    if not config.data.work_dir:
        raise UserError("--work-dir is not given (nor data.work_dir in the configuration)")
    workdir = WorkDir(config.data.work_dir)
    source = None if resume is None else find_resume(Path(resume or workdir.path), workdir)
    mesh = device_mesh(config.training.model_parallel)
    check_batch_size("--batch-size", config.data.batch_size, mesh)
    check_batch_size("--val-batch-size", config.data.val_batch_size or config.data.batch_size, mesh)
    with contextlib.ExitStack() as claim:
        if hosts.primary():
            check_places(config)
            claim.enter_context(workdir.claimed(source, overwrite=overwrite, keep=config.data.tokenizer))
        hosts.barrier("work-dir")
        return _train(config, merged, workdir, source, mesh, trusting(config.model, trust_classes))


def check_places(config: Config) -> None:
    """Raise UserError now where what the run writes outside of its work-dir could not be written."""
    check_tensorboard(config.data.tensorboard)
    if config.data.feature_cache not in ("auto", "none"):
        check_folder("--feature-cache", Path(config.data.feature_cache).expanduser())


def _train(
    config: Config, merged: Mapping[str, Any], workdir: WorkDir, source: Path | None, mesh: Mesh, trust: Trust
) -> dict[str, Any] | None:
    """Train in a folder that is this run's, from `source` or from the beginning."""
    origin = source or config.training.init_checkpoint
    earlier = Earlier.open(origin, states=source is not None and source.is_dir(), trust=trust) if origin else None
    config = with_hand_masks(config, earlier)
    teaching = Teaching.open(config.training.teacher, trust) if config.training.teacher else None
    with tempfile.TemporaryDirectory() as scratch:  # for the other processes' tokenizers, which are the same
        tokenizer = workdir.tokenizer if hosts.primary() else Path(scratch, "tokenizer")
        beside, known = tokenizer_beside(origin), earlier.glosses if earlier else None
        if teaching and not config.model.decoder_model:
            beside = beside or teaching.tokenizer_folder
        part = {"shard_index": jax.process_index(), "shard_count": hosts.count()}
        splits = open_splits(teaching.joining(config) if teaching else config, tokenizer, beside, known, **part)
    try:
        scoring = choose_scores(config, splits)
        config = with_tokenizer(config, splits.tokenizer)
        plan = plan_model(config.model)
        config = with_starts(config, plan, splits.tokenizer)
        plan = plan_model(config.model)
        check_target_length(plan, config.data.max_target_length)
        if config.training.objectives.get(CONTRASTIVE):
            check_text_encoder(plan, (clip.text for clip in splits.train.clips))
        if teaching:
            teaching.check(config, plan, splits.tokenizer)
        structure, entries = plan.structure(dtype=compute_dtype(config.data.precision))
        signs, teacher = splits.glosses, teaching.teacher(config) if teaching else None
        size = signs.size if signs else 0
        program = translation_program(config, plan, structure, mesh=mesh, glosses=size, teacher=teacher)

        # --- the state: new, from given weights, or where an earlier run stopped ------------------------------------
        state, position = begin(config, plan, entries, program, splits, earlier, resuming=source is not None)
        program = program.suited_to(state)
        if hosts.primary():
            workdir.write_settings(config.to_dict(), merged)
        announce(config, state, program, splits, source, position)
        if earlier and source:
            earlier.tell_objectives(config.training)
            earlier.tell_rate(rates_of(config, splits), position.epoch, int(state.step))
            earlier.tell_clips(splits.train.identity, position)
        del earlier  # and with it the arrays of a file
        unseen = schedule_notes(config.optim, config.training, steps_per_epoch(config, splits))
        for note in (*unseen, *v9_notes(config, plan)):
            say(f"note: {note}")
        program = _in_memory(program, config, teaching.joining(config) if teaching else config, state, splits, mesh)

        # --- epochs -------------------------------------------------------------------------------------------------
        exporter = exporter_of(config, plan, entries, signs.names if signs else ())
        size = config.data.batch_size
        first = last_comes_first(plan)
        task = Translation(program, config.training, size, config, splits, exporter, workdir.features, scoring, first)
        return Run(task, state, position, workdir, config.data.tensorboard).to_the_end()
    finally:
        splits.train.close()
        splits.val.close()


def _in_memory(
    program: Program, config: Config, loaded: Config, state: TrainState, splits: Splits, mesh: Mesh
) -> Program:
    """The program in the memory there is, which decoded frames share; `loaded` is what clips are loaded by."""
    # Without images there is little to keep, and no step with images to be compiled and measured.
    from_images = not features_are_read(config, program.structure, state)
    if config.training.remat == "auto" and not from_images:
        return program
    batch = abstract_batch(loaded, program.layout, config.data.batch_size)
    program = with_memory_rule(program, config.training, batch, state)
    if from_images:
        keep_decoded((splits.train, splits.val), config.data.keep_decoded, batch, mesh)
    return program


def begin(
    config: Config,
    plan: Blueprint,
    entries: list[Entry],
    program: Program,
    splits: Splits,
    earlier: Earlier | None,
    *,
    resuming: bool,
) -> tuple[TrainState, Position]:
    """The first state and its position: of the run that goes on, from given weights, or new."""
    checkpoint = earlier.checkpoint if earlier else None
    if earlier and splits.new_tokenizer:
        earlier.tell_new_tokenizer()
    heads = heads_of(config, splits.glosses, checkpoint.rest if checkpoint else {})
    if earlier and resuming:
        plan.check_resize(earlier.architecture, f"--resume {earlier.path}")
        check_same_adapters(earlier.path, earlier.lora, config.model.lora)
        if checkpoint is None:
            return earlier.resume(config, program)
        frozen = frozen_paths(config.model, {entry.path for entry in entries})
        steps, table = steps_per_epoch(config, splits), AdapterTable.of(plan)
        return resume_checkpoint(checkpoint, program, entries, steps, frozen, table, heads)
    params = {**starting_params(plan, entries, config.data.seed, checkpoint), **heads}
    if POSE in streams_of(config.model) and (checkpoint is None or not knows_poses(checkpoint.state)):
        params |= standardised_poses(splits.train.files, config.model.pose_landmarks)
    return program.place(program.new_state(params)), Position()


def with_hand_masks(config: Config, earlier: Earlier | None) -> Config:
    """Settle `v9_hand_masks`: as asked, else as the earlier weights were trained, else correct masks."""
    asked = config.data.v9_hand_masks
    # v9 has no model of some streams, and backbones by themselves have seen every hand.
    if asked is None and earlier and not config.model.streams and earlier.joins_streams:
        asked = trained_with_v9_masks(earlier.config)
        if asked:
            say(
                f"{earlier.path} was trained with v9's hand masks, which hide every hand: going on with them "
                f"(--set data.v9_hand_masks=false shows it hands)"
            )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, v9_hand_masks=bool(asked)))


def announce(
    config: Config, state: TrainState, program: Program, splits: Splits, source: Path | None, position: Position
) -> None:
    """Print what is about to be trained, in a few lines."""
    if not config.data.pin_memory:
        say("--no-pin-memory has no effect: JAX stages batches itself")
    if config.training.compile or config.training.compile_mode:
        say("--compile and --compile-mode have no effect: JAX always compiles")
    say("\n".join(training_table(state.params, state.trained, state.optimizer.slots, weights_beside(state))))
    train_clips, val_clips = len(splits.train.clips), len(splits.val.clips)
    devices = f"{program.mesh.size} x {jax.devices()[0].device_kind}"
    say(f"{train_clips} training and {val_clips} validation clips on {devices}")
    if source:
        say(f"resuming from {source}: {position.epoch} epochs and {position.batches} batches are done")
    if config.data.buckets:
        say(f"training clips by the frames they are padded to: {splits.train.lengths}")


@dataclass
class Translation(Task):
    """Two loaders, and an exporter of v9's files. `features` is the default folder for features."""

    program: Program
    training: TrainingConfig
    batch_size: int
    config: Config
    splits: Splits
    exporter: Exporter
    features: Path
    scoring: Scoring = field(default_factory=Scoring)
    last_comes_first: bool = False  # see `Prompts.starts`

    @property
    def structure(self) -> Structure:
        """The model without its arrays."""
        return self.program.structure

    def starts(self, langs: Sequence[str]) -> RowStarts | None:
        """How the translations into these languages begin."""
        return self.splits.prompts.starts(langs, last_comes_first=self.last_comes_first)

    def begin(self, state: TrainState, stopped: Callable[[], bool]) -> None:
        """Compute the features of frozen backbones, if they are to be read."""
        loaders = (self.splits.train, self.splits.val)
        read_from_cache(self.config, self.features, self.structure, state, self.program.layout, loaders, stopped)

    def batches_left(self, epoch: int, taken: Taken) -> int:
        """How many `batches` there are."""
        return self.splits.train.left(epoch, taken)

    def batches(self, epoch: int, taken: Taken) -> Iterator[Batch]:
        """The batches of the training split that are left."""
        return self.splits.train.epoch(epoch, taken)

    def learning_rate(self, epoch: int, step: int) -> float:
        """The rate of an epoch or a step, by the schedule."""
        return rates_of(self.config, self.splits)(epoch, step)

    def evaluate(self, state: TrainState, epoch: int, stopped: Callable[[], bool]) -> Evaluation:
        """Teacher-forced loss and CER of the validation split and, in some epochs, scores of real translations."""
        state = averaged(state)
        totals = validate(self.program, state, self.splits.val, self.splits.tokenizer, stopped, self.starts)
        others = {f"val_{name}": value for name, value in totals.mean_metrics.items() if name != CROSS_ENTROPY}
        if not translates(self.config):
            return Evaluation(totals.mean_loss, metrics={"val_loss": totals.mean_loss, **others})
        scored = is_scored(self.training, epoch, int(state.step))
        count = self.training.eval_bleu_clips if scored else TRANSLATED
        translations = [] if stopped() else self.translations(state, count, stopped)
        found = text_scores(translations, self.scoring) if translations else {}
        scores = {name: found[name] for name in ("bleu", "chrf")} if scored and found else {}
        metrics = {
            "val_loss": totals.mean_loss,
            "val_perplexity": totals.perplexity,
            # With the correct tokens before it, a model can be right about each token and translate nothing.
            "val_teacher_forced_cer": totals.character_error_rate,
            "val_translation_cer": found["cer"] / 100 if found else math.nan,
            **{f"val_{name}": score for name, score in scores.items()},
            **others,
        }
        texts = {"val/translations": as_table(translations[:SAMPLES])}
        titles = {"val_teacher_forced_cer": "CER, teacher forced (fraction)",
                  "val_translation_cer": "CER of real translations (fraction)"}  # fmt: skip
        return Evaluation(totals.mean_loss, scores, metrics, texts, translations, titles)

    def translations(self, state: TrainState, count: int, stopped: Callable[[], bool]) -> list[Prediction]:
        """Translations of the first clips of the validation split; fewer once a signal came."""
        layout, mesh = self.program.layout, self.program.mesh
        params = layout.gather(state.params)
        decoder = {path: array for path, array in params.items() if path.startswith("decoder.")}
        model = self.structure.merge(params | layout.on_each_process(decoder))
        batches = BatchDecoder(
            lambda batch: hosts.on_own_devices(encode(self.program.functions, params, batch), mesh),
            model.decoder.model,
            mesh,
            Search(max_length=self.config.data.max_target_length),
            self.starts,
        )
        return translate(self.splits.val, batches, self.splits.tokenizer, limit=count, stopped=stopped)

    def training_metrics(self, totals: Totals) -> dict[str, float]:
        """The loss, of translation its perplexity, and what other objectives tell."""
        perplexity = {"train_perplexity": totals.perplexity} if translates(self.config) else {}
        others = {f"train_{name}": value for name, value in totals.mean_metrics.items() if name != CROSS_ENTROPY}
        return {"train_loss": totals.mean_loss, **perplexity, **others}

    def export(self, state: TrainState, position: Position, workdir: WorkDir) -> None:
        """`last.pt`, and `best.pt` where it is the best."""
        lr, val_loss = self.learning_rate(position.epoch, int(state.step)), position.record["val_loss"]
        self.exporter.write(workdir.last, state, position, lr=lr, val_loss=val_loss)
        if position.is_best and average_of(state) is not None:
            self.exporter.write(workdir.best, averaged(state), position, lr=lr, val_loss=val_loss)
        elif position.is_best and hosts.primary():
            copy_file(workdir.last, workdir.best)
        if self.training.keep_epochs and hosts.primary():
            self.keep(workdir, position.epoch)

    def keep(self, workdir: WorkDir, epoch: int) -> None:
        """`last.pt` as one of the last epochs' files; those of earlier epochs go."""
        copy_file(workdir.last, workdir.epoch_file(epoch))
        for number, path in workdir.epoch_files().items():
            if not 0 <= epoch - number < self.training.keep_epochs:
                path.unlink(missing_ok=True)

    def damaged(self, workdir: WorkDir) -> list[Path]:
        """`last.pt` and `best.pt`, where they cannot be read."""
        return [path for path in (workdir.last, workdir.best) if not is_sound(path)]

    def notes(self, position: Position) -> dict[str, Any]:
        """What opens the state again, the position, and which clips it is one of."""
        steps = {"steps_per_epoch": steps_per_epoch(self.config, self.splits)} if by_step(self.config.optim) else {}
        return self.exporter.notes(position) | {"clips": self.splits.train.identity} | steps

    def summary(self, record: Mapping[str, Any], best: bool) -> str:
        """Losses, scores and speed of an epoch in one line."""
        scores = f"BLEU {record['val_bleu']:.1f}, chrF {record['val_chrf']:.1f}, " if "val_bleu" in record else ""
        cer = f"CER {record['val_translation_cer']:.3f}, " if "val_translation_cer" in record else ""
        waiting = record["data_wait_seconds"] / max(record["seconds"], 1e-9)
        return (
            f"epoch {record['epoch']}/{self.training.epochs}: train loss {record['train_loss']:.4f}, "
            f"val loss {record['val_loss']:.4f}{' (best)' if best else ''}, "
            f"{cer}{scores}"
            f"lr {record['lr']:.3g}, {record['clips_per_second']:.2f} clips/s, {record['seconds']:.0f} s, "
            f"{waiting:.0%} waiting for data"
        )

    def finish(self, state: TrainState, evaluation: Evaluation, stopped: Callable[[], bool]) -> None:
        """Print a few translations of validation clips."""
        for sample in evaluation.samples[:SAMPLES]:
            say(f"  reference:   {sample.reference}\n  translation: {sample.prediction}")


def steps_per_epoch(config: Config, splits: Splits) -> int:
    """Optimiser steps of a whole epoch."""
    return math.ceil(len(splits.train) / config.training.grad_accum_steps)


def rates_of(config: Config, splits: Splits) -> Rates:
    """The learning rates of a run on these clips."""
    return Rates.of(config.optim, config.training, steps_per_epoch(config, splits))
