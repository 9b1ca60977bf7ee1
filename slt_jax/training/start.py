"""Where a run starts: fresh weights, given weights, or the state of an earlier run."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.adapters import LORA_OPTIMIZER, LORA_STATE, NO_ADAPTERS, AdapterTable
from convert.checkpoint import Blueprint, Checkpoint, load_params
from convert.optimizer import from_torch, rates_note
from convert.pretrained import pretrained_params
from convert.state_dict import Entry, to_params
from slt_jax.base.console import say
from slt_jax.config import Config
from slt_jax.config_rules import trains_decoder
from slt_jax.data.target_language import generation_starts
from slt_jax.data.text import end_token, vocabulary_size
from slt_jax.errors import UserError
from slt_jax.models.families import family_of, max_positions
from slt_jax.models.multistream import initial_positions
from slt_jax.models.params import Params, split_model
from slt_jax.models.vit import ViTConfig
from slt_jax.training.ema import AVERAGE, average_of
from slt_jax.training.position import Position
from slt_jax.training.program import Program
from slt_jax.training.scaler import scaler_state
from slt_jax.training.state import OptState, TrainState
from slt_jax.training.workdir import WorkDir, state_folder


def with_tokenizer(config: Config, tokenizer) -> Config:
    """The configuration with the vocabulary and special tokens of the tokenizer in it."""
    size = vocabulary_size(tokenizer)
    if config.model.vocab_size is not None and config.model.vocab_size < size:
        raise UserError(
            f"model.vocab_size {config.model.vocab_size} is smaller than the tokenizer's {size}; "
            f"leave it out to take the tokenizer's"
        )
    model = dataclasses.replace(
        config.model,
        vocab_size=config.model.vocab_size or size,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end_token(tokenizer),
    )
    return dataclasses.replace(config, model=model)


def starts_of(plan: Blueprint, tokenizer) -> dict[str, int]:
    """How the decoder of a plan must begin to generate, to go on as this tokenizer's targets do."""
    return generation_starts(tokenizer, end_token(tokenizer), last_comes_first=last_comes_first(plan))


def last_comes_first(plan: Blueprint) -> bool:
    """Whether the decoder of a plan is shown a target's last token before its first."""
    kind = (plan.decoder or {}).get("model_type")
    return kind is not None and kind in family_of(kind).language_first


def with_starts(config: Config, plan: Blueprint, tokenizer) -> Config:
    """The configuration of a decoder that begins to generate as its targets begin, unless `decoder_kwargs` say how."""
    known, given = plan.decoder or {}, config.model.decoder_kwargs
    if "model_type" not in known:  # the user's own decoder takes no settings but its own
        return config
    starts = starts_of(plan, tokenizer)
    due = {key: token for key, token in starts.items() if key not in given and known.get(key) != token}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, decoder_kwargs=given | due))


def check_target_length(plan: Blueprint, max_target_length: int) -> None:
    """Raise UserError if targets may outgrow the decoder's table of positions, or hold nothing but their end."""
    if max_target_length < 2:
        raise UserError(f"--max-target-length {max_target_length}: leaves no room beside the end token; use 2 or more")
    positions = max_positions(plan.decoder or {})
    if positions and max_target_length > positions:
        raise UserError(
            f"--max-target-length {max_target_length} is more than the decoder's {positions} positions "
            f"(max_position_embeddings); use at most {positions}"
        )


def starting_params(
    plan: Blueprint, entries: list[Entry], seed: int, checkpoint: Checkpoint | None
) -> Mapping[str, Any]:
    """The weights that a run starts with: those of the checkpoint that fit the model, and new ones."""
    if checkpoint is None:
        return fresh_params(plan, entries, seed)
    fitting = {entry.key for entry in entries if _shape(checkpoint, entry.key) == entry.shape}
    if not fitting:
        raise UserError(f"--init-checkpoint {checkpoint.path}: no tensor of it fits the model")
    new, other = len(entries) - len(fitting), len(checkpoint.state.keys() - fitting)
    if new or other:
        say(f"--init-checkpoint {checkpoint.path}: {len(fitting)} tensors taken, {new} new, {other} left out")
    if note := apart_from_average(checkpoint):
        say(f"note: --init-checkpoint: {note}")
    state = {key: checkpoint.state[key] for key in fitting}
    given = to_params(state, [entry for entry in entries if entry.key in fitting])
    return fresh_params(plan, entries, seed, given=fitting) | given


def _shape(checkpoint: Checkpoint, key: str) -> tuple[int, ...] | None:
    return tuple(checkpoint.state[key].shape) if key in checkpoint.state else None


def fresh_params(plan: Blueprint, entries: list[Entry], seed: int, *, given: Collection[str] = ()) -> Params:
    """New weights; backbones and decoder come from their files if the configuration names (or defaults to) them.

    `given` are the torch keys that will be replaced anyway: a part that is all there needs no file.
    """
    pretrained = pretrained_params(plan.config, entries, given)
    # On the CPU, where `place_state` reads them: a GPU would compile a program for each shape of zeros and ones.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        _, params = split_model(plan.build(seed=seed, adapters=True))
        params |= jax.tree.map(jnp.asarray, pretrained)
        face = plan.backbones.get("face")
        if isinstance(face, ViTConfig) and plan.config.d_model == face.embed_dim:
            first = params["encoder.face_backbone.pos_embed"]
            params["encoder.positional.embedding.embedding"] = initial_positions(first, plan.config.sequence_length)
    return params


