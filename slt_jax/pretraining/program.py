"""The program of pre-training made from a configuration: the student, its objective, AdamW, and what moves by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from convert.state_dict import Entry, table
from slt_jax.config import OptimConfig, TrainingConfig
from slt_jax.errors import UserError
from slt_jax.models.images import normalise
from slt_jax.models.params import describe
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.vit import ViTConfig
from slt_jax.pretraining.heads import Student
from slt_jax.pretraining.masks import draw_masks, mask_counts, masked_places
from slt_jax.pretraining.objective import SelfDistillation
from slt_jax.pretraining.settings import Augmentation, LossSettings, PretrainConfig
from slt_jax.pretraining.views import views_per_image
from slt_jax.runtime.precision import compute_dtype
from slt_jax.runtime.sharding import Layout, device_mesh
from slt_jax.training.optim import Optimizer, Part
from slt_jax.training.parts import layers_above
from slt_jax.training.program import Program, make_program
from slt_jax.training.schedules import Cosine, Linear
from slt_jax.training.step import Arrays


@dataclass(frozen=True)
class Schedules:
    """What changes with every optimiser step."""

    learning_rate: Cosine
    weight_decay: Cosine
    teacher_momentum: Cosine
    teacher_temp: Linear
    last_layer_frozen: int  # steps
    steps_per_epoch: int

    @classmethod
    def of(cls, config: PretrainConfig, steps_per_epoch: int) -> "Schedules":
        """The schedules of a configuration, for an epoch of so many steps."""
        optim, loss, total = config.optim, config.loss, config.run.epochs * steps_per_epoch
        last = optim.weight_decay if optim.weight_decay_end is None else optim.weight_decay_end

        def steps(epochs: float) -> int:
            return round(epochs * steps_per_epoch)

        return cls(
            Cosine(optim.learning_rate, optim.min_lr, total, warmup=min(steps(optim.warmup_epochs), total)),
            Cosine(optim.weight_decay, last, total),
            Cosine(loss.teacher_momentum_base, loss.teacher_momentum_final, total),
            Linear(loss.warmup_teacher_temp, loss.teacher_temp, steps(loss.warmup_teacher_temp_epochs)),
            steps(optim.freeze_last_layer_epochs),
            steps_per_epoch,
        )


def too_short_for(config: PretrainConfig) -> list[str]:
    """What a run is too short for, in lines."""
    epochs, optim, loss = config.run.epochs, config.optim, config.loss
    ends = f"the run ends with epoch {epochs}"
    warmup, warming, frozen = optim.warmup_epochs, loss.warmup_teacher_temp_epochs, optim.freeze_last_layer_epochs
    found = []
    if warmup >= epochs:
        found.append(f"--warmup-epochs {warmup:g}: the rate never gets to --learning-rate, {ends}")
    if warming >= epochs and loss.warmup_teacher_temp != loss.teacher_temp:
        found.append(f"--warmup-teacher-temp-epochs {warming:g}: the teacher never gets to --teacher-temp, {ends}")
    if frozen >= epochs:
        found.append(f"--freeze-last-layer-epochs {frozen:g}: the prototypes never learn, {ends}")
    return found


def pretraining_program(
    config: PretrainConfig, vit: ViTConfig, schedules: Schedules, mesh: Mesh | None = None
) -> tuple[Program, list[Entry]]:
    """The program on `mesh` (default: all devices), and the torch table of the student."""
    run, loss = config.run, config.loss
    dtype, mesh = compute_dtype(run.precision), mesh or device_mesh()
    build = partial(new_student, vit, loss, run.seed)
    structure, leaves = describe(lambda: build(dtype=dtype, memory=Memory(remat=run.remat)))
    prototypes = {"dino": loss.out_dim} | ({"ibot": loss.patch_out_dim} if loss.algorithm == "ibot" else {})
    objective = SelfDistillation(
        structure=structure,
        layout=Layout(mesh, fsdp=run.sharding == "fsdp"),
        prototypes=tuple(prototypes.items()),
        teacher_temp=schedules.teacher_temp,
        momentum=schedules.teacher_momentum,
        student_temp=loss.student_temp,
        patch_weight=loss.patch_loss_weight,
        koleo_weight=loss.koleo_loss_weight,
        drop_path=config.optim.drop_path_rate,
        sinkhorn=loss.centering == "sinkhorn_knopp",
        center_momentum=loss.center_momentum,
    )
    parts = parts_of([leaf.path for leaf in leaves], config, vit.depth, schedules)
    program = make_program(
        build,
        objective,
        optim=OptimConfig(grad_clip_norm=config.optim.clip_grad_norm or None),
        training=training_settings(config),
        optimizer=Optimizer("adamw", config.optim.weight_decay, parts=parts, decays=schedules.weight_decay),
        precision=run.precision,
        seed=run.seed,
        prepare=Prepare(config.augmentation, mirrored_views(config), loss, vit.patch_size, dtype),
        structure=structure,
        mesh=mesh,
    )
    return program, table(leaves)


def new_student(
    vit: ViTConfig, loss: LossSettings, seed: int, *, dtype=jnp.float32, memory: Memory = KEEP_ALL
) -> Student:
    """The student with random weights."""
    return Student(vit, loss, dtype=dtype, memory=memory, rngs=nnx.Rngs(seed))


def training_settings(config: PretrainConfig) -> TrainingConfig:
    """What the loop reads. The best epoch is that of the best k-NN accuracy where pictures are labelled."""
    run = config.run
    return TrainingConfig(
        epochs=run.epochs,
        grad_accum_steps=run.grad_accum_steps,
        sharding=run.sharding,
        best_metric="knn" if run.knn_index else "loss",
    )


def mirrored_views(config: PretrainConfig) -> float:
    """The probability of a mirrored view."""
    asked = config.augmentation.hflip_prob
    return (0.5 if config.run.stream == "face" else 0.0) if asked is None else asked


def parts_of(
    paths: Sequence[str], config: PretrainConfig, depth: int, schedules: Schedules
) -> tuple[tuple[str, Part], ...]:
    """How each parameter is trained, as in DINOv2: slower towards the first blocks, no decay of norms and biases."""
    optim = config.optim

    def part(path: str) -> Part:
        rate = 1.0
        if path.startswith("backbone."):
            rate = optim.layerwise_decay ** layers_above(path.removeprefix("backbone."), depth)
        if "patch_embed" in path:
            rate *= optim.patch_embed_lr_mult
        plain = path.endswith((".bias", ".gamma")) or ".norm" in path
        frozen = schedules.last_layer_frozen if ".last_layer." in path else 0
        return Part(rate, 0.0 if plain else 1.0, frozen)

    return tuple((path, part(path)) for path in sorted(set(paths)))


# --- what a batch of crops becomes on the device ------------------------------------------------------------------


@dataclass(frozen=True)
class Prepare:
    """A batch of crops to the inputs of `SelfDistillation`; without a key, to whole pictures to be judged."""

    augmentation: Augmentation
    mirrored: float  # probability of a mirrored view
    loss: LossSettings
    patch: int
    dtype: Any = jnp.float32

    def __call__(self, batch: Arrays, key: Array | None) -> dict[str, Array]:
        """`batch["images"]` are uint8 (N, S, S, 3)."""
        images, sizes = batch["images"], self.augmentation
        if key is None:
            return {"images": normalise(images, self.dtype, sizes.mean, sizes.std)}
        look, hide = jax.random.split(key)
        large, small = views_per_image(images, look, sizes, self.mirrored, self.dtype)
        inputs = {"global": large, "local": small}
        return inputs | self._masks(hide, len(images)) if self.loss.algorithm == "ibot" else inputs

    def _masks(self, key: Array, crops: int) -> dict[str, Array]:
        side = self.augmentation.image_size // self.patch
        shares = mask_ratios(self.loss)
        counts = mask_counts(2 * crops, side * side, self.loss.mask_sample_probability, *shares)
        masks = draw_masks(key, counts, (side, side)).reshape(crops, 2, -1)
        places, valid = masked_places(masks, max(int(counts.max()), 1))
        return {"masked": masks, "places": places, "valid": valid}


def check_patches(flag: str, side: int, patch: int) -> None:
    """Raise UserError naming `flag` where patches do not divide a picture."""
    if side % patch:
        near = max(round(side / patch), 1) * patch
        raise UserError(f"{flag} {side}: patches of {patch} pixels do not divide it; use {near}")


def mask_ratios(loss: LossSettings) -> tuple[float, float]:
    """The least and the greatest share of patches that a masked view loses."""
    if loss.patch_mask_ratio is not None:
        return loss.patch_mask_ratio, loss.patch_mask_ratio
    least, greatest = loss.mask_ratio_min_max
    return float(least), float(greatest)


def abstract_batch(config: PretrainConfig, layout: Layout, crops: int) -> Arrays:
    """The shapes of a batch of crops on its devices."""
    side = config.augmentation.image_size
    rows = NamedSharding(layout.mesh, PartitionSpec("data"))
    return {"images": jax.ShapeDtypeStruct((crops, side, side, 3), jnp.uint8, sharding=rows)}
