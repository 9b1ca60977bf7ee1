"""Write `.safetensors` files: the length of a JSON header, the header, then the tensors' bytes one after the other."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.files import open_regular, replacing
from slt_jax.base.json_text import parse_json
from slt_jax.errors import UserError

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
# Entries of the metadata, each a JSON object: the names left out, with those that hold their tensors; and what builds
# the model, as in a `.pt`.
TIES, MODEL = "tied", "slt_jax"
CHUNK = 1 << 24


def write_safetensors(
    path: str | Path,
    state: Mapping[str, np.ndarray],
    ties: Mapping[str, str],
    progress: Callable[[int], None] | None = None,
    model: Mapping[str, Any] | None = None,
) -> None:
    """Write `state` without the names in `ties`, which the format does not allow twice: its metadata tells them.

    `model`, which JSON must be able to hold, comes into the metadata too.
    """
    tensors = {key: array for key, array in state.items() if key not in ties}
    metadata = {"format": "pt", TIES: json.dumps(dict(ties))} | ({MODEL: json.dumps(dict(model))} if model else {})
    header: dict = {"__metadata__": metadata}
    at = 0
    for key, array in tensors.items():
        if array.dtype.name not in DTYPES:
            raise UserError(f"{path}: {key} is {array.dtype.name}, which this format does not hold")
        offsets = [at, at + array.nbytes]
        header[key] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with replacing(path) as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for array in tensors.values():
                payload = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
                for start in range(0, payload.size, CHUNK):
                    file.write(payload[start : start + CHUNK].data)
                    if progress:
                        progress(min(CHUNK, payload.size - start))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_ties(path: str | Path) -> dict[str, str]:
    """The names that the file's metadata says are tied, with those that hold their tensors."""
    return {str(key): str(value) for key, value in _entry(path, TIES).items()}


def read_model(path: str | Path) -> dict[str, Any]:
    """What the file's metadata says of the model, as `write_safetensors` was given it."""
    return _entry(path, MODEL)


def _entry(path: str | Path, name: str) -> dict[str, Any]:
    """An entry of the metadata; empty where it is not there, or is not one of ours."""
    try:
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entry = parse_json(parse_json(file.read(length).decode())["__metadata__"][name])
    except (OSError, ValueError, OverflowError, KeyError, TypeError, struct.error):
        return {}
    return entry if isinstance(entry, dict) else {}
