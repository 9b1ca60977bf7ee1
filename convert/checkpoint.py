"""Read v9's checkpoint files into the parts that training and inference need.

A checkpoint is a dict with `model_state`, a dict with `state_dict`, or the state dict itself.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from convert.huggingface import has_own_head
from convert.infer import encoder_only, infer_fields, infer_vit, with_encoder_prefix, with_projector_index
from convert.pretrained import decoder_is_tied, plan_backbones
from convert.state_dict import Entry, StateDictMismatch, shorten, strip_prefixes, table, to_params
from convert.torch_file import read_pt
from slt_jax.adapter_settings import Lora
from slt_jax.config import ModelConfig, build_section
from slt_jax.errors import UserError, shortened
from slt_jax.models.backbones import BackboneSizes, CustomBackbone, backbone_width, stream_backbones
from slt_jax.models.decoders import decoder_settings
from slt_jax.models.families import PREFIX
from slt_jax.models.lora import add_adapters
from slt_jax.models.multistream import projects_by_identity
from slt_jax.models.params import Structure, describe, random_weights
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.translator import SignTranslator
from slt_jax.models.trust import Trust, check_trusted, named_classes, recorded_classes, trusting
from slt_jax.models.vit import REGISTER_RESIZE, ViTConfig
from slt_jax.streams import IMAGES, images_of

# Where v9's tools look for weights, and then for the settings that go with them.
STATES = ("model_state", "state_dict", "encoder_state")
SETTINGS = ("config", "encoder_config", "encoder_meta", "metadata")


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a `.pt` file: the state dict without wrapper prefixes, and everything beside it."""

    path: Path
    state: dict[str, np.ndarray]
    rest: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration it was trained with; empty if the file has none."""
        config = self.rest.get("config")
        return config if isinstance(config, dict) else {}

    @property
    def model_fields(self) -> dict[str, Any]:
        """What the file says about its model: the section `model` of its configuration, or fields at its top."""
        for name in SETTINGS:
            settings = self.rest.get(name)
            settings = settings.get("model", settings) if isinstance(settings, dict) else {}
            known = settings.keys() & ModelConfig.__dataclass_fields__.keys() if isinstance(settings, dict) else ()
            if known:
                return {key: settings[key] for key in settings if key in known}
        return {}

    @property
    def encoder_only(self) -> bool:
        """Whether there is no decoder in it."""
        return encoder_only(self.state)


@dataclass(frozen=True)
class Blueprint:
    """Everything that builds a model except its arrays; used by training, loading and conversion."""

    config: ModelConfig
    backbones: Mapping[str, BackboneSizes]  # of each image stream, by its name
    decoder: Mapping[str, Any] | None  # None: an encoder alone

    @classmethod
    def from_record(
        cls, config: ModelConfig, record: Mapping[str, Any], where: object = "architecture", trust: Trust = False
    ) -> "Blueprint":
        """The blueprint of the weights saved at `where`, from what `record` kept of it.

        Raises UserError for a record that is none, and for classes that are not in `trust`.
        """
        for named in (named_classes(config), recorded_classes(record)):
            check_trusted(named, trust, where)
        try:
            backbones = {
                stream.name: (CustomBackbone if "name" in sizes else ViTConfig)(**sizes)
                for stream, sizes in zip(images_of(config), record["backbones"], strict=True)
            }
            return cls(config, backbones, record["decoder"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: its entry 'architecture' is damaged ({shortened(str(error))})") from None

    def record(self) -> dict[str, Any]:
        """What the configuration leaves to the weight files that it names, as plain types kept with saved weights."""
        decoder = self.decoder
        if decoder is not None and "decoder_class" not in decoder:
            decoder = {key: value for key, value in decoder.items() if not isinstance(value, Mapping)}
        backbones = [dataclasses.asdict(self.backbones[stream.name]) for stream in images_of(self.config)]
        return {"backbones": backbones, "decoder": decoder}

    def check_resize(self, record: Any, where: str) -> None:
        """Raise UserError where weights saved with `record` saw positions resized otherwise than `model.backbone` says.

        `where` is the flag and the file that the weights come from.
        """
        saved = record.get("backbones") if isinstance(record, Mapping) and self.config.backbone is not None else None
        for stream, sizes in zip(images_of(self.config), saved or (), strict=False):
            mine = self.backbones[stream.name]
            other = [key for key in REGISTER_RESIZE if key in sizes and sizes[key] != getattr(mine, key)]
            if other:
                keys = " ".join(f"--set model.backbone.{key}={json.dumps(sizes[key])}" for key in other)
                raise UserError(f"{where}: its backbones resize their positions in another way; add {keys}")

    @property
    def vocabulary(self) -> int:
        """How many tokens the decoder knows; only for a model that has one."""
        assert self.decoder is not None
        return self.decoder.get("kwargs", self.decoder)["vocab_size"]

    @property
    def lora(self) -> Lora | None:
        """The adapters with which the model is trained; None without any."""
        return Lora.parse(self.config.lora)

    def build(
        self, *, dtype=jnp.float32, memory: Memory = KEEP_ALL, seed: int = 0, adapters: bool = False
    ) -> SignTranslator:
        """The model, with random weights from `seed`; with `adapters` as it is trained, where it has some.

        Raises UserError for adapters of layers that it does not have.
        """
        rngs = random_weights(seed)
        model = SignTranslator(self.config, self.backbones, self.decoder, dtype=dtype, memory=memory, rngs=rngs)
        if adapters and (lora := self.lora) is not None:
            add_adapters(model, lora, rngs)
        return model

    def structure(self, *, dtype=jnp.float32, memory: Memory = KEEP_ALL) -> tuple[Structure, list[Entry]]:
        """The structure without adapters and the torch table, without computing an array."""
        structure, leaves = describe(lambda: self.build(dtype=dtype, memory=memory))
        return structure, table(leaves)


def plan_model(config: ModelConfig) -> Blueprint:
    """The model that a configuration describes."""
    backbones = plan_backbones(config)
    for stream in images_of(config):
        sizes = backbones[stream.name]
        patch, width = getattr(sizes, "patch_size", 1), backbone_width(sizes)
        if config.image_size % patch:
            raise UserError(f"--image-size {config.image_size} is not a multiple of the patch size {patch}")
        if projects_by_identity(config, stream, width) and config.projector_dim != width:
            raise UserError(
                f"model.projector identity needs model.projector_dim {config.projector_dim} to equal the backbone's "
                f"width {width}; set --projector-dim {width}"
            )
    return Blueprint(config, backbones, decoder_settings(config, tie_word_embeddings=decoder_is_tied(config)))


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a `.pt` in any of v9's forms. Raises UserError (or its TorchFileError) with one line."""
    content = read_pt(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint or a state dict")
    for name in STATES:
        if isinstance(content.get(name), dict):
            rest = {key: value for key, value in content.items() if key != name}
            return Checkpoint(Path(path), _tensors(path, content[name]), rest)
    return Checkpoint(Path(path), _tensors(path, content), {})


def _tensors(path, state: Mapping) -> dict[str, np.ndarray]:
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    if not arrays or len(arrays) != len(state):
        raise UserError(f"{path}: has no state dict (none of {', '.join(STATES)}, nor tensors by name)")
    return with_encoder_prefix(strip_prefixes(arrays, Path(path)))


def blueprint(checkpoint: Checkpoint, model: ModelConfig | Mapping | None = None, *, trust: Trust = False) -> Blueprint:
    """The model in a checkpoint: from `model`, else from its own configuration; the rest is read off the weights.

    What none of them says has v9's default (weights do not tell the heads of the temporal encoder). Raises UserError if
    the sizes of a backbone cannot be told, and for a class that only the file names and that is not in `trust`.
    """
    trust = trusting(model, trust)
    if isinstance(model, ModelConfig):
        fields = dataclasses.asdict(model)
    else:
        fields = _override(checkpoint.model_fields, model or {})
    if not any(key.startswith("encoder.") for key in checkpoint.state):
        lines = ["- encoder.*  (in every v9 model, not in the file)"]
        lines += [f"+ {key} {list(array.shape)}  (in the file)" for key, array in checkpoint.state.items()]
        title = f"{checkpoint.path}: is not the state dict of a v9 model:"
        raise StateDictMismatch("\n  ".join([title, *shorten(lines)]))
    inferred = infer_fields(checkpoint.state)
    fields = inferred | {key: value for key, value in fields.items() if value is not None}
    if fields["projector"] == "auto":
        fields["projector"] = inferred["projector"]
    fields["decoder_config"] = _beside(checkpoint.path, fields.get("decoder_config"))
    config = build_section("model", fields)
    if model is None and isinstance(record := checkpoint.rest.get("architecture"), dict):
        return Blueprint.from_record(config, record, checkpoint.path, trust)
    check_trusted(named_classes(fields), trust, checkpoint.path)
    sizes = _backbone_sizes(config, checkpoint.state)
    if checkpoint.encoder_only:
        return Blueprint(config, sizes, None)
    decoder = {key.removeprefix(PREFIX): array for key, array in checkpoint.state.items() if key.startswith(PREFIX)}
    tied, given = not has_own_head(decoder), isinstance(model, ModelConfig) or "decoder_kwargs" in (model or {})
    return Blueprint(config, sizes, decoder_settings(config, tie_word_embeddings=tied, checked=given))


def _backbone_sizes(config: ModelConfig, state: Mapping[str, np.ndarray]) -> dict[str, BackboneSizes]:
    """The sizes in the configuration; those of the weights if it says nothing, or nothing that has a meaning here."""
    try:
        specs = stream_backbones(config)
    except UserError:
        specs = {}
    sizes = {}
    for stream in images_of(config):
        named = config.backbone is not None or getattr(config, stream.backbone_key) is not None
        known = specs[stream.name].sizes if specs and named else None
        sizes[stream.name] = known or infer_vit(state, stream)
    return sizes


def load_params(checkpoint: Checkpoint, entries: list[Entry]) -> dict[str, np.ndarray]:
    """The checkpoint's arrays by path. Strict: raises UserError with a +/- diff if it does not fit."""
    try:
        return to_params(with_projector_index(checkpoint.state, [entry.key for entry in entries]), entries)
    except UserError as error:
        raise type(error)(f"{checkpoint.path}: {error}") from None


def _override(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` with those `given` in their place, and without any that exclude them."""
    backbones = ("backbone", *(stream.backbone_key for stream in IMAGES))
    for group in (("decoder_model", "decoder_config", "decoder_class"), backbones):
        if any(given.get(key) is not None for key in group):
            fields = {key: value for key, value in fields.items() if key not in group}
    return {**fields, **given}


def _beside(path: Path, source):
    """Look for a relative `decoder_config` in the current folder, then beside the checkpoint."""
    if isinstance(source, str) and not Path(source).exists() and (path.parent / source).exists():
        return str(path.parent / source)
    return source
