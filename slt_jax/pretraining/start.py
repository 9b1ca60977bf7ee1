"""From a configuration to a pre-training run, and the run."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from convert.dinov2 import read_backbone
from convert.state_dict import to_params
from slt_jax.base.console import say
from slt_jax.base.files import replacing
from slt_jax.base.places import check_file
from slt_jax.errors import UserError
from slt_jax.models.backbones import parse_backbone
from slt_jax.models.params import split_model
from slt_jax.models.vit import VIT_SIZES, ViTConfig
from slt_jax.pretraining.crop_batches import CropBatches
from slt_jax.pretraining.crops import Crops, find_crops
from slt_jax.pretraining.knn import read_labelled
from slt_jax.pretraining.program import (
    Schedules,
    check_patches,
    mirrored_views,
    new_student,
    pretraining_program,
    too_short_for,
    training_settings,
)
from slt_jax.pretraining.settings import PretrainConfig
from slt_jax.pretraining.sheet import views_sheet
from slt_jax.pretraining.task import Pretraining, spread
from slt_jax.runtime import hosts
from slt_jax.runtime.sharding import check_batch_size, device_mesh
from slt_jax.training.position import Position
from slt_jax.training.run import Run
from slt_jax.training.state import TrainState
from slt_jax.training.state_store import resume_states
from slt_jax.training.tracking import check_tensorboard
from slt_jax.training.workdir import Names, WorkDir, state_folder

NARROW = 384  # below DINOv2's narrowest ViT, whose random positions suit its width
HEAD_WIDTH = 64  # of each attention head, as far as `file::` can tell from weights
SHOWN = 10  # crops of a sheet of views


def pretrain(
    config: PretrainConfig, merged: Mapping[str, Any], *, resume: str | None = None, overwrite: bool = False
) -> dict[str, Any] | None:
    """Pre-train as `config` says and return the last epoch's metrics; None if no epoch was left.

    `resume` is an output folder or a checkpoint in one, "" for `output_dir` itself, or None. Raises UserError before
    anything is compiled, TrainingStopped on a loss that is no number or a collapse, and Interrupted on a signal.
    """
    if not config.run.output_dir:
        raise UserError("--output-dir is not given (nor output_dir in the configuration)")
    names = config.checkpointing
    workdir = WorkDir(
        config.run.output_dir,
        Names(names.last_name, names.best_name, names.history_file, "params.json", "--output-dir"),
    )
    source = None if resume is None else find_states(Path(resume or workdir.path), workdir)
    mesh = device_mesh()
    check_batch_size("--batch-size", config.dataset.batch_size, mesh)
    with contextlib.ExitStack() as claim:
        if hosts.primary():
            check_file("--export-backbone", config.run.export_backbone)
            check_tensorboard(config.run.tensorboard)
            claim.enter_context(workdir.claimed(source, overwrite=overwrite))
        hosts.barrier("output-dir")
        task, state, position = begin(config, source, mesh)
        with contextlib.closing(task.loader):
            if hosts.primary():
                workdir.write_settings(settings_and_schedules(task), merged)
            return Run(task, state, position, workdir, config.run.tensorboard or None).to_the_end()


def find_states(path: Path, workdir: WorkDir) -> Path | None:
    """What `--resume PATH` means: the folder of numbered states, or None for the beginning."""
    folder = path.parent if path.is_file() else path
    if states := state_folder(folder):
        return states
    if folder.absolute() == workdir.path.absolute() and workdir.settings.exists():
        say(f"--resume: {folder} holds no saved state yet; starting from the beginning")
        return None
    raise UserError(f"--resume {path}: holds no state to continue (no checkpoints/)")


def begin(config: PretrainConfig, source: Path | None, mesh: Mesh) -> tuple[Pretraining, TrainState, Position]:
    """The task with its program and data, and where it starts."""
    vit, weights = starting_backbone(config)
    check_sizes(config, vit)
    run, batch = config.run, config.dataset.batch_size
    labelled = read_labelled(run.knn_index, run.knn_images, config.augmentation.image_size) if run.knn_index else None
    crops = find_crops(run.train_dir, run.stream, config.dataset)
    own = {"shard_index": jax.process_index(), "shard_count": hosts.count()}
    loader = CropBatches(crops, config.dataset, config.augmentation.image_size, run.seed, **own)
    steps = -(-loader.batches_left(0) // run.grad_accum_steps)
    schedules = Schedules.of(config, steps)
    program, entries = pretraining_program(config, vit, schedules, mesh)
    task = Pretraining(program, training_settings(config), batch, config, crops, loader, entries, schedules, labelled)
    say("\n".join([announcement(task, vit), *(f"note: {note}" for note in too_short_for(config))]))
    if source:
        state, position, notes = resume_states(source, program)
        check_crops(source, position, notes, crops)
        say(f"resuming from {source}: {position.epoch} epochs and {position.batches} batches are done")
        return task, state, position
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        params = split_model(new_student(vit, config.loss, run.seed))[1]
        if weights is None and vit.embed_dim < NARROW:
            params |= {"backbone.pos_embed": sines(vit)}
    if weights is not None:
        backbone = [entry for entry in entries if entry.key.startswith("backbone.")]
        given = to_params({f"backbone.{name}": array for name, array in weights.items()}, backbone)
        params |= jax.tree.map(jnp.asarray, given)
    return task, program.place(program.new_state(params)), Position()


def draw_views(config: PretrainConfig, path: str) -> None:
    """Write a PNG of some crops and the views that they would become."""
    check_file("--sheet", path)
    crops = find_crops(config.run.train_dir, config.run.stream, config.dataset)
    shown = spread(crops, SHOWN, config.augmentation.image_size)
    sheet = views_sheet(shown, config.augmentation, mirrored_views(config), seed=config.run.seed)
    with replacing(path) as file:
        sheet.save(file, "PNG")


def check_crops(source: Path, position: Position, notes: Mapping[str, Any], crops: Crops) -> None:
    """Raise UserError if an epoch cannot go on, because there are other crops than when it began; else say it."""
    now, names = len(crops), crops.fingerprint()
    before = int(notes.get("crops", now))
    if before == now and notes.get("crop_names", names) == names:
        return
    what = f"{before} crops, now there are {now}" if before != now else f"{now} crops of other names than those now"
    if position.taken:
        raise UserError(f"--resume {source}: its epoch began with {what}; put the same ones there")
    say(f"note: {source} was trained on {what}")


def announcement(task: Pretraining, vit: ViTConfig) -> str:
    """What is about to be trained, and what is otherwise than v9's defaults."""
    config, mesh = task.config, task.program.mesh
    sizes = config.augmentation
    start = config.run.backbone or "random weights"
    narrow = vit.embed_dim != HEAD_WIDTH * vit.num_heads
    note = f"\nnote: its heads are not {HEAD_WIDTH} wide, so file::backbone.pt will not know how many there are"
    return (
        f"{len(task.crops)} crops on {mesh.size} x {jax.devices()[0].device_kind}: {config.loss.algorithm} on a ViT "
        f"{vit.embed_dim} wide and {vit.depth} deep from {start}, 2 x {sizes.image_size} and {sizes.num_local_crops} x "
        f"{sizes.local_crop_size} px\n"
        f"other than in v9: patches of {vit.patch_size} px (16), views mirrored with probability "
        f"{mirrored_views(config):g} (0.5), weight decay from {config.optim.weight_decay:g} (1e-4)"
        f"{note * narrow}"
    )


