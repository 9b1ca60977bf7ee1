"""Training from top to bottom."""

import dataclasses
import itertools
import math
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from convert.checkpoint import Blueprint, plan_model
from convert.compatibility import v9_notes
from slt_jax.base.console import Progress, say
from slt_jax.base.files import copy_file
from slt_jax.config import Config, TrainingConfig
from slt_jax.data.splits import open_splits
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import corpus_scores
from slt_jax.decoding.translate import BatchDecoder, Search, translate
from slt_jax.errors import UserError
from slt_jax.models.freeze import trained_paths, training_table
from slt_jax.runtime import hosts
from slt_jax.runtime.precision import compute_dtype, use_precision
from slt_jax.runtime.sharding import Layout, check_batch_size, device_mesh, place_batch
from slt_jax.runtime.signals import StopSignal
from slt_jax.training.compiled import Compiled, Prepare
from slt_jax.training.feature_pass import features_are_read, read_from_cache
from slt_jax.training.ledger import Ledger
from slt_jax.training.memory import with_memory_rule
from slt_jax.training.metrics import Totals
from slt_jax.training.optim import Optimizer, build_optimizer, learning_rate
from slt_jax.training.poses import knows_poses, standardised_poses
from slt_jax.training.position import Position
from slt_jax.training.start import (
    abstract_state,
    check_target_length,
    find_resume,
    initial_state,
    resume_checkpoint,
    resume_states,
    starting_params,
    tokenizer_beside,
    trained_with_v9_masks,
    with_tokenizer,
)
from slt_jax.training.state_store import Exporter, StateStore, open_checkpoint
from slt_jax.training.step import StepFunctions, TrainState
from slt_jax.training.tracking import Tracker
from slt_jax.training.validation import validate
from slt_jax.training.workdir import WorkDir

SAVE_SECONDS = 600.0  # between saves within a long epoch
SAMPLES = 5  # translations shown in TensorBoard and at the end


