"""The configuration: four frozen sections, merged from defaults, a YAML/JSON file, flags and `--set`.

Keys are v9's. Unknown keys and values of the wrong kind are errors that name the key.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from slt_jax.base.json_text import DEEPEST, parse_json
from slt_jax.config_rules import check_objectives_fit, check_plain, check_streams_fit, check_values, with_home
from slt_jax.errors import UserError, nearest, shortened, shown
from slt_jax.later_v9 import later_v9
from slt_jax.streams import IMAGES, STREAMS, Stream, parse_mix_stream, parse_streams

RENAMED = {"data": {"target_language": "target_lang"}}  # keys that a section had under another name

FreezeSpec = bool | int | str | list | dict | None
BackboneSpec = str | dict | None
T = TypeVar("T")


def option(default: Any, help_text: str) -> Any:
    """A configuration field with its text in `--help`."""
    metadata = {"help": help_text}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def with_streams(before: str, fields: Mapping[str, tuple[Any, Any]]) -> Callable[[type[T]], type[T]]:
    """A class decorator: {name: (type, option)} are fields that stand before the one named."""

    def insert(section: type[T]) -> type[T]:
        annotations: dict[str, Any] = {}
        for name, kind in section.__annotations__.items():
            if name == before:
                annotations |= {key: kind for key, (kind, _) in fields.items()}
            annotations[name] = kind
        section.__annotations__ = annotations
        for key, (_, default) in fields.items():
            setattr(section, key, default)
        return section

    return insert


def _folder(stream: Stream) -> Any:
    files = f"{stream.noun} crops, <video_id>_f%06d.jpg" if stream.images else "<video_id>.npz pose files"
    return option(None, f"folder of {files}")


def _backbone(stream: Stream) -> Any:
    return option(None, f"backbone of the {stream.noun} stream (default: pretrained DINOv2 ViT-S/14)")


def _freeze(stream: Stream) -> Any:
    return option(False, f"freeze the {stream.noun} backbone")


@dataclass(frozen=True)
@with_streams("packs", {s.folder_key: (str | None, _folder(s)) for s in STREAMS})
class DataConfig:
    """Where the data is, how it is loaded, and on what device and in what precision to compute."""

    packs: str | None = option(None, "folder or URL of a pack (slt-pack), in place of the streams' folders")
    metadata_csv: str | None = option(None, "CSV with id/video_id and texto/text")
    train_index: str | None = option(None, "CSV of the training clips' ids")
    val_index: str | None = option(None, "CSV of the validation clips' ids")
    work_dir: str | None = option(None, "folder for checkpoints, metrics and the effective configuration")
    num_workers: int = option(0, "data-loading processes; 0 loads in this process")
    batch_size: int = option(4, "clips per batch")
    val_batch_size: int | None = option(None, "clips per validation batch (default: batch_size)")
    buckets: list | None = option(None, "numbers of frames to pad clips to (default: all to model.sequence_length)")
    seed: int = option(1234, "seed of initialisation, shuffling, augmentation and dropout")
    device: str = option("auto", "auto, cpu, gpu or cuda[:N], tpu")
    precision: str = option("amp", "amp (bfloat16 compute), fp16 (float16, loss scaled), fp32 or float32")
    tensorboard: str | None = option(None, "folder for TensorBoard event files; the flag alone means the work-dir")
    pin_memory: bool = option(True, "torch only; has no effect here")
    tokenizer: str | None = option(None, "tokenizer folder or hub id (default: one is trained on the training texts)")
    target_lang: str | None = option(
        None, "language of texts without a `lang` of their own, for tokenizers of many: es_XX, spa_Latn, es, ..."
    )
    source_lang: str | None = option(
        None, "what such a tokenizer is told of the source; signs are no text, so no score depends on it"
    )
    prefix: str | None = option(
        None, "text before every target, learned and generated with it; {lang} is the row's column `lang`"
    )
    max_target_length: int = option(128, "longest target in tokens, end token included")
    mix_streams: dict = option({}, "stream: probability of permuting it across the batch")
    flip_probability: float = option(0.2, "probability of mirroring a training clip")
    augmentation: dict = option(
        {},
        "random changes of training clips, each off where it is not named: crop_scale [0.7, 1], color 0.3, speed "
        "[0.75, 1.25], drop_frames 0.1, cut_end 0.5, drop_hands 0.05, jitter_pose 0.01",
    )
    v9_hand_masks: bool | None = option(
        None, "frames, masks and padding as in v9, which hides hands (default: only for checkpoints that v9 trained)"
    )
    feature_cache: str = option(
        "auto", "where features of frozen backbones are kept: auto (in the work-dir), none, or a folder"
    )
    keep_decoded: float = option(
        0.25, "keep a split's decoded frames and poses in memory if all fit into this share of what is free; 0: never"
    )
    skip_bad_clips: bool = option(False, "count and skip clips that cannot be read instead of stopping")
    strict_quality: bool = option(False, "make the quality checks errors instead of warnings")


@dataclass(frozen=True)
@with_streams(
    "backbone",
    {s.backbone_key: (BackboneSpec, _backbone(s)) for s in IMAGES}
    | {s.freeze_key: (FreezeSpec, _freeze(s)) for s in IMAGES},
)
class ModelConfig:
    """The model: its sizes, backbones, projectors and decoder. Fields are the keys of section `model`."""

    streams: list | None = option(
        None, f"streams that the model has, of {', '.join(s.key for s in STREAMS)} (default: all)"
    )
    image_size: int = option(224, "side of the crops in pixels")
    projector_dim: int = option(256, "width of the projected streams")
    d_model: int = option(512, "width of the temporal encoder and the decoder")
    pose_landmarks: int = option(13, "pose landmarks per frame")
    sequence_length: int = option(128, "frames per clip")
    projector_dropout: float = option(0.0, "dropout inside the projectors")
    fusion_dropout: float = option(0.0, "dropout before the fusion projection")
    temporal_nhead: int = option(8, "attention heads of the temporal encoder")
    temporal_layers: int = option(6, "layers of the temporal encoder")
    temporal_dim_feedforward: int = option(2048, "feed-forward width of the temporal encoder")
    temporal_dropout: float = option(0.1, "dropout of the temporal encoder")
    decoder_layers: int = option(2, "layers of the decoder")
    decoder_heads: int = option(8, "attention heads of the decoder")
    decoder_dropout: float = option(0.1, "dropout of the decoder")
    decoder_model: str | None = option(None, "HuggingFace seq2seq model, folder or hub id: configuration and weights")
    decoder_config: str | dict | None = option(None, "HuggingFace seq2seq configuration (folder, file or mapping)")
    decoder_class: str | None = option(None, "custom decoder, module:Class")
    decoder_kwargs: dict = option({}, "fields that override the decoder's configuration, as JSON")
    local_files_only: bool = option(False, "download no weights: use local caches only")
    backbone: dict | None = option(
        None, "one randomly initialised ViT for every stream: embed_dim, depth, num_heads, patch_size, ..."
    )
    projector: str | dict = option(
        "auto",
        "auto (identity when projector_dim equals the backbone's width), mlp or identity; or a mapping of "
        f"{', '.join(s.key for s in IMAGES)} to these",
    )
    lora: dict | None = option(
        None,
        "adapters to train in place of the weights under them: rank, alpha, targets, dropout, rslora, frozen_dtype",
    )
    vocab_size: int | None = option(None, "decoder vocabulary (default: the tokenizer's)")
    pad_token_id: int = option(0, "padding token (training takes the tokenizer's)")
    eos_token_id: int = option(1, "end token (training takes the tokenizer's)")


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser, its schedule, and the loss."""

    optimizer: str = option(
        "adamw",
        "adamw, adam, sgd, rmsprop, adagrad, adamax, adadelta, nadam, radam, adafactor (torch's) or lion, in any case",
    )
    lr: float = option(1e-3, "learning rate")
    lr_backbone: float | None = option(None, "learning rate of the backbones (default: lr_encoder)")
    lr_encoder: float | None = option(None, "learning rate of the encoder (default: lr)")
    lr_decoder: float | None = option(None, "learning rate of the decoder (default: lr)")
    layer_decay: float = option(1.0, "factor of a backbone's learning rate for each layer below its last")
    weight_decay: float = option(0.0, "weight decay")
    decay_only_matrices: bool = option(False, "no weight decay of biases, norms and other vectors")
    momentum: float = option(0.0, "momentum of sgd and rmsprop")
    warmup_steps: int = option(0, "optimiser steps in which the learning rate rises from 0, before the schedule begins")
    scheduler: str = option("none", "none, steplr, cosine, linear (down to 0) or inverse_sqrt")
    scheduler_unit: str | None = option(
        None, "what the schedule counts: epoch (default of steplr and cosine) or step (of linear and inverse_sqrt)"
    )
    scheduler_step_size: int = option(5, "epochs or steps between the drops of steplr")
    scheduler_gamma: float = option(0.5, "factor of steplr")
    scheduler_tmax: int | None = option(
        None, "epochs or steps in which cosine and linear reach 0 (default: all that follow the warm-up)"
    )
    label_smoothing: float = option(0.1, "label smoothing, over all classes")
    grad_clip_norm: float | None = option(None, "clip the global gradient norm")


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how to train, what is recomputed, and how the best epoch is chosen."""

    epochs: int = option(40, "epochs to train in all")
    max_steps: int | None = option(None, "end after so many optimiser steps, if the epochs have not ended before")
    objectives: dict = option(
        {},
        "what is learned, by weights: {translation: 1, gloss_ctc: 0.5, contrastive: 0.1}; glosses by the column "
        "`gloss` of the metadata; contrastive, alone too, brings videos near their texts (default: translation alone)",
    )
    teacher: str | None = option(
        None, "checkpoint whose expectations are learned (.pt, Orbax folder or work-dir), by objectives.distillation"
    )
    ema: float | None = option(
        None, "keep a moving average of the weights, of so much at each step: 0.999; validation and best.pt use it"
    )
    keep_epochs: int = option(0, "keep the weights of so many last epochs as epoch-N.pt, for slt-average")
    grad_accum_steps: int = option(1, "micro-batches per optimiser step")
    sharding: str = option("replicated", "parameters and optimiser state: replicated, or fsdp (split over devices)")
    remat: str = option(
        "auto", "what the backward pass computes again: none, block, stream, or auto: the least that fits the memory"
    )
    frame_chunk: int | None = option(None, "frames that a backbone sees at a time, on each device (default: all)")
    model_parallel: int = option(1, "devices that share the matrices of the decoder and the temporal encoder")
    compile: bool = option(False, "torch only; JAX always compiles")
    compile_mode: str | None = option(None, "torch only; has no effect here")
    init_checkpoint: str | None = option(None, "start from these weights (.pt, .safetensors, Orbax folder or work-dir)")
    eval_bleu_every: int = option(0, "epochs between scores of real translations by BLEU and chrF (0: never)")
    eval_bleu_clips: int = option(64, "validation clips that are translated for these scores")
    bleu_tokenize: str = option(
        "auto", "sacrebleu's tokeniser for BLEU: auto (13a, or one for texts without spaces), 13a, zh, char, ..."
    )
    best_metric: str = option("loss", "what best.pt is chosen by: loss, bleu or chrf of the validation split")
    early_stop_patience: int | None = option(None, "stop after so many evaluations in a row without a new best")


@dataclass(frozen=True)
class Config:
    """All four sections."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_dict(self) -> dict:
        """Plain JSON types, as written to `config.json` and into checkpoints."""
        return dataclasses.asdict(self)