def settings_and_schedules(task: Pretraining) -> dict[str, Any]:
    """For params.json: all settings in force, and how the schedules run."""
    return {**dataclasses.asdict(task.config), "schedules": dataclasses.asdict(task.schedules)}


def starting_backbone(config: PretrainConfig) -> tuple[ViTConfig, Mapping[str, Any] | None]:
    """The sizes of the ViT, and its weights under the hub's names; None for a random start."""
    if config.run.backbone is None:
        sizes = dataclasses.asdict(config.vit)
        for known in VIT_SIZES.values():  # with the table of positions that the hub's model has
            if all(getattr(known, name) == value for name, value in sizes.items()):
                return known, None
        patch, side = config.vit.patch_size, config.augmentation.image_size
        try:
            return ViTConfig(**sizes, image_size=-(-side // patch) * patch), None
        except ValueError as error:
            raise UserError(f"the ViT cannot be built: {error}") from None
    backbone = parse_backbone(config.run.backbone, "--backbone")
    path = backbone.weights("--backbone")
    if path is None:
        if not isinstance(backbone.sizes, ViTConfig):
            raise UserError(f"--backbone {config.run.backbone}: only DINOv2's ViTs are pre-trained here")
        return backbone.sizes, None
    found = read_backbone(path, backbone.model)
    if found.note:
        say(f"{path}: {found.note}")
    return found.sizes, found.state


def sines(vit: ViTConfig) -> jax.Array:
    """A table of positions (1, 1 + patches, d) to start from: sines and cosines of row and column, 0 for the CLS token.

    DINOv2 draws from N(0, 0.02), which is next to nothing beside the patches of a narrow ViT: it sees a bag of them.
    """
    waves = 100 ** (-np.arange(vit.embed_dim // 4) / (vit.embed_dim // 4))
    angles = [places.reshape(-1, 1) * waves for places in np.indices((vit.grid, vit.grid))]
    table = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    table = np.pad(table, [(1, 0), (0, vit.embed_dim - table.shape[1])])
    return jnp.asarray(table[None], jnp.float32)


def check_sizes(config: PretrainConfig, vit: ViTConfig) -> None:
    """Raise UserError where the views do not divide into patches."""
    check_patches("--image-size", config.augmentation.image_size, vit.patch_size)
    if config.augmentation.num_local_crops:
        check_patches("--local-crop-size", config.augmentation.local_crop_size, vit.patch_size)
