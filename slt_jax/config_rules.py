"""What the values of a configuration may be: choices, bounds, and what excludes what."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

from slt_jax.adapter_settings import Lora
from slt_jax.base.json_text import DEEPEST
from slt_jax.errors import UserError, divisors, nearest, shown
from slt_jax.streams import IMAGES, STREAMS, streams_of

UNITS = ("epoch", "step")  # that a schedule may count
BY_STEP = ("linear", "inverse_sqrt")  # schedules that count nothing but steps
CHOICES = {
    "data.precision": ("amp", "fp16", "fp32", "float32"),
    "optim.optimizer": (
        "adamw",
        "adam",
        "sgd",
        "rmsprop",
        "adagrad",
        "adamax",
        "adadelta",
        "nadam",
        "radam",
        "adafactor",
        "lion",
    ),
    "training.remat": ("auto", "none", "block", "stream"),
    "optim.scheduler": ("none", "steplr", "cosine", "linear", "inverse_sqrt"),
    "training.sharding": ("replicated", "fsdp"),
    "training.best_metric": ("loss", "bleu", "chrf"),
    "training.bleu_tokenize": (
        "auto",
        "13a",
        "intl",
        "zh",
        "ja-mecab",
        "ko-mecab",
        "char",
        "flores101",
        "flores200",
        "spBLEU-1K",
        "spm",
        "none",
    ),
}
# The keys of data.augmentation: (bounds of its values, whether it is a range of two).
AUGMENTATION = {
    "crop_scale": (0.05, 1.0, True),  # area of a clip's box in the picture
    "color": (0.0, 1.0, False),  # the most that brightness, contrast and saturation change
    "speed": (0.25, 4.0, True),  # of playing
    "drop_frames": (0.0, 0.9, False),  # probability of leaving out a frame
    "cut_end": (0.0, 1.0, False),  # probability of leaving out the end of a clip, as a stream has not seen it yet
    "drop_hands": (0.0, 1.0, False),  # probability of hiding one hand of a clip
    "jitter_pose": (0.0, 1.0, False),  # deviation of landmarks, in the unit of the poses
}
OBJECTIVES = ("translation", "gloss_ctc", "contrastive", "distillation")
DECODED = ("translation", "distillation")  # those that train the decoder
PROJECTORS = ("auto", "mlp", "identity")
AT_LEAST_ONE = {
    "data": ("batch_size", "val_batch_size", "max_target_length"),
    "model": ("image_size", "projector_dim", "d_model", "pose_landmarks", "sequence_length", "temporal_nhead",
              "temporal_layers", "temporal_dim_feedforward", "decoder_layers", "decoder_heads", "vocab_size"),
    "optim": ("scheduler_step_size", "scheduler_tmax"),
    "training": ("epochs", "max_steps", "grad_accum_steps", "frame_chunk", "model_parallel", "eval_bleu_clips",
                 "early_stop_patience"),
}  # fmt: skip
NOT_NEGATIVE = {
    "data": ("num_workers", "seed"),
    "model": (),
    "optim": ("lr", "lr_backbone", "lr_encoder", "lr_decoder", "weight_decay", "momentum", "warmup_steps"),
    "training": ("eval_bleu_every", "keep_epochs"),
}
FRACTIONS = {
    "data": ("flip_probability", "keep_decoded"),
    "model": ("projector_dropout", "fusion_dropout", "temporal_dropout", "decoder_dropout"),
    "optim": ("label_smoothing",),
    "training": ("ema",),
}


# Far above what anybody trains, and far below what would fill a machine before the first step says so.
AT_MOST = {
    "data": {"batch_size": 10**6, "val_batch_size": 10**6, "max_target_length": 10**5, "num_workers": 4096,
             "seed": 2**63 - 1},
    "model": {"image_size": 16384, "projector_dim": 65536, "d_model": 65536, "pose_landmarks": 10**4,
              "sequence_length": 10**5, "temporal_nhead": 4096, "temporal_layers": 1000,
              "temporal_dim_feedforward": 2**20, "decoder_layers": 1000, "decoder_heads": 4096, "vocab_size": 10**7,
              "pad_token_id": 2**31 - 1, "eos_token_id": 2**31 - 1},
    "optim": {"scheduler_step_size": 10**9, "scheduler_tmax": 10**9, "warmup_steps": 10**9},
    "training": {"epochs": 10**9, "max_steps": 10**9, "keep_epochs": 10**9, "grad_accum_steps": 10**6,
                 "frame_chunk": 10**9, "model_parallel": 10**6, "eval_bleu_every": 10**9, "eval_bleu_clips": 10**9,
                 "early_stop_patience": 10**9},
}  # fmt: skip
PATHS = {
    "data": (*(stream.folder_key for stream in STREAMS), "packs", "metadata_csv", "train_index", "val_index",
             "work_dir", "tensorboard", "tokenizer", "feature_cache"),
    "model": ("decoder_model", "decoder_config"),
    "training": ("init_checkpoint", "teacher"),
}  # fmt: skip


def with_home(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of section `name` with the home folder for a `~` that begins a path, as in a shell."""
    paths = (key for key in PATHS.get(name, ()) if key in values)
    return {**values, **{key: path_with_home(f"{name}.{key}", values[key]) for key in paths}}


