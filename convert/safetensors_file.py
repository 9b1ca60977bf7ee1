"""Write `.safetensors` files: the length of a JSON header, the header, then the tensors' bytes one after the other."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

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
TIES = "tied"  # the metadata entry: a JSON object of the names left out and the names that hold their tensors
CHUNK = 1 << 24


def write_safetensors(
    path: str | Path,
    state: Mapping[str, np.ndarray],
    ties: Mapping[str, str],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write `state` without the names in `ties`, which the format does not allow twice: its metadata tells them."""
    tensors = {key: array for key, array in state.items() if key not in ties}
    header: dict = {"__metadata__": {"format": "pt", TIES: json.dumps(dict(ties))}}
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
    try:
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            ties = parse_json(parse_json(file.read(length).decode())["__metadata__"][TIES])
            return {str(key): str(value) for key, value in ties.items()}
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, struct.error):
        return {}