SECTIONS = {name: type(section) for name, section in vars(Config()).items()}


def load_config(
    file: str | Path | None, flags: Mapping[str, Mapping], settings: list[str]
) -> tuple[Config, dict[str, dict]]:
    """Defaults, then `file`, then `flags` ({section: {key: value}}), then `settings` ("a.b=VALUE"); later wins.

    Returns the configuration and what it was merged from, without the defaults.

    Raises UserError for an unreadable file, an unknown key or a value of the wrong kind.
    """
    merged = read_config_file(file) if file else {}
    for section, values in flags.items():
        merged.setdefault(section, {}).update(values)
    for setting in settings:
        apply_setting(merged, setting)
    merged = {name: with_home(name, v) if isinstance(v, Mapping) else v for name, v in merged.items()}
    return build_config(merged), merged


def build_config(tree: Mapping[str, Mapping]) -> Config:
    """A `Config` from nested mappings, every key and value checked."""
    for name in tree:
        if name not in SECTIONS:
            if later := later_v9(str(name)):
                raise UserError(f"configuration section {shown(name)} {later}")
            raise UserError(f"unknown configuration section {shown(name)}{nearest(str(name), SECTIONS)}")
    config = Config(**{name: build_section(name, tree.get(name) or {}) for name in SECTIONS})
    longest = config.model.sequence_length
    if config.data.buckets and max(config.data.buckets) > longest:
        raise UserError(
            f"data.buckets: {max(config.data.buckets)} is more than model.sequence_length {longest}, the most frames "
            f"a clip shows; leave it out"
        )
    if config.model.streams:
        check_streams_fit(config.data, config.model)
    check_objectives_fit(config.data, config.training)
    return config