def path_with_home(key: str, path: Any) -> Any:
    """The path with the home folder for a `~` that begins it; what is no text stays. Raises UserError naming `key`."""
    if not isinstance(path, str) or not path.startswith("~") or "\0" in path:  # which `check_plain` refuses
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UserError(f"{key}: {shown(path)} names no user's home; write ./~ for a name that begins so")
    return expanded


def check_plain(key: str, value: Any) -> None:
    """Refuse what no setting holds, however deep inside of `value`: endless numbers and nesting, broken text."""
    level = [value]
    for depth in range(DEEPEST + 1):
        for part in level:
            if isinstance(part, int) and part.bit_length() > 63:
                raise UserError(f"{key}: {shown(part, 40)} is too large; a whole number has at most 63 bits")
            if isinstance(part, float) and depth and not math.isfinite(part):
                raise UserError(f"{key} must hold finite numbers, not {part!r}")
            if isinstance(part, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in part):
                raise UserError(f"{key}: {shown(part)} has characters that no text or file name can hold")
        inner = [part for part in level if isinstance(part, Mapping | list | tuple)]
        if not inner:
            return
        level = [x for part in inner for x in ((*part.keys(), *part.values()) if isinstance(part, Mapping) else part)]
    raise UserError(f"{key} is nested more than {DEEPEST} deep")


