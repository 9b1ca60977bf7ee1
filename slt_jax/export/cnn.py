"""`slt_jax.models.cnn.SmallCNN` as ONNX."""

import numpy as np

from slt_jax.export.graph import Graph
from slt_jax.export.layers import linear
from slt_jax.models.backbones import CustomBackbone

NAME = "slt_jax.models.cnn:SmallCNN"


def is_small_cnn(sizes: CustomBackbone) -> bool:
    """Whether the backbone is `slt_jax.models.cnn:SmallCNN`."""
    return sizes.name == NAME


def cnn_features(g: Graph, images: str, prefix: str) -> str:
    """Images (N, 3, H, W) to features (N, embed_dim)."""
    x, number = images, 0
    while f"{prefix}stem.{number}.conv.weight" in g.state:
        x = _stage(g, x, f"{prefix}stem.{number}.")
        number += 1
    mean = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    return g.raised(linear(g, g.lowered(mean), f"{prefix}proj"))


def _stage(g: Graph, x: str, prefix: str) -> str:
    after, _, size, _ = g.state[f"{prefix}conv.weight"].shape
    x = g.raised(
        g.op(
            "Conv",
            g.lowered(x),
            g.matrix(f"{prefix}conv.weight"),
            g.matrix(f"{prefix}conv.bias"),
            strides=[size - 1] * 2,
            pads=[size // 2] * 4,
        )
    )
    groups = next(n for n in (8, 4, 2, 1) if after % n == 0)
    # Normalising within groups is normalising each group as one instance: opset 17 has no other word for it.
    ones, zeros = (
        g.made(f"{prefix}norm.{name}", np.full(groups, value, np.float32))
        for name, value in (("ones", 1), ("zeros", 0))
    )
    grouped = g.op("Reshape", x, g.integers(0, groups, -1))
    normed = g.op("Reshape", g.op("InstanceNormalization", grouped, ones, zeros, epsilon=1e-5), g.op("Shape", x))
    scale, shift = (
        g.op("Unsqueeze", g.weight(f"{prefix}norm.{name}"), g.integers(1, 2)) for name in ("weight", "bias")
    )
    return g.op("Relu", g.op("Add", g.op("Mul", normed, scale), shift))
