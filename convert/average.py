"""The average of several checkpoints of one model (Izmailov et al., 2018; Vaswani et al., 2017, section 6.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.source import Source, find_ties
from convert.target import Progress, adding_up, total_bytes
from convert.torch_file import write_pt
from slt_jax.errors import UserError

KEPT = ("epoch", "config", "architecture")  # of what lies beside the last one's weights


def average(sources: Sequence[Source], target: Path, *, progress: Progress | None = None) -> None:
    """Write the mean of the weights of `sources` as a `.pt`, without any state of training.

    Means are taken in float64 and written in the kind of the last source, whose whole numbers and settings are kept.
    Raises UserError, naming a tensor, where a source is of another model.
    """
    *others, last = sources
    for source in others:
        check_alike(source, last)
    ties = find_ties(last.tensors)

    def mean(key: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind in "iub":  # counts and masks
            return array
        total = np.zeros(array.shape)
        for source in sources:
            total += source.tensors[key]
        return (total / len(sources)).astype(array.dtype)

    means = {key: mean(key, array) for key, array in last.tensors.items() if key not in ties}
    state = {key: means[ties.get(key, key)] for key in last.tensors}
    rest: dict[str, Any] = {key: last.rest[key] for key in KEPT if key in last.rest}
    write_pt(target, {"epoch": 0, "model_state": state} | rest, progress=adding_up(progress, total_bytes(state)))


def check_alike(source: Source, other: Source) -> None:
    """Raise UserError, naming a tensor, where two sources are not of one model."""
    for key in sorted(source.tensors.keys() ^ other.tensors.keys()):
        has, lacks = (source, other) if key in source.tensors else (other, source)
        raise UserError(f"{has.path}: has {key}, which {lacks.path} has not; average checkpoints of one model")
    for key, array in source.tensors.items():
        if array.shape != other.tensors[key].shape:
            shapes = f"{list(array.shape)}, in {other.path} {list(other.tensors[key].shape)}"
            raise UserError(f"{source.path}: {key} has the shape {shapes}; average checkpoints of one model")