def find_resume(path: Path, workdir: WorkDir) -> Path | None:
    """What `--resume PATH` means: a `.pt`, the folder of a work-dir's numbered states, or None for the beginning.

    The beginning is where a run continues that was stopped before it had saved anything.
    """
    if path.is_file():
        return path
    if folder := state_folder(path):
        return folder
    if (path / "last.pt").exists():
        return path / "last.pt"
    if path.absolute() == workdir.path.absolute() and workdir.settings.exists():
        say(f"--resume: {path} holds no saved state yet; starting from the beginning")
        return None
    raise UserError(f"--resume {path}: holds no state to continue (no checkpoints/ and no last.pt)")


def tokenizer_beside(path: str | Path | None) -> Path | None:
    """The tokenizer that a run kept in its work-dir; `path` is the work-dir or something in it."""
    folders = () if path is None else (Path(path) / "tokenizer", Path(path).absolute().parent / "tokenizer")
    return next((folder for folder in folders if folder.is_dir()), None)


def resume_checkpoint(
    checkpoint: Checkpoint,
    program: Program,
    entries: list[Entry],
    steps_per_epoch: int,
    frozen: Collection[str] = (),
    table: AdapterTable = NO_ADAPTERS,
    heads: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[TrainState, Position]:
    """Weights, optimiser state and epoch of a `.pt`, v9's or ours. The epoch and the steps set the schedule."""
    state = checkpoint_state(checkpoint, program, entries, frozen, table, heads)
    position = Position.from_checkpoint(checkpoint.rest)
    counts = bool(program.functions.optimizer.scalars(0.0))  # torch's sgd does not
    steps = (int(np.max(state.optimizer.step, initial=0)) if counts else 0) or position.epoch * steps_per_epoch
    return program.place(state.replace(step=np.int32(steps))), position


def checkpoint_state(
    checkpoint: Checkpoint,
    program: Program,
    entries: list[Entry],
    frozen: Collection[str] = (),
    table: AdapterTable = NO_ADAPTERS,
    heads: Mapping[str, Any] = MappingProxyType({}),
) -> TrainState:
    """The state in a `.pt`, on this host and at step 0. Raises UserError if it does not fit the model.

    `frozen` are the paths that the configuration freezes, which later v9 does not number. `table` is that of the
    model's adapters, which the file must have in `lora_state` where there are some. `heads` are parameters of the
    program that the model does not have.
    """
    params, rest = load_params(checkpoint, entries), checkpoint.rest
    if table.adapters:
        params |= table.params(rest.get(LORA_STATE), checkpoint.path)
    state = program.new_state({**params, **heads})
    optimizer = state.optimizer
    if saved := rest.get("optimizer_state"):
        kind, trained = program.functions.optimizer, program.trained
        if note := rates_note(saved, kind):
            say(f"{checkpoint.path}: {note}")
        try:
            tree = from_torch(saved, optimizer.to_tree(), trained, kind, entries, frozen)
            if table.adapters and (own := rest.get(LORA_OPTIMIZER)):
                steps = tree["step"]
                tree = from_torch(own, tree, trained, kind, table.adapters)
                tree["step"] = np.maximum(tree["step"], steps)
        except UserError as error:
            raise UserError(f"{checkpoint.path}: {error}") from None
        optimizer = OptState.from_tree(tree)
    state = state.replace(optimizer=optimizer, scaler=scaler_state(rest.get("scaler_state")))
    average, saved = average_of(state), rest.get("ema_state")
    if average is not None and isinstance(saved, Mapping):
        fitting = [entry for entry in (*entries, *table.adapters) if entry.path in average]
        # A file has no average of what stands beside the model, which begins anew.
        state = state.replace(teacher={**state.teacher, AVERAGE: {**average, **to_params(saved, fitting)}})
    return state


def trained_with_v9_masks(saved: Mapping[str, Any]) -> bool:
    """Whether weights saved with this configuration know v9's hand masks. v9 itself has no key for them."""
    data = saved.get("data")
    return bool(data.get("v9_hand_masks", True)) if isinstance(data, Mapping) else True


def learned_to_translate(saved: Mapping[str, Any]) -> bool:
    """Whether weights saved with this configuration were trained to write texts."""
    training = saved.get("training")
    objectives = training.get("objectives") if isinstance(training, Mapping) else None
    return trains_decoder(objectives) if isinstance(objectives, Mapping) else True


def apart_from_average(checkpoint: Checkpoint) -> str | None:
    """A line to tell where these are not the averaged weights of a run with `training.ema`, which are in best.pt."""
    training, average = checkpoint.config.get("training"), checkpoint.rest.get("ema_state")
    if checkpoint.path.is_dir():
        apart = isinstance(training, Mapping) and training.get("ema") is not None
    else:  # best.pt, which has the average in both places, is told from the others by its small arrays
        small = {key: array for key, array in (average or {}).items() if np.ndim(array) < 2 and key in checkpoint.state}
        apart = any(not np.array_equal(array, checkpoint.state[key]) for key, array in small.items())
    return f"{checkpoint.path} has weights as trained; best.pt has their average (--ema)" if apart else None


def notes_on(checkpoint: Checkpoint) -> list[str]:
    """What to know before texts are expected of these weights, in lines."""
    found = []
    if not learned_to_translate(checkpoint.config):
        found.append(f"{checkpoint.path} was trained to align videos with texts, and has not learned to translate")
    if note := apart_from_average(checkpoint):
        found.append(note)
    return found
