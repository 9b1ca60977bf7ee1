"""Where a run starts: fresh weights, given weights, or the state of an earlier run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from convert.checkpoint import Blueprint, Checkpoint, load_params, read_checkpoint
from convert.optimizer import from_torch
from convert.state_dict import Entry, to_params
from slt_jax.config import Config, ModelConfig
from slt_jax.errors import UserError
from slt_jax.models.backbones import STREAM_KEYS, stream_backbones
from slt_jax.models.decoders import decoder_settings
from slt_jax.models.multistream import initial_positions
from slt_jax.models.params import Params, split_model
from slt_jax.training.checkpoint import StateStore
from slt_jax.training.optim import Optimizer
from slt_jax.training.sharding import replicated
from slt_jax.training.step import TrainState

STREAM_PREFIXES = ("encoder.face_backbone.", "encoder.hand_backbone_left.", "encoder.hand_backbone_right.")


@dataclass
class Position:
    """How far a run has come; JSON beside every saved state."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches taken from the epoch under way
    totals: dict[str, float] = field(default_factory=dict)  # its running sums
    best_val: float = float("inf")

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "Position":
        return cls(**notes["position"])


def plan_model(config: ModelConfig) -> Blueprint:
    """The model that a configuration describes."""
    backbones = tuple(backbone.vit for backbone in stream_backbones(config))
    for vit in backbones:
        if config.image_size % vit.patch_size:
            raise UserError(f"--image-size {config.image_size} is not a multiple of the patch size {vit.patch_size}")
        if config.projector == "identity" and config.projector_dim != vit.embed_dim:
            raise UserError(
                f"model.projector identity needs model.projector_dim {config.projector_dim} to equal the backbone's "
                f"width {vit.embed_dim}; set --projector-dim {vit.embed_dim}"
            )
    return Blueprint(config, backbones, decoder_settings(config))


def with_tokenizer(config: Config, tokenizer) -> Config:
    """The configuration with the vocabulary and special tokens of the tokenizer in it."""
    end = next((t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None), None)
    if end is None:
        raise UserError("--tokenizer: it has neither an eos nor a sep token; the decoder needs one to stop")
    model = dataclasses.replace(
        config.model, vocab_size=config.model.vocab_size or tokenizer.vocab_size,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=end,
    )
    return dataclasses.replace(config, model=model)


def fresh_params(plan: Blueprint, entries: list[Entry], seed: int) -> Params:
    """New weights; backbones from their files where the configuration names (or defaults to) pretrained ones."""
    files = [
        backbone.weights(f"model.{key}")
        for backbone, key in zip(stream_backbones(plan.config), STREAM_KEYS, strict=True)
    ]
    _, params = split_model(plan.build(seed=seed))
    for prefix, file in zip(STREAM_PREFIXES, files, strict=True):
        if file is not None:
            checkpoint = read_checkpoint(file)
            own = [entry for entry in entries if entry.key.startswith(prefix)]
            state = {prefix + key: array for key, array in checkpoint.state.items()}
            try:
                params |= jax.tree.map(jnp.asarray, to_params(state, own))
            except UserError as error:
                raise UserError(f"{file}: {error}") from None
    face = plan.backbones[0]
    if plan.config.d_model == face.embed_dim:
        positions = "encoder.positional.embedding.embedding"
        params[positions] = initial_positions(params["encoder.face_backbone.pos_embed"], plan.config.sequence_length)
    return params


def starting_params(
    plan: Blueprint, entries: list[Entry], seed: int, checkpoint: Checkpoint | None
) -> Mapping[str, Any]:
    """The checkpoint's weights where one is given, else new ones."""
    return load_params(checkpoint, entries) if checkpoint else fresh_params(plan, entries, seed)


def initial_state(params: Mapping[str, Any], trained: list[str], optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """A train state at step 0 on every device of `mesh`."""
    chosen = set(trained)
    state = {
        "trained": {path: params[path] for path in trained},
        "frozen": {path: array for path, array in params.items() if path not in chosen},
        "optimizer": optimizer.init({path: params[path] for path in trained}),
        "step": jnp.int32(0),
    }
    return place_state(state, mesh)


def place_state(state: TrainState, mesh: Mesh) -> TrainState:
    # A copy, always: the first step donates these buffers, and a mapped file or a caller may share them.
    return jax.tree.map(lambda array: jax.device_put(np.array(array), replicated(mesh)), state)


def find_resume(path: Path) -> Path:
    """What `--resume PATH` means: a `.pt`, or the folder of a work-dir's numbered states."""
    if path.is_file():
        return path
    for folder in (path / "checkpoints", path):
        if folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir()):
            return folder
    if (path / "last.pt").exists():
        return path / "last.pt"
    raise UserError(f"--resume {path}: holds no state to continue (no checkpoints/ and no last.pt)")


def resume_states(folder: Path, like: TrainState) -> tuple[TrainState, Position]:
    """The newest state under `folder`, exactly as it was saved."""
    store = StateStore(folder, read_only=True)
    try:
        state, notes = store.restore(like)
    finally:
        store.close()
    return state, Position.from_notes(notes)


def resume_checkpoint(
    checkpoint: Checkpoint, like: TrainState, optimizer: Optimizer, entries: list[Entry], steps_per_epoch: int,
    mesh: Mesh,
) -> tuple[TrainState, Position]:
    """Weights, optimiser state and epoch of a `.pt`, v9's or ours; the schedule follows from the epoch."""
    params = load_params(checkpoint, entries)
    trained = sorted(like["trained"])
    state = {
        "trained": {path: params[path] for path in trained},
        "frozen": {path: params[path] for path in like["frozen"]},
        "optimizer": like["optimizer"],
    }
    rest = checkpoint.rest
    if "optimizer_state" in rest:
        state["optimizer"] = from_torch(rest["optimizer_state"], like["optimizer"], trained, optimizer, entries)
    epoch = int(rest.get("epoch", 0))
    position = Position(epoch=epoch, best_val=float(rest.get("best_val", rest.get("val_loss", float("inf")))))
    return place_state(state | {"step": np.int32(epoch * steps_per_epoch)}, mesh), position


def written_by_v9(checkpoint: Checkpoint) -> bool:
    """v9 does not know the setting that every file written here records."""
    return "v9_hand_masks" not in checkpoint.config.get("data", {})
