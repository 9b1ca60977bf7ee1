"""A `PretrainConfig` from a file, flags and `--set`, with every key and value checked."""

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from slt_jax.base.yaml_text import LARGEST, read_yaml
from slt_jax.config import coerce, setting_value
from slt_jax.config_rules import CHOICES as TRAINING_CHOICES
from slt_jax.config_rules import path_with_home
from slt_jax.errors import UserError, nearest, shortened, shown
from slt_jax.pretraining.settings import PretrainConfig

IN_FILES = ("dataset", "augmentation", "checkpointing", "experiment")  # sections of v9's files
CHOICES = {
    "stream": ("face", "hand_l", "hand_r", "hands"),
    "algorithm": ("dino", "ibot"),
    "centering": ("centering", "sinkhorn_knopp"),
    "precision": TRAINING_CHOICES["data.precision"],
    "sharding": TRAINING_CHOICES["training.sharding"],
    "remat": ("none", "block"),
}
PATHS = ("train_dir", "output_dir", "export_backbone", "tensorboard", "knn_index", "knn_images")
AT_LEAST_ONE = (
    "epochs", "grad_accum_steps", "log_interval", "knn_k", "knn_every", "batch_size", "stride", "image_size",
    "local_crop_size", "out_dim", "patch_out_dim", "head_hidden_dim", "head_bottleneck_dim", "head_nlayers",
)  # fmt: skip
POSITIVE = ("student_temp", "teacher_temp", "warmup_teacher_temp", "learning_rate", "layerwise_decay")
FRACTIONS = (
    "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob", "solarize_prob", "hflip_prob", "patch_mask_ratio",
    "mask_sample_probability", "center_momentum", "teacher_momentum_base", "teacher_momentum_final",
)  # fmt: skip
SHARES = ("global_crop_scale", "local_crop_scale", "mask_ratio_min_max")  # least and greatest
TRIPLES = ("mean", "std")
MOST = 10**9


@dataclasses.dataclass(frozen=True)
class Place:
    """A key: its section and field, its flag, and the kind of its values."""

    section: str
    field: dataclasses.Field
    flag: str
    kind: Any

    @property
    def top(self) -> str:
        """Its name at the top level of a file."""
        return self.flag.removeprefix("--").removeprefix("no-").replace("-", "_")


@cache
def places() -> tuple[Place, ...]:
    """Every key, in order."""
    found = []
    for section in dataclasses.fields(PretrainConfig):
        kind = typing.get_type_hints(PretrainConfig)[section.name]
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            flag = field.metadata["flag"] or "--" + field.name.replace("_", "-")
            found.append(Place(section.name, field, flag, hints[field.name]))
    return tuple(found)


def load(
    file: str | Path | None, flags: Mapping[str, Any], settings: Sequence[str], *, planned: bool = False
) -> tuple[PretrainConfig, dict]:
    """Defaults, then `file`, then `flags` (by names at the top level), then `settings` ("key=VALUE"); later wins.

    Returns the configuration, and what was asked for, as a file would say it. What is only `planned` needs no crops.
    Raises UserError that names the file, the flag or the key.
    """
    merged: dict[str, dict[str, Any]] = {}
    for source in (_from_file(file) if file else {}, flags, _from_settings(settings)):
        for name, value in source.items():
            place, value = _place(name, value)
            merged.setdefault(place.section, {})[place.field.name] = _coerced(name, value, place)
    sections = {
        field.name: typing.get_type_hints(PretrainConfig)[field.name](**merged.get(field.name, {}))
        for field in dataclasses.fields(PretrainConfig)
    }
    config = PretrainConfig(**sections)
    _check(config)
    if not (config.run.train_dir or planned):
        raise UserError("--train-dir is not given (nor train_dir in the configuration)")
    if config.run.tensorboard == "":
        run = dataclasses.replace(config.run, tensorboard=config.run.output_dir)
        config = dataclasses.replace(config, run=run)
    return config, _as_in_files(merged)


