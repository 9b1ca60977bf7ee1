"""Values that a `.pt` file is not to hold: refused before anything is written, and named with their place."""

from pathlib import Path

import ml_dtypes  # noqa: F401  (float8 by name)
import numpy as np
import pytest
import torch

from convert import TorchFileError, write_pt
from slt_jax.errors import UserError


class Lr(float):
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.float64(1.0), "numpy.float64.*item"),
        (np.bool_(True), "numpy.bool"),
        (np.str_("x"), "numpy.str_"),
        (Path("x"), "PosixPath"),
        (Lr(1.0), "Lr"),
        (frozenset([1]), "frozenset"),
        (np.array(["x"]), "ndarray.* of <U1"),
        (np.array([None]), "ndarray.* of object"),
        (np.zeros(2, "float8_e4m3"), "float8_e4m3"),
        (np.float32, "type"),
        (torch.zeros(1), "torch.Tensor"),
        (1 << 3000, "int"),
        ({frozenset(): 1}, "key of type frozenset"),
        ({np.int64(1): 1}, "key of type numpy.int64"),
        ({(1, (2, 3))}, "members"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refused_values_are_named_with_their_key(value, named, tmp_path):
    with pytest.raises(TypeError, match=rf"x\.pt: \['optim'\]\[0\]\['lr'\] .*{named}") as error:
        write_pt(tmp_path / "x.pt", {"optim": [{"lr": value}]})
    assert isinstance(error.value, TorchFileError)
    assert isinstance(error.value, UserError)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_loops_and_deep_nesting_are_refused(tmp_path):
    loop, deep = [1], []
    loop.append({"again": loop})
    for _ in range(100_000):
        deep = [deep]
    for obj in (loop, deep):
        with pytest.raises(TypeError, match="contains itself or is nested"):
            write_pt(tmp_path / "x.pt", obj)