def check_values(name: str, section: Any) -> None:
    """Check the values of one section, whose kinds are right. Raises UserError that names the key."""
    for key, choices in CHOICES.items():
        where, _, attribute = key.partition(".")
        if where == name and getattr(section, attribute) not in choices:
            value = getattr(section, attribute)
            wrong = f"{shown(value)}{nearest(str(value), choices, listed=False)}"
            raise UserError(f"{key} must be one of {', '.join(choices)}, not {wrong}")
    for part in dataclasses.fields(section):
        value = getattr(section, part.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}.{part.name} must be a finite number, not {value!r}")
    for rule, allowed, text in (
        (AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (FRACTIONS, lambda value: 0.0 <= value < 1.0 or (value == 1.0 and name == "data"), "between 0 and 1"),
    ):
        for attribute in rule[name]:
            value = getattr(section, attribute)
            if value is not None and not allowed(value):
                raise UserError(f"{name}.{attribute} must be {text}, not {value!r}")
    for attribute, most in AT_MOST[name].items():
        value = getattr(section, attribute)
        if value is not None and value > most:
            raise UserError(f"{name}.{attribute} must be at most {most}, not {shown(value, 40)}")
    if name == "data":
        _check_augmentation(section.augmentation)
    if name == "training":
        _check_objectives(section.objectives)
    if name == "optim":
        _check_optim(section)
    if name == "training" and section.best_metric != "loss" and not section.eval_bleu_every:
        raise UserError(f"--best-metric {section.best_metric} needs translations to score: give --eval-bleu-every 1")
    if name == "data" and any(type(length) is not int or length < 1 for length in section.buckets or ()):
        raise UserError(f"data.buckets must be whole numbers from 1 on, not {shown(section.buckets)}")
    if name == "model":
        _check_model(section)


def check_streams_fit(data: Any, model: Any) -> None:
    """Raise UserError for what is said of a stream that `model.streams` leaves out."""
    have = ", ".join(stream.key for stream in streams_of(model))
    for stream in STREAMS:
        if stream.name in model.streams:
            continue
        keys = (stream.backbone_key, stream.freeze_key) if stream.images else ()
        said = [f"model.{key}" for key in keys if getattr(model, key)]
        said += ["data.mix_streams"] if stream.name in data.mix_streams else []
        said += [f"model.projector.{stream.key}"] if stream.key in (model.projector or ()) and isinstance(
            model.projector, Mapping) else []  # fmt: skip
        if said:
            raise UserError(f"{said[0]}: the model has no stream of the {stream.title}, only {have} (model.streams)")
    if data.v9_hand_masks:
        raise UserError(f"data.v9_hand_masks: v9 knows no model with {have} alone (model.streams); leave it out")


def _check_augmentation(given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if key not in AUGMENTATION:
            raise UserError(f"data.augmentation: unknown key {shown(key)}{nearest(str(key), AUGMENTATION)}")
        least, most, ranges = AUGMENTATION[key]
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) != 1 + ranges or isinstance(value, list) != ranges or not all(
            type(number) in (int, float) and least <= number <= most for number in numbers
        ) or sorted(numbers) != numbers:  # fmt: skip
            what = f"[least, most] between {least:g} and {most:g}" if ranges else f"between {least:g} and {most:g}"
            raise UserError(f"data.augmentation.{key} must be {what}, not {shown(value)}")


def _check_objectives(given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if key not in OBJECTIVES:
            raise UserError(f"training.objectives: unknown objective {shown(key)}{nearest(str(key), OBJECTIVES)}")
        if type(value) not in (int, float) or not 0 <= value <= 1000:
            raise UserError(f"training.objectives.{key} must be a weight between 0 and 1000, not {shown(value)}")
    if given and not any(given.get(name) for name in (*DECODED, "contrastive")):
        raise UserError("training.objectives: translation has no weight; give it one, as {translation: 1, ...}")


def trains_decoder(objectives: Mapping[str, Any]) -> bool:
    """Whether `training.objectives` train the decoder."""
    return not objectives or any(objectives.get(name) for name in DECODED)


def check_objectives_fit(data: Any, training: Any) -> None:
    """Raise UserError for batches of one clip where clips are compared, and for scores of what is not learned."""
    if training.best_metric != "loss" and not trains_decoder(training.objectives):
        raise UserError(
            f"--best-metric {training.best_metric} needs translations to score, and training.objectives gives "
            f"translation no weight; use --best-metric loss"
        )
    if training.objectives.get("distillation") and not training.teacher:
        raise UserError("training.objectives.distillation needs a teacher: name a checkpoint with training.teacher")
    if training.teacher and not training.objectives.get("distillation"):
        raise UserError(
            f"training.teacher {shown(training.teacher)}: teaches nothing without a weight; add distillation to "
            f"training.objectives, as {{translation: 1, distillation: 1}}"
        )
    if not training.objectives.get("contrastive"):
        return
    for key, size in (("batch-size", data.batch_size), ("val-batch-size", data.val_batch_size)):
        if size == 1:
            raise UserError(
                f"training.objectives.contrastive compares the clips of a batch, and --{key} 1 leaves nothing to "
                f"compare with; use 2 or more"
            )


def by_step(optim: Any) -> bool:
    """Whether the schedule of section `optim` counts optimiser steps; else it counts epochs."""
    return (optim.scheduler_unit or ("step" if optim.scheduler in BY_STEP else "epoch")) == "step"


def _check_optim(optim: Any) -> None:
    if optim.grad_clip_norm is not None and optim.grad_clip_norm <= 0:
        raise UserError(f"optim.grad_clip_norm must be above 0, not {optim.grad_clip_norm!r}; leave it out for none")
    if optim.momentum and optim.optimizer not in ("sgd", "rmsprop"):
        raise UserError(f"optim.momentum {optim.momentum:g}: {optim.optimizer} has none; only sgd and rmsprop do")
    if optim.scheduler_unit not in (None, *UNITS):
        raise UserError(f"optim.scheduler_unit must be epoch or step, not {shown(optim.scheduler_unit)}")
    if optim.scheduler in BY_STEP and not by_step(optim):
        raise UserError(f"optim.scheduler_unit epoch: {optim.scheduler} counts steps; leave the unit out")
    if not 0 < optim.layer_decay <= 1:
        raise UserError(f"optim.layer_decay must be above 0 and at most 1, not {optim.layer_decay!r}")
    for key in ("lr_backbone", "lr_encoder", "lr_decoder"):
        if getattr(optim, key) and not optim.lr:
            raise UserError(f"optim.{key} {getattr(optim, key):g}: nothing moves while optim.lr is 0; give both")


def _check_model(model: Any) -> None:
    Lora.parse(model.lora)
    for heads in ("temporal_nhead", "decoder_heads"):
        built_elsewhere = heads == "decoder_heads" and (
            model.decoder_model or model.decoder_config or model.decoder_class
        )
        if not built_elsewhere and model.d_model % getattr(model, heads):
            raise UserError(
                f"model.d_model {model.d_model} is not divisible by model.{heads} {getattr(model, heads)}; it is by "
                f"{divisors(model.d_model, getattr(model, heads))}"
            )
    given, keys = model.projector, [stream.key for stream in IMAGES]
    streams = given if isinstance(given, dict) else {"face": given}
    for stream, kind in streams.items():
        if stream not in keys or kind not in PROJECTORS:
            raise UserError(
                f"model.projector must be one of {', '.join(PROJECTORS)}, or a mapping of {', '.join(keys)} "
                f"to these, not {shown(given)}{nearest(str(kind), PROJECTORS, listed=False)}"
            )
    if model.decoder_model and model.decoder_config:
        raise UserError("--decoder-model and --decoder-config exclude each other; give one")
    if model.decoder_class and (model.decoder_model or model.decoder_config):
        raise UserError("--decoder-class excludes --decoder-model and --decoder-config; give one")