def build_section(name: str, values: Mapping) -> Any:
    """One section dataclass ("data", "model", ...) from a mapping, every key and value checked."""
    section = SECTIONS[name]
    if not isinstance(values, Mapping):
        raise UserError(f"configuration section '{name}' must be a mapping, not {type(values).__name__}")
    hints, values = typing.get_type_hints(section), with_new_names(name, values)
    for key in values:
        if key not in hints:
            if later := later_v9(str(key)):
                raise UserError(f"configuration key '{name}.{key}' {later}")
            raise UserError(f"unknown configuration key '{name}.{shortened(str(key), 60)}'{nearest(str(key), hints)}")
    values = with_home(name, values)
    checked = section(**{key: coerce(f"{name}.{key}", value, hints[key]) for key, value in values.items()})
    if name == "data" and checked.mix_streams:
        pairs = (parse_mix_stream(f"{stream}:{p}") for stream, p in checked.mix_streams.items())
        checked = dataclasses.replace(checked, mix_streams=dict(pairs))
    if name == "data" and checked.tensorboard == "":
        checked = dataclasses.replace(checked, tensorboard=checked.work_dir or "")
    if name == "optim":
        checked = dataclasses.replace(checked, optimizer=checked.optimizer.lower())  # as v9 does
    if name == "model" and checked.streams is not None:
        checked = dataclasses.replace(checked, streams=parse_streams(checked.streams))
    check_values(name, checked)
    return checked


