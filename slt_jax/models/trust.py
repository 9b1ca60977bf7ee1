"""Whose classes may be imported: those that the user names himself, never those that a file names.

Importing a module runs it. So a class of `package.module:Class` that a checkpoint names is imported only if the user
gave the same name for this run, or said that he trusts the file.
"""

from collections.abc import Collection, Mapping
from typing import Any

from slt_jax.config import ModelConfig
from slt_jax.errors import UserError, shown
from slt_jax.models.backbones import custom_class
from slt_jax.streams import IMAGES

# Of whom classes are imported from: True for every file, or the names that the user gave; False for nobody.
Trust = bool | Collection[str]

OWN = "slt_jax.models."  # what is installed anyway


def named_classes(settings: ModelConfig | Mapping[str, Any] | None) -> dict[str, str]:
    """{key: `package.module:Class`} of the classes that the settings of a model name."""
    model = vars(settings) if isinstance(settings, ModelConfig) else settings or {}
    named = {stream.backbone_key: custom_class(model.get(stream.backbone_key)) for stream in IMAGES}
    named["decoder_class"] = model.get("decoder_class")
    return {key: str(name) for key, name in named.items() if name}


def recorded_classes(record: Mapping[str, Any]) -> dict[str, str]:
    """The same of the record that is kept with saved weights (`Blueprint.record`)."""
    backbones, decoder = record.get("backbones"), record.get("decoder")
    named = {
        stream.backbone_key: sizes.get("name")
        for stream, sizes in zip(IMAGES, backbones if isinstance(backbones, list) else (), strict=False)
        if isinstance(sizes, Mapping)
    }
    named["decoder_class"] = decoder.get("decoder_class") if isinstance(decoder, Mapping) else None
    return {key: str(name) for key, name in named.items() if name}


def trusting(settings: ModelConfig | Mapping[str, Any] | None, trust: Trust = False) -> Trust:
    """`trust`, and in the classes that the user's own `settings` of the model name."""
    return trust is True or {*(trust or ()), *named_classes(settings).values()}


def check_trusted(named: Mapping[str, str], trust: Trust, where: object) -> None:
    """Raise UserError, before anything is imported, for a class `named` in the file `where` but not in `trust`."""
    if trust is True:
        return
    for key, name in named.items():
        if not (name in (trust or ()) or name.startswith(OWN)):
            raise UserError(
                f"{where}: its model.{key} is the class {shown(name)}, and importing it would run code that the file "
                f"chooses; if you know it, name it yourself (model.{key}) or add --trust-classes (in Python "
                f"trust_classes=True)"
            )
