"""`verify A B`: compare two sets of weights tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convert.source import Source
from convert.state_dict import differences
from convert.target import Progress, adding_up
from slt_jax.streams import IMAGES

PREFIXES = (*(stream.backbone_prefix for stream in IMAGES), "encoder.", "decoder.model.")


@dataclass(frozen=True)
class TensorDifference:
    """How much one tensor differs."""

    key: str
    largest: float  # absolute; nan if only one of them has a number
    relative: float  # difference of the L2 norms

    def within(self, tolerance: float) -> bool:
        """Whether no number differs by more than `tolerance`; never for nan."""
        return self.largest <= tolerance  # false for nan


@dataclass(frozen=True)
class Comparison:
    """A comparison. `mismatches` is the +/- diff of keys and shapes; `prefix` was put before one side's keys."""

    tensors: list[TensorDifference]
    mismatches: list[str]
    prefix: str = ""

    def equal(self, tolerance: float) -> bool:
        """Whether all keys and shapes match and all tensors are within `tolerance`."""
        return not self.mismatches and all(tensor.within(tolerance) for tensor in self.tensors)


def compare(first: Source, second: Source, progress: Progress | None = None) -> Comparison:
    """Compare under torch's names without wrapper prefixes. A part of a model is compared with that part."""
    a, b = first.checkpoint.state, second.checkpoint.state
    a, b, prefix = _aligned(a, b)
    shapes = [{key: tuple(array.shape) for key, array in side.items()} for side in (a, b)]
    mismatches = [
        line.replace("(in the model, not in the file)", "(only in the first)")
        .replace("(in the file, not in the model)", "(only in the second)")
        .replace(" model [", " first [")
        .replace(", file [", ", second [")
        for line in differences(*shapes)
    ]
    shared = [key for key in a if key in b and a[key].shape == b[key].shape]
    compared = adding_up(progress, sum(a[key].nbytes for key in shared))
    tensors = []
    for key in shared:
        tensors.append(_difference(key, a[key], b[key]))
        if compared:
            compared(a[key].nbytes)
    return Comparison(tensors, mismatches, prefix)


def _aligned(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> tuple[dict, dict, str]:
    """Both state dicts. If no key is in both and one is a part of the other, only that part, under its names."""
    if not a.keys() & b.keys():
        for prefix in PREFIXES:
            if all(prefix + key in b for key in a):
                part = {key: array for key, array in b.items() if key.startswith(prefix)}
                return {prefix + key: array for key, array in a.items()}, part, prefix
            if all(prefix + key in a for key in b):
                part = {key: array for key, array in a.items() if key.startswith(prefix)}
                return part, {prefix + key: array for key, array in b.items()}, prefix
    return dict(a), dict(b), ""


def _difference(key: str, a: np.ndarray, b: np.ndarray) -> TensorDifference:
    if a.dtype == b.dtype and np.array_equal(a, b):
        return TensorDifference(key, 0.0, 0.0)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, a - b)
    norm = np.linalg.norm(np.nan_to_num(a))
    return TensorDifference(key, float(np.abs(gap).max(initial=0.0)), float(np.linalg.norm(gap) / (norm or 1.0)))
