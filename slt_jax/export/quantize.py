"""Weights and activations of matrix products in 8 bits, by onnxruntime's own quantiser."""

import logging
import os
from pathlib import Path

from slt_jax.errors import UserError


def quantize_file(source: Path, target: Path) -> None:
    """Write `source`, a float32 model, to `target` with its products in int8; each weight column has a scale.

    Weights take seven of the eight bits: without VNNI, x86 adds two products of 8 bits in 16, which eight overflow.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise UserError('--quantize needs the package onnxruntime: pip install "slt-jax[export]"') from None
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preparation that our graphs do not need
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        root.setLevel(level)
    for written in target.parent.glob(f"{target.name}*"):  # the model, and its weights where they are beside it
        with open(written, "rb") as file:
            os.fsync(file.fileno())
