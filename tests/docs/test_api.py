"""The API reference has every name that slt_jax and convert offer; `make docs` checks that what it names is there."""

from pathlib import Path

import pytest

import convert
import slt_jax

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", [f"{package.__name__}.{name}" for package in (slt_jax, convert) for name in package.__all__]
)
def test_a_public_name_is_in_the_reference(name):
    assert f"{{heading: {name}," in PAGE
