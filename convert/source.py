"""A file that holds weights, opened: what it is, its tensors under torch's names, and what lies beside them.

Folders of training states are opened by `slt_jax.training.interchange`, which knows how training keeps them.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import STATES, Checkpoint
from convert.huggingface import is_folder_of_weights, read_folder, read_safetensors
from convert.infer import encoder_only, with_encoder_prefix
from convert.safetensors_file import read_model, read_ties
from convert.state_dict import strip_prefixes
from convert.torch_file import read_pt
from slt_jax.base.json_text import read_json
from slt_jax.errors import UserError
from slt_jax.models.families import FAMILIES

# Entries of training runs other than v9's.
OTHER_STATES = ("teacher", "model", "student")


@dataclass(frozen=True)
class Source:
    """`tensors` are named as in the file; `checkpoint` has the same ones without wrapper prefixes."""

    path: Path
    kind: str
    tensors: dict[str, np.ndarray]
    rest: dict[str, Any]

    @property
    def checkpoint(self) -> Checkpoint:
        """The source as a checkpoint, with the keys of a whole model."""
        return Checkpoint(self.path, with_encoder_prefix(strip_prefixes(self.tensors, self.path)), self.rest)

    @property
    def written_here(self) -> bool:
        """Whether slt_jax wrote it: v9 does not know this setting."""
        return "v9_hand_masks" in (self.checkpoint.config.get("data") or {})


def open_source(path: str | Path) -> Source:
    """Open a weight file, a HuggingFace folder, or a work-dir by its `best.pt` or `last.pt`.

    Raises UserError in one line where it is nothing that holds weights.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        return _open_file(path)
    for name in ("best.pt", "last.pt"):
        if (path / name).exists():
            source = _open_file(path / name)
            return dataclasses.replace(source, kind=f"work-dir of slt_jax or v9; its {name}: {source.kind}")
    if is_folder_of_weights(path):
        return Source(path, f"HuggingFace folder{_model_type(path)}", read_folder(path), {})
    raise UserError(
        f"{path}: is neither a work-dir (best.pt, last.pt, checkpoints/), nor a folder of saved states, nor a "
        f"HuggingFace folder (model.safetensors, pytorch_model.bin)"
    )


def _open_file(path: Path) -> Source:
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path)
        strip_prefixes(tensors, path)  # says what is wrong with the names
        tensors |= {key: tensors[held] for key, held in read_ties(path).items() if held in tensors}
        return Source(path, f"safetensors file: {_kind_of_state(tensors)}", tensors, read_model(path))
    content = read_pt(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint or a state dict")
    for name in (*STATES, *OTHER_STATES):
        if isinstance(content.get(name), Mapping) and (tensors := _arrays(content[name])):
            strip_prefixes(tensors, path)
            rest = {key: value for key, value in content.items() if key != name}
            source = Source(path, "", tensors, rest)
            by = "slt_jax" if source.written_here else "v9"
            kind = f"checkpoint written by {by}" if name == "model_state" else f"file with {name}"
            return dataclasses.replace(source, kind=f"{kind}: {_kind_of_state(tensors)}")
    if tensors := _arrays(content):
        strip_prefixes(tensors, path)
        return Source(path, f"bare state dict: {_kind_of_state(tensors)}", tensors, {})
    raise UserError(f"{path}: has no tensors by name in it, only {', '.join(map(str, list(content)[:8]))}")


def _arrays(content: Mapping) -> dict[str, np.ndarray]:
    return {key: value for key, value in content.items() if isinstance(value, np.ndarray)}


def _kind_of_state(tensors: Mapping[str, np.ndarray]) -> str:
    keys = with_encoder_prefix(strip_prefixes(tensors))
    if encoder_only(keys) and any(key.startswith("encoder.fusion.") for key in keys):
        return "encoder without a decoder"
    if any(key.startswith("encoder.fusion.") for key in keys):
        return "encoder and decoder"
    if any(key.endswith("cls_token") for key in keys):
        return "DINOv2 backbone"
    if any(key.endswith((family.head, *family.embeddings)) for key in keys for family in FAMILIES.values()):
        return "sequence-to-sequence decoder"
    return "tensors of an unknown model"


def _model_type(folder: Path) -> str:
    try:
        return f" of a {str(read_json(folder / 'config.json', 'model')['model_type'])[:40]} model"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def find_ties(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The names whose memory another name has had before, with that name."""
    first: dict[tuple, str] = {}
    ties = {}
    for key, array in tensors.items():
        held = first.setdefault(_memory(array), key)
        if held != key:
            ties[key] = held
    return ties


def cast(tensors: Mapping[str, np.ndarray], dtype: np.dtype | None) -> dict[str, np.ndarray]:
    """The floating tensors as `dtype`, tied ones still tied; None leaves all as they are."""
    if dtype is None:
        return dict(tensors)
    done: dict[tuple, np.ndarray] = {}
    for array in tensors.values():
        if _memory(array) not in done:
            done[_memory(array)] = array.astype(dtype) if _floating(array.dtype) else array
    return {key: done[_memory(array)] for key, array in tensors.items()}


def _floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float8"))


def _memory(array: np.ndarray) -> tuple:
    if not array.size:
        return (id(array),)
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str
