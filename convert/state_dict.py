"""The one table between torch's state dict and our arrays, used in both directions.

It is generated from the built module tree: attribute names are torch's, only the last part of a name and the layout
differ, and both follow from the kind of layer that holds the array.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import nnx

from slt_jax.errors import UserError
from slt_jax.models.params import Leaf

# Of DataParallel, torch.compile, FSDP and activation checkpointing.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
FLATTENED = ("_flat_param", "flat_param")  # FSDP's pieces of several tensors in one


class StateDictMismatch(UserError):
    """A state dict and a model differ; the message lists the differences as a two-sided diff."""


@dataclass(frozen=True)
class TorchLayout:
    """How an array is laid out here, seen from torch."""

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = TorchLayout(lambda a: a, lambda a: a)
LINEAR = TorchLayout(lambda a: a.T, lambda a: a.T)  # torch (out, in), here (in, out)
# torch (out, in, *window), here (*window, in, out), for windows of any number of dimensions.
CONV = TorchLayout(
    lambda a: a.transpose(*range(2, a.ndim), 1, 0), lambda a: a.transpose(a.ndim - 1, a.ndim - 2, *range(a.ndim - 2))
)

# Last part of the NNX name, and what torch calls it.
RENAMED = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
STATISTICS = {"mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Entry:
    """One torch key: the array it is, and how to turn one into the other."""

    key: str
    path: str
    shape: tuple[int, ...]  # in torch's layout
    layout: TorchLayout
    buffer: bool

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the array here, in the order of torch's."""
        marked = np.empty(range(2, 2 + len(self.shape)), dtype=bool)
        return tuple(size - 2 for size in self.layout.to_torch(marked).shape)


def table(leaves: list[Leaf]) -> list[Entry]:
    """Every torch key of a model in torch's order, from `params.describe`; tied keys share a path."""
    entries = []
    for leaf in leaves:
        stem, _, name = leaf.name.rpartition(".")
        layout = _layout(leaf.owner, name, len(leaf.shape))
        names = RENAMED | (STATISTICS if issubclass(leaf.owner, nnx.BatchNorm) else {})
        key = f"{stem}.{names.get(name, name)}".lstrip(".")
        shape = layout.to_torch(np.empty(leaf.shape, dtype=bool)).shape if layout is not SAME else leaf.shape
        entries.append(Entry(key, leaf.path, shape, layout, leaf.buffer))
    return entries


def _layout(owner: type, name: str, dimensions: int) -> TorchLayout:
    """How torch lays out an array of a layer of the kind `owner`; what torch has no like of stays as it is."""
    if name != "kernel":
        return SAME
    if issubclass(owner, nnx.Conv):
        return CONV
    return LINEAR if dimensions == 2 else SAME


def parameters(entries: list[Entry]) -> list[Entry]:
    """The entries of torch's `model.parameters()`, in its order: tied arrays once, no buffers."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        if not entry.buffer:
            seen.setdefault(entry.path, entry)
    return list(seen.values())


def to_params(state: Mapping[str, np.ndarray], entries: list[Entry], *, allow_missing=()) -> dict[str, np.ndarray]:
    """A torch state dict as `{path: array}` in our layouts, float32 where it is floating.

    Every key of the state and every entry must be used exactly once; keys that start with one of `allow_missing`
    may be absent. Raises StateDictMismatch with a +/- diff.
    """
    state = strip_prefixes(state)
    check(state, entries, allow_missing=allow_missing)
    params: dict[str, np.ndarray] = {}
    for entry in entries:
        if entry.key not in state:
            continue
        array = state[entry.key]
        if entry.path in params:
            if not _same(entry.layout.to_jax(array), params[entry.path]):
                raise StateDictMismatch(f"{entry.key} is tied to another tensor in the model but differs in the file")
            continue
        params[entry.path] = np.asarray(entry.layout.to_jax(array), np.float32, order="C")
    return params


def to_state(params: Mapping[str, np.ndarray], entries: list[Entry]) -> dict[str, np.ndarray]:
    """Our arrays as a torch state dict, tied keys sharing one array."""
    arrays = {}
    for entry in entries:
        if entry.path not in arrays:
            arrays[entry.path] = np.asarray(entry.layout.to_torch(np.asarray(params[entry.path])), order="C")
    return {entry.key: arrays[entry.path] for entry in entries}


def strip_prefixes(state: Mapping[str, np.ndarray], path: Path | None = None) -> dict[str, np.ndarray]:
    """Keys without the parts that wrappers of modules add, which may sit anywhere.

    Raises UserError, which names `path`, where FSDP has flattened tensors or two keys become one.
    """
    file = f"{path}: " if path else ""
    if flattened := [key for key in state if key.split(".")[-1].startswith(FLATTENED)]:
        raise UserError(
            f"{file}{flattened[0][:100]} is a piece that FSDP has flattened: gather the weights with "
            f"FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT) and save the state_dict() again"
        )
    plain = {".".join(part for part in key.split(".") if part not in WRAPPERS): array for key, array in state.items()}
    if len(plain) != len(state):
        parts = ", ".join(WRAPPERS)
        raise UserError(f"{file}has tensors whose names differ only in {parts}: save the state_dict() of one model")
    return plain


def check(state: Mapping[str, np.ndarray], entries: list[Entry], *, allow_missing=()) -> None:
    """Raise StateDictMismatch unless keys and shapes agree."""
    allowed = tuple(allow_missing)
    expected = {entry.key: entry.shape for entry in entries if entry.key in state or not entry.key.startswith(allowed)}
    lines = differences(expected, {key: tuple(array.shape) for key, array in state.items()})
    if lines:
        raise StateDictMismatch("\n  ".join(["the state dict does not fit the model:", *shorten(lines)]))


def differences(model: Mapping[str, tuple], file: Mapping[str, tuple]) -> list[str]:
    """The two-sided diff of two `{key: shape}`: `-` only in the model, `+` only in the file, `!` of another shape."""
    return [
        *(f"- {key} {list(shape)}  (in the model, not in the file)" for key, shape in model.items() if key not in file),
        *(
            f"! {key} model {list(shape)}, file {list(file[key])}"
            for key, shape in model.items()
            if key in file and file[key] != shape
        ),
        *(f"+ {key} {list(shape)}  (in the file, not in the model)" for key, shape in file.items() if key not in model),
    ]


def shorten(lines: list[str], most: int = 10) -> list[str]:
    """A diff with at most `most` lines of each kind, and how many more there are."""
    shown = []
    for sign in "-!+":
        of_kind = [line for line in lines if line.startswith(sign)]
        shown += of_kind[:most] + ([f"{sign} ... and {len(of_kind) - most} more"] if len(of_kind) > most else [])
    return shown


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32), equal_nan=True)