def _as_in_files(merged: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Values by section and field, laid out so that `load` reads them as a file."""
    tree: dict[str, Any] = {}
    for place in places():
        section = merged.get(place.section, {})
        if place.field.name in section:
            inner = tree.setdefault(place.section, {}) if place.section in IN_FILES else tree
            inner[place.field.name if place.section in IN_FILES else place.top] = section[place.field.name]
    return tree


def _place(name: str, value: Any) -> tuple[Place, Any]:
    """The place of a name: `key` at the top level, or `section.key`."""
    if name == "no_dataset_shuffle":
        name, value = "dataset.shuffle", not value
    section, dot, key = name.partition(".")
    for place in places():
        if (place.section == section and place.field.name == key) if dot else name in _names(place):
            return place, value
    known = [f"{place.section}.{place.field.name}" for place in places()] if dot else [p.top for p in places()]
    raise UserError(f"unknown configuration key '{shortened(name)}'{nearest(name, known)}")


def _coerced(name: str, value: Any, place: Place) -> Any:
    """`value` as the kind of its key, with the home folder for `~`. Lists are tuples, which can be compiled in."""
    several = place.kind is tuple
    found = tuple(coerce(name, value, list)) if several else coerce(name, value, place.kind)
    if place.field.name not in PATHS:
        return found
    return tuple(path_with_home(name, path) for path in found) if several else path_with_home(name, found)


def _names(place: Place) -> tuple[str, ...]:
    """What a key is called at the top level."""
    plain = () if place.section in IN_FILES or place.section == "vit" else (place.field.name,)
    same = (place.field.name,) if place.field.name in ("batch_size", "num_workers", "patch_size") else ()
    return (place.top, *plain, *same)


def _from_file(path: str | Path) -> dict[str, Any]:
    """The values of a file by `key` or `section.key`."""
    tree = _read_toml(Path(path)) if Path(path).suffix.lower() == ".toml" else read_yaml(path, "--config")
    if not isinstance(tree or {}, dict):
        raise UserError(f"--config {path}: must hold keys and values")
    values: dict[str, Any] = {}
    for name, value in (tree or {}).items():
        if name in IN_FILES:
            if not isinstance(value or {}, Mapping):
                raise UserError(f"--config {path}: section {name} must be a mapping, not {shown(value)}")
            values |= {f"{name}.{key}": inner for key, inner in (value or {}).items()}
        else:
            values[str(name)] = value
    return values


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with open(path.expanduser(), "rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(f"--config {path}: is larger than {LARGEST >> 10} kB; a configuration is not")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--config {path}: is not TOML ({shortened(str(error), 120)})") from None


def _from_settings(settings: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key.strip():
            raise UserError(f"--set {shortened(setting)}: expected KEY=VALUE, for example learning_rate=0.0003")
        values[key.strip()] = setting_value(key, text)
    return values


def _check(config: PretrainConfig) -> None:
    """Raise UserError that names the flag of a value that cannot be."""
    for place in places():
        value, flag, name = getattr(getattr(config, place.section), place.field.name), place.flag, place.field.name
        if value is None:
            continue
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{flag} {shown(value)}: use {', '.join(CHOICES[name])}{nearest(value, CHOICES[name])}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(flag, name, value)
        if name in SHARES:
            _numbers(flag, value, 2)
            if not 0 < value[0] <= value[1] <= 1:
                raise UserError(f"{flag} {shown(value)}: needs two shares from above 0 to 1, the smaller one first")
        if name in TRIPLES:
            _numbers(flag, value, 3)
            if name == "std" and min(value) <= 0:
                raise UserError(f"{flag} {shown(value)}: divides by 0; use three numbers above 0")
        if name in ("train_dir", "tags") and not all(isinstance(item, str) for item in value):
            raise UserError(f"{flag} {shown(value)}: must be texts")
    if config.optim.drop_path_rate >= 1:
        raise UserError(f"--drop-path-rate {config.optim.drop_path_rate}: must be below 1")


def _check_number(flag: str, name: str, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"{flag} {value}: is no finite number")
    if value > MOST and name != "seed":
        raise UserError(f"{flag} {shown(value)}: is too large")
    if value < 1 and name in AT_LEAST_ONE:
        raise UserError(f"{flag} {value}: must be at least 1")
    if value <= 0 and name in POSITIVE:
        raise UserError(f"{flag} {value}: must be above 0")
    if value < 0 or (name == "seed" and value >= 2**63):
        raise UserError(f"{flag} {value}: must be from 0{' to 2**63 - 1' if name == 'seed' else ''}")
    if value > 1 and name in FRACTIONS:
        raise UserError(f"{flag} {value}: must be from 0 to 1")


def _numbers(flag: str, value: Sequence[Any], count: int) -> None:
    numbers = [item for item in value if isinstance(item, int | float) and not isinstance(item, bool)]
    if len(value) != count or len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UserError(f"{flag} {shown(value)}: needs {count} numbers")
