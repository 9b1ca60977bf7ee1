"""Read the weights of HuggingFace folders without torch, and those of a seq2seq model under v9's names.

A folder holds `model.safetensors`, `pytorch_model.bin`, or either in shards with an index that says where each tensor
is. Arrays are memory-mapped; float16 and bfloat16 become float32 when they are used.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from convert.state_dict import Entry, strip_prefixes
from convert.torch_file import TorchFileError, read_pt
from slt_jax.base.files import open_regular
from slt_jax.base.json_text import parse_json, read_json
from slt_jax.data.ids import id_problem, shown_id
from slt_jax.errors import UserError
from slt_jax.models.families import FAMILIES, PREFIX, Family, family_with_layers

# In the order of preference of transformers.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "BOOL": np.bool_,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
MAX_HEADER = 32 << 20  # bytes, about 250,000 tensors: as Python objects a header takes 25 times as much
MAX_AXES = 64  # of a NumPy array


def is_folder_of_weights(path: str | Path) -> bool:
    """Whether `path` is a folder with one of the files of weights that HuggingFace writes."""
    return any((Path(path) / name).exists() for name in WEIGHT_FILES)


def read_folder(folder: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a HuggingFace folder by its key. Raises UserError if there is none or a shard is missing."""
    folder = Path(folder)
    name = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if name is None:
        raise UserError(f"{folder}: holds no weights ({', '.join(WEIGHT_FILES)})")
    if name.endswith(".index.json"):
        return _read_shards(folder / name)
    return _read_file(folder / name)


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    content = read_json(index, "weights")
    try:
        places = content["weight_map"]
        shards = sorted({os.fspath(name) for name in places.values()})
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: is not an index of weight files") from None
    tensors: dict[str, np.ndarray] = {}
    for shard in shards:
        if id_problem(shard):
            raise UserError(f"{index}: names a file outside its folder, or no file ({shown_id(shard)})")
        if not (index.parent / shard).exists():
            raise UserError(f"{index.parent / shard}: no such file, but {index.name} names it; download it as well")
        tensors |= _read_file(index.parent / shard)
    if missing := [key for key in places if key not in tensors]:
        raise UserError(f"{index}: {len(missing)} tensors are in none of its files, {missing[0]} among them")
    return tensors


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = read_pt(path)
    if not isinstance(content, Mapping) or not all(isinstance(value, np.ndarray) for value in content.values()):
        raise TorchFileError(f"{path}: is not a state dict")
    return dict(content)


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, memory-mapped read-only. Raises UserError for anything that is not one."""
    path = Path(path)
    try:
        with open_regular(path) as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise ValueError(f"the header is longer than the file, or than {MAX_HEADER >> 20} MB")
            header = parse_json(file.read(length).decode())
        data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
        header.pop("__metadata__", None)
        tensors = {key: _tensor(data, field, key) for key, field in header.items()}
        _check_overlap(header)
        return tensors
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is not a sound safetensors file ({str(error)[:200]})") from None


def _check_overlap(header: Mapping[str, Mapping]) -> None:
    """Two tensors on the same bytes are not allowed: a small file could otherwise stand for any number of numbers."""
    end = 0
    for start, stop in sorted(tuple(field["data_offsets"]) for field in header.values()):
        if start < end:
            raise ValueError("its tensors overlap")
        end = stop


def _tensor(data: np.ndarray, field: Mapping, key: str) -> np.ndarray:
    if field["dtype"] not in SAFETENSORS_DTYPES:
        raise ValueError(f"{key[:100]} has the unknown type {str(field['dtype'])[:40]}")
    dtype = np.dtype(SAFETENSORS_DTYPES[field["dtype"]])
    start, stop = field["data_offsets"]
    shape = tuple(int(n) for n in field["shape"][: MAX_AXES + 1])
    if len(shape) > MAX_AXES or any(n >= 1 << 63 for n in shape):
        raise ValueError(f"{key[:100]} has no shape that an array can have")
    count = math.prod(shape)
    if not 0 <= start <= stop <= len(data) or stop - start != count * dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"{key[:100]} does not lie inside the file")
    return data[start:stop].view(dtype).reshape(shape)


# --- sequence-to-sequence models ----------------------------------------------------------------------------------


def has_own_head(state: Mapping[str, np.ndarray]) -> bool:
    """Whether the output layer of a HuggingFace seq2seq state dict differs from its input embedding."""
    for family in FAMILIES.values():
        embedding = _embedding(state, family)
        if family.head in state and embedding is not None:
            return not np.array_equal(state[family.head], embedding)
    return False


def _embedding(state: Mapping[str, np.ndarray], family: Family) -> np.ndarray | None:
    """The input embedding. Every file has one of its names, even that of a bare model."""
    names = (start + name for name in family.embeddings for start in (family.base, ""))
    return next((state[name] for name in names if name in state), None)


def decoder_state(state: Mapping[str, np.ndarray], entries: list[Entry]) -> dict[str, np.ndarray]:
    """A HuggingFace seq2seq state dict as the `decoder.model.*` part of v9's.

    `entries` is the table of the model they are for. As in transformers, files of the bare model fit, missing names of
    tied tensors are completed, a missing bias of the logits is 0, and leftovers of old versions are ignored. What does
    not fit after that is left for `to_params` to report.
    """
    wanted = {entry.key.removeprefix(PREFIX): entry for entry in entries if entry.key.startswith(PREFIX)}
    state = strip_prefixes(state)
    if family := family_with_layers(wanted):
        state = _completed(state, wanted, family)
    return {PREFIX + key: array for key, array in state.items()}


def _completed(state: Mapping[str, np.ndarray], wanted: Mapping[str, Entry], family: Family) -> dict[str, np.ndarray]:
    state = {key: array for key, array in state.items() if key.removeprefix(family.base) not in family.leftovers}
    bare = [key for key in state if key != family.head]
    if not any(key in wanted for key in bare):
        if any(f"{family.base}{key}" in wanted for key in bare):
            state = {key if key in wanted else f"{family.base}{key}": array for key, array in state.items()}
        else:
            state = {key.removeprefix("model.").removeprefix("transformer."): array for key, array in state.items()}
    embedding = _embedding(state, family)
    for key, entry in wanted.items():
        if key in state:
            continue
        twin = next((other for other in wanted if other in state and wanted[other].path == entry.path), None)
        if twin is not None:
            state[key] = state[twin]
        elif key.removeprefix(family.base) in (*family.embeddings, family.head) and embedding is not None:
            state[key] = embedding
        elif key in family.zero_if_missing:
            state[key] = np.zeros(entry.shape, np.float32)
    return state