def read_config_file(path: str | Path) -> dict:
    """The mapping in a YAML or JSON file."""
    from slt_jax.base.yaml_text import read_yaml  # PyYAML would be a third of the time of `import slt_jax`

    tree = read_yaml(path, "--config")
    if not isinstance(tree or {}, dict):
        raise UserError(f"--config {path}: must hold the sections {', '.join(SECTIONS)}")
    for section, values in (tree or {}).items():
        if values is not None and not isinstance(values, dict):
            if later := later_v9(str(section)):
                raise UserError(f"--config {path}: section {shown(section)} {later}")
            raise UserError(f"--config {path}: section {shown(section)} must be a mapping")
    return {section: with_new_names(section, values or {}) for section, values in (tree or {}).items()}


def with_new_names(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a section by today's names of their keys. A value by today's name wins."""
    earlier = RENAMED.get(section, {})
    today = {earlier[key]: value for key, value in values.items() if key in earlier}
    return today | {key: value for key, value in values.items() if key not in earlier}


def apply_setting(tree: dict, setting: str) -> None:
    """Put "a.b=VALUE" into nested mappings; VALUE is JSON or text."""
    key, separator, text = setting.partition("=")
    parts = key.strip().split(".")
    if not separator or len(parts) < 2:
        if later := later_v9(parts[0]):
            raise UserError(f"--set {shortened(parts[0])}: {later}")
        raise UserError(f"--set {shortened(setting)}: expected SECTION.KEY=VALUE, for example optim.lr=0.0003")
    value = setting_value(key, text)
    if len(parts) > DEEPEST:
        raise UserError(f"--set {shortened(key)}: has {len(parts)} parts; a key has at most {DEEPEST}")
    parts[1] = RENAMED.get(parts[0], {}).get(parts[1], parts[1])
    for part in parts[:-1]:
        child = tree.get(part)
        tree[part] = dict(child) if isinstance(child, Mapping) else {}
        tree = tree[part]
    tree[parts[-1]] = value


def setting_value(key: str, text: str) -> Any:
    """The value in `--set KEY=TEXT`: JSON, else the text. Raises UserError for JSON that no setting holds."""
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return text
    except UserError as error:
        raise UserError(f"--set {shortened(key)}: {error}") from None


def coerce(key: str, value: Any, hint: Any) -> Any:
    """`value` as one of the kinds in `hint`; numbers may come as text, since YAML reads 1e-3 as a string.

    Raises UserError that names `key`.
    """
    check_plain(key, value)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if type(value) in kinds:
        return dict(value) if isinstance(value, dict) else value
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Mapping) and dict in kinds:
        return dict(value)
    for kind in (int, float):
        if kind in kinds and isinstance(value, str):
            try:
                return kind(value)
            except ValueError:
                continue
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
    if isinstance(value, bool) and str in kinds:
        names += " (in quotes where it is yes, no, on or off)"
    raise UserError(f"{key} must be {names}, not {shown(value)}")
