"""The configuration of pre-training: v9's flags under their names, and DINOv2's where v9 has none.

In a file (YAML, JSON or TOML) a value stands under its flag's name with `_` at the top level, or in its section.
"""

from dataclasses import dataclass, field
from typing import Any

from slt_jax.models.images import IMAGE_MEAN, IMAGE_STD


def option(default: Any, help_text: str, flag: str | None = None) -> Any:
    """A field with its text in `--help`, and its flag where that is not its name."""
    metadata = {"help": help_text, "flag": flag}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunSettings:
    """What is trained, for how long, and where."""

    train_dir: tuple = option((), "folders of pictures, corpora (their face/ or hand_l/ and hand_r/) or packs")
    output_dir: str | None = option(None, "folder for checkpoints, metrics and the exported backbone")
    stream: str = option("hands", "face, hand_l, hand_r, or hands for both: which crops of a corpus or pack to take")
    backbone: str | None = option(
        None, "start from these weights: torchhub::dinov2_vits14, hf::REPO, file::PATH (default: a random ViT)"
    )
    export_backbone: str | None = option(
        None, "also write the teacher's backbone here (always: output-dir/backbone.pt)"
    )
    epochs: int = option(10, "passes over the crops")
    seed: int = option(42, "seed of initialisation, order, views and masks")
    device: str = option("auto", "auto, cpu, gpu or cuda[:N], tpu")
    precision: str = option("amp", "amp (bfloat16 compute), fp16 (float16, loss scaled), fp32 or float32")
    grad_accum_steps: int = option(1, "micro-batches per optimiser step")
    sharding: str = option("replicated", "parameters and optimiser state: replicated, or fsdp (split over devices)")
    remat: str = option("none", "what the backward pass computes again: none, or block")
    log_interval: int = option(10, "steps between two points in TensorBoard")
    tensorboard: str | None = option(None, "folder for TensorBoard event files; the flag alone means the output-dir")
    knn_index: str | None = option(
        None, "CSV of file, label and group (of whom or what it is a picture): judge by k-NN"
    )
    knn_images: str | None = option(None, "folder of the pictures in --knn-index (default: where the CSV lies)")
    knn_k: int = option(5, "neighbours that vote")
    knn_every: int = option(1, "epochs between two k-NN evaluations")


@dataclass(frozen=True)
class VitSettings:
    """The ViT, where it starts from nothing."""

    patch_size: int = option(14, "side of a patch in pixels (v9: 16, which no published DINOv2 has)")
    embed_dim: int = option(384, "width", "--vit-embed-dim")
    depth: int = option(12, "blocks", "--vit-depth")
    num_heads: int = option(6, "attention heads", "--vit-num-heads")
    mlp_ratio: float = option(4.0, "hidden width of a block's MLP over its width", "--vit-mlp-ratio")
    num_register_tokens: int = option(0, "register tokens", "--vit-num-register-tokens")


@dataclass(frozen=True)
class LossSettings:
    """DINO, iBOT and KoLeo. Names and defaults are v9's, and DINOv2's where v9 has none."""

    algorithm: str = option("dino", "dino (views), or ibot (views and masked patches)")
    out_dim: int = option(1024, "prototypes of the DINO head")
    head_hidden_dim: int = option(2048, "hidden width of the heads")
    head_bottleneck_dim: int = option(256, "width before the prototypes")
    head_nlayers: int = option(3, "layers before the prototypes")
    patch_out_dim: int = option(256, "prototypes of the iBOT head")
    patch_loss_weight: float = option(1.0, "weight of the iBOT loss")
    patch_mask_ratio: float | None = option(
        None, "share of patches masked in a masked view (default: mask_ratio_min_max)"
    )
    mask_ratio_min_max: tuple = option((0.1, 0.5), "least and greatest share of patches masked in a masked view")
    mask_sample_probability: float = option(0.5, "share of global views that are masked")
    koleo_loss_weight: float = option(0.1, "weight of the KoLeo regulariser")
    student_temp: float = option(0.1, "temperature of the student")
    teacher_temp: float = option(0.04, "temperature of the teacher after its warm-up (DINOv2: 0.07)")
    warmup_teacher_temp: float = option(0.04, "temperature of the teacher at the start")
    warmup_teacher_temp_epochs: float = option(30.0, "epochs of its linear warm-up")
    centering: str = option("centering", "of the teacher's outputs: centering (a moving mean), or sinkhorn_knopp")
    center_momentum: float = option(0.9, "momentum of the moving mean")
    teacher_momentum_base: float = option(0.996, "momentum of the teacher's weights at the start (DINOv2: 0.992)")
    teacher_momentum_final: float = option(1.0, "and at the end, along a cosine")