class Interrupted(RuntimeError):
    """A signal asked the run to end; its state is saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def train(
    config: Config, merged: Mapping[str, Any], *, resume: str | None = None, overwrite: bool = False
) -> dict[str, Any] | None:
    """Train as `config` says and return the last epoch's metrics; None where no epoch was left to train.

    `merged` is what the user asked for, kept in the work-dir; `resume` is a path, "" for the work-dir itself, or None.
    Raises UserError before anything is compiled, TrainingStopped on a loss that is no number, and Interrupted on
    SIGTERM or SIGINT, after saving.
    """
    # --- the folder, the data, the model: what can be wrong is said here --------------------------------------------
    if not config.data.work_dir:
        raise UserError("--work-dir is not given (nor data.work_dir in the configuration)")
    workdir = WorkDir(config.data.work_dir)
    source = None if resume is None else find_resume(Path(resume or workdir.path), workdir)
    origin = source or config.training.init_checkpoint
    mesh = device_mesh(config.training.model_parallel)
    layout = Layout(mesh, fsdp=config.training.sharding == "fsdp")
    check_batch_size("--batch-size", config.data.batch_size, mesh)
    check_batch_size("--val-batch-size", config.data.val_batch_size or config.data.batch_size, mesh)
    if hosts.primary():
        workdir.claim(source, overwrite=overwrite, keep=config.data.tokenizer)
    hosts.barrier("work-dir")
    with tempfile.TemporaryDirectory() as scratch:  # for the other processes' tokenizers, which are the same
        splits = open_splits(
            config,
            workdir.tokenizer if hosts.primary() else Path(scratch, "tokenizer"),
            tokenizer_beside(origin),
            shard_index=jax.process_index(),
            shard_count=hosts.count(),
        )
    config = with_tokenizer(config, splits.tokenizer)
    plan = plan_model(config.model)
    check_target_length(plan, config.data.max_target_length)
    dtype = compute_dtype(config.data.precision)
    structure, entries = plan.structure(dtype=dtype)
    use_precision(config.data.precision)

    # --- the state: new, from given weights, or where an earlier run stopped ----------------------------------------
    trained = trained_paths(config.model, {entry.path for entry in entries}, structure.buffers)
    optimizer = build_optimizer(config.optim)
    position = Position()
    if source and source.is_dir():
        state, position, earlier = resume_states(source, abstract_state(plan, trained, optimizer, layout))
        config = with_hand_masks(config, origin, earlier)
    else:
        checkpoint = open_checkpoint(origin) if origin else None
        config = with_hand_masks(config, origin, checkpoint.config if checkpoint else None)
        params = starting_params(plan, entries, config.data.seed, checkpoint, strict=source is not None)
        if checkpoint is None or not knows_poses(checkpoint.state):
            params |= standardised_poses(splits.train.files, config.model.pose_landmarks)
        state = initial_state(params, trained, optimizer, layout)
        del params
        if source:
            steps_per_epoch = math.ceil(len(splits.train) / config.training.grad_accum_steps)
            state, position = resume_checkpoint(checkpoint, state, optimizer, entries, steps_per_epoch, layout)
    if hosts.primary():
        workdir.write_settings(config.to_dict(), merged)
    exporter = Exporter(plan, entries, optimizer, config.optim.lr, config.to_dict())
    announce(config, state, optimizer, mesh, len(splits.train.clips), len(splits.val.clips), source, position)
    if config.data.buckets:
        say(f"training clips by the frames they are padded to: {splits.train.lengths}")
    for note in v9_notes(config, plan):
        say(f"note: {note}")

    # --- the compiled functions -------------------------------------------------------------------------------------
    on_device = Prepare(tuple(config.data.mix_streams.items()), bool(config.data.v9_hand_masks))
    optimizer = optimizer.suited(state["optimizer"])
    functions = StepFunctions(
        structure,
        optimizer,
        config.optim.label_smoothing,
        config.optim.grad_clip_norm,
        config.data.seed,
        on_device,
        scaled=dtype == jnp.float16,
        layout=layout,
    )
    # Without images there is little to keep, and no step with images to be compiled and measured.
    if config.training.remat != "auto" or not features_are_read(config, structure, state):
        functions = with_memory_rule(functions, plan, config, state)
    compiled = Compiled(functions)
    search = Search(max_length=config.data.max_target_length)

    def translations_of(state: TrainState, count: int) -> list[Prediction]:
        """The first clips of the validation split; fewer once a signal came."""
        params = layout.gather(state["trained"] | state["frozen"])
        decoder = structure.merge(layout.own_decoder(params)).decoder.model
        batches = BatchDecoder(
            lambda batch: hosts.on_own_devices(compiled.encode(params, batch), mesh), decoder, mesh, search
        )
        return translate(splits.val, batches, splits.tokenizer, limit=count, stopped=stopped)

    # --- epochs -----------------------------------------------------------------------------------------------------
    store, record = StateStore(workdir.checkpoints), None
    tracker, agreement = Tracker(config.data.tensorboard if hosts.primary() else None), hosts.Agreement(mesh)
    step, saved, translations = int(state["step"]), time.monotonic(), []
    epochs, patience = config.training.epochs, config.training.early_stop_patience
    try:
        with StopSignal() as stop:

            def stopped() -> int:
                """The signal that any process was sent, or 0."""
                return agreement.now(stop.number or 0)

            loaders = (splits.train, splits.val)
            read_from_cache(config, workdir.features, structure, state, layout, loaders, lambda: bool(stop))
            if number := stopped():
                raise Interrupted(number)
            for epoch in range(position.epoch, epochs):
                if patience and position.since_best >= patience:
                    say(f"stopping early: no better {config.training.best_metric} in {position.since_best} evaluations")
                    break
                lr = learning_rate(config.optim, epochs, epoch)
                ledger = Ledger(Totals(**position.totals), scaled=compiled.functions.scaled)
                with Progress(f"epoch {epoch + 1}/{epochs}", len(splits.train), position.batch) as progress:
                    batches = progress.wait(splits.train.epoch(epoch, position.batch))
                    for group in grouped(batches, config.training.grad_accum_steps):
                        placed = [place_batch(batch.arrays, mesh) for batch in group]
                        state, results = compiled.step(state, placed, jnp.float32(lr))
                        step += 1
                        ledger.add(step, results, group)
                        ledger.settle(keep=1)
                        position = dataclasses.replace(position, batch=position.batch + len(group))
                        for batch in group:
                            clips = hosts.count() * int(batch.arrays["valid"].sum())
                            progress.update(clips, ledger.last.get("loss"))
                        if tracker and ledger.last:
                            shown = {f"train/{name}": ledger.last[name] for name in ("loss", "grad_norm")}
                            tracker.scalars(shown | {"train/lr": lr, "train/clips_per_second": progress.rate}, step - 1)
                        due = time.monotonic() - saved > SAVE_SECONDS and hosts.SAVE
                        number = agreement.ask(stop.number or due)
                        if number:
                            ledger.settle()
                            position = dataclasses.replace(position, totals=ledger.totals.to_dict())
                            store.save(state, notes(config, plan, position))
                            saved = time.monotonic()
                        if number > hosts.SAVE:
                            raise Interrupted(number)
                ledger.settle()
                position = dataclasses.replace(position, totals=ledger.totals.to_dict())
                val = validate(compiled, state, splits.val, splits.tokenizer, mesh, stopped)
                scored = is_scored(config.training, epoch)
                count = config.training.eval_bleu_clips if scored else SAMPLES if config.data.tensorboard else 0
                translations = translations_of(state, count) if count else []
                if number := stopped():
                    store.save(state, notes(config, plan, position))
                    raise Interrupted(number)

                # The epoch is whole: its files first, then the state that says it is done.
                scores = text_scores(translations) if scored else {}
                position, best = position.after_epoch(val.mean_loss, scores, config.training.best_metric)
                record = {
                    "epoch": epoch + 1,
                    "train_loss": ledger.totals.mean_loss,
                    "train_perplexity": ledger.totals.perplexity,
                    "val_loss": val.mean_loss,
                    "val_perplexity": val.perplexity,
                    "val_cer": val.character_error_rate,
                    **{f"val_{name}": score for name, score in scores.items()},
                    "lr": lr,
                    "steps": step,
                    "seconds": round(progress.seconds, 3),
                    "clips_per_second": round(progress.rate, 3),
                    "data_wait_seconds": round(progress.waited, 3),
                    "compilations": compiled.count(),
                }
                next_lr = learning_rate(config.optim, epochs, epoch + 1)
                exporter.write(workdir.last, state, position, lr=next_lr, val_loss=val.mean_loss)
                if hosts.primary():
                    if best:
                        copy_file(workdir.last, workdir.best)
                    workdir.write_metrics(record)
                store.save(state, notes(config, plan, position))
                saved = time.monotonic()
                say(summary(record, epochs, best))
                if tracker:
                    tracker.scalars({f"epoch/{name}": value for name, value in record.items()}, epoch + 1)
                    tracker.translations(translations[:SAMPLES], epoch + 1)
                    tracker.flush()
        if record:
            for sample in (translations or translations_of(state, SAMPLES))[:SAMPLES]:
                say(f"  reference:   {sample.reference}\n  translation: {sample.prediction}")
        else:
            say(f"nothing to train: {position.epoch} epochs are done, --epochs is {epochs}")
        kept = (path for path in (workdir.best, workdir.last, workdir.metrics, workdir.checkpoints) if path.exists())
        say(f"done: {', '.join(map(str, kept))}")
        return record
    finally:
        store.close()
        tracker.close()
        splits.train.close()
        splits.val.close()


def is_scored(training: TrainingConfig, epoch: int) -> bool:
    """Whether real translations are scored after this epoch (counted from 0): every so often, and after the last."""
    done, every = epoch + 1, training.eval_bleu_every
    return bool(every) and (done % every == 0 or done == training.epochs)


def text_scores(translations: Sequence[Prediction]) -> dict[str, float]:
    scores = corpus_scores([t.reference for t in translations], [t.prediction for t in translations])
    return {name: scores[name] for name in ("bleu", "chrf")}


def grouped(batches: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def notes(config: Config, plan: Blueprint, position: Position) -> dict[str, Any]:
    """What lies beside a saved state: where the run was, and how to build its model without the command line."""
    record = plan.record()
    return {"position": dataclasses.asdict(position), "config": config.to_dict(), "architecture": record}


def with_hand_masks(config: Config, origin: str | Path | None, saved: Mapping[str, Any] | None) -> Config:
    """Settle `v9_hand_masks`: as asked, else as the weights from `origin` were trained, else correct masks.

    `saved` is the configuration found there, empty where it has none.
    """
    asked = config.data.v9_hand_masks
    if asked is None and saved is not None:
        asked = trained_with_v9_masks(saved)
        if asked:
            say(
                f"{origin} was trained with v9's hand masks, which hide every hand: going on with them "
                f"(--set data.v9_hand_masks=false shows it hands)"
            )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, v9_hand_masks=bool(asked)))


def announce(
    config: Config,
    state: TrainState,
    optimizer: Optimizer,
    mesh: Mesh,
    train_clips: int,
    val_clips: int,
    source: Path | None,
    position: Position,
) -> None:
    if not config.data.pin_memory:
        say("--no-pin-memory has no effect: JAX stages batches itself")
    if config.training.compile or config.training.compile_mode:
        say("--compile and --compile-mode have no effect: JAX always compiles")
    params = state["trained"] | state["frozen"]
    say("\n".join(training_table(params, state["trained"], len(optimizer.slots))))
    say(f"{train_clips} training and {val_clips} validation clips on {mesh.size} x {jax.devices()[0].device_kind}")
    if source:
        say(f"resuming from {source}: {position.epoch} epochs and {position.batch} batches are done")


def summary(record: Mapping[str, Any], epochs: int, best: bool) -> str:
    scores = f"BLEU {record['val_bleu']:.1f}, chrF {record['val_chrf']:.1f}, " if "val_bleu" in record else ""
    return (
        f"epoch {record['epoch']}/{epochs}: train loss {record['train_loss']:.4f}, val loss {record['val_loss']:.4f}"
        f"{' (best)' if best else ''}, CER {record['val_cer']:.3f}, {scores}lr {record['lr']:.3g}, "
        f"{record['clips_per_second']:.2f} clips/s, {record['seconds']:.0f} s, "
        f"{record['data_wait_seconds'] / max(record['seconds'], 1e-9):.0%} waiting for data"
    )