@dataclass(frozen=True)
class OptimSettings:
    """AdamW and its schedules, by step."""

    learning_rate: float = option(1e-3, "highest learning rate")
    min_lr: float = option(1e-6, "learning rate at the end of the cosine")
    warmup_epochs: float = option(1.0, "epochs of linear warm-up")
    weight_decay: float = option(0.04, "weight decay at the start (v9: 1e-4); not of norms and biases")
    weight_decay_end: float | None = option(0.4, "weight decay at the end, along a cosine (null: as at the start)")
    clip_grad_norm: float = option(1.0, "clip the global gradient norm (0: off; DINOv2: 3)")
    freeze_last_layer_epochs: float = option(1.0, "epochs in which the prototypes stand still")
    layerwise_decay: float = option(0.9, "factor of the learning rate from each block to the one before")
    patch_embed_lr_mult: float = option(0.2, "factor of the learning rate of the patch embedding")
    drop_path_rate: float = option(0.3, "probability of leaving a residual branch out, in the student")


@dataclass(frozen=True)
class DatasetSettings:
    """How crops are found and read."""

    batch_size: int = option(32, "crops per batch, over all devices")
    num_workers: int = option(0, "processes that read crops; 0 reads in this one")
    shuffle: bool = option(True, "read the crops in the same order in every epoch", "--no-dataset-shuffle")
    pin_memory: bool = option(False, "torch only; has no effect here", "--dataset-pin-memory")
    persistent_workers: bool = option(False, "torch only; has no effect here", "--dataset-persistent-workers")
    stride: int = option(1, "take every Nth frame of a video")
    min_difference: float = option(0.0, "leave out frames that differ less from the last one taken (mean, 0 to 255)")
    mirror_left: bool = option(True, "mirror left hands, so that one backbone serves both")


@dataclass(frozen=True)
class Augmentation:
    """The views of a crop: sizes in pixels, scales as shares of its area."""

    image_size: int = option(224, "side of the global views", "--image-size")
    local_crop_size: int = option(
        98, "side of the local views (v9: 96, which no patch of 14 divides)", "--local-crop-size"
    )
    num_local_crops: int = option(4, "local views of a crop (DINOv2: 8)", "--num-local-crops")
    global_crop_scale: tuple = option((0.4, 1.0), "least and greatest area of a global view", "--global-crop-scale")
    local_crop_scale: tuple = option((0.05, 0.4), "least and greatest area of a local view", "--local-crop-scale")
    brightness: float = option(0.4, "strength of the jitter", "--aug-brightness")
    contrast: float = option(0.4, "strength of the jitter", "--aug-contrast")
    saturation: float = option(0.2, "strength of the jitter", "--aug-saturation")
    hue: float = option(0.1, "strength of the jitter", "--aug-hue")
    color_jitter_prob: float = option(0.8, "probability of these four", "--aug-color-jitter-prob")
    grayscale_prob: float = option(0.2, "probability of a grey view", "--aug-grayscale-prob")
    gaussian_blur_prob: float = option(0.5, "probability of a blurred view", "--aug-gaussian-blur-prob")
    solarize_prob: float = option(0.1, "probability of a solarised global view", "--aug-solarize-prob")
    hflip_prob: float | None = option(
        None, "probability of a mirrored view (default: 0.5 for faces, 0 for hands, which are left or right; v9: 0.5)",
        "--aug-hflip-prob",
    )  # fmt: skip
    rotation: float = option(10.0, "greatest rotation of a view, in degrees either way", "--aug-rotation")
    mean: tuple = option(IMAGE_MEAN, "of red, green and blue, which are subtracted", "--aug-mean")
    std: tuple = option(IMAGE_STD, "and by which they are divided", "--aug-std")


@dataclass(frozen=True)
class CheckpointSettings:
    """Names in the output folder."""

    best_name: str = option("checkpoint_best.pt", "weights of the best epoch", "--checkpoint-best-name")
    last_name: str = option("checkpoint_last.pt", "weights of the last epoch", "--checkpoint-last-name")
    history_file: str = option("metrics.jsonl", "a line for each epoch", "--checkpoint-history-file")


@dataclass(frozen=True)
class ExperimentSettings:
    """What people write down about a run."""

    name: str | None = option(None, "name of the experiment", "--experiment-name")
    notes: str | None = option(None, "notes on it", "--experiment-notes")
    tags: tuple = option((), "a tag; repeats", "--experiment-tag")


@dataclass(frozen=True)
class PretrainConfig:
    """All of it. In a file the keys of `run`, `vit`, `loss` and `optim` stand at the top level."""

    run: RunSettings = field(default_factory=RunSettings)
    vit: VitSettings = field(default_factory=VitSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    dataset: DatasetSettings = field(default_factory=DatasetSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    checkpointing: CheckpointSettings = field(default_factory=CheckpointSettings)
    experiment: ExperimentSettings = field(default_factory=ExperimentSettings)
