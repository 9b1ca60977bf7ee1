"""The multi-stream encoder as ONNX, with v9's inputs and outputs: what `slt_jax.models.multistream` computes."""

from collections.abc import Mapping

import numpy as np

from convert.checkpoint import Blueprint
from convert.infer import BACKBONES, STREAMS
from slt_jax.errors import UserError
from slt_jax.export.cnn import cnn_features, is_small_cnn
from slt_jax.export.graph import Graph, Shape
from slt_jax.export.layers import attend, gelu, layer_norm, linear
from slt_jax.export.vit import vit_features
from slt_jax.models.vit import ViTConfig

IMAGES = ("face", "hand_l", "hand_r")
MASKS = ("pad_mask", "miss_mask_hl", "miss_mask_hr")
HEADS = ("face_head", "hand_left_head", "hand_right_head", "pose_head")
FLAGS = ("hand_mask", "padding_mask")


def encoder_inputs(plan: Blueprint) -> dict[str, tuple[type, Shape]]:
    """{name: (type, shape)}; B and T are free."""
    size = plan.config.image_size
    inputs: dict[str, tuple[type, Shape]] = {name: (np.float32, ("B", "T", 3, size, size)) for name in IMAGES}
    inputs["pose"] = np.float32, ("B", "T", 3 * plan.config.pose_landmarks)
    return inputs | {name: (np.bool_, ("B", "T")) for name in MASKS}


def encoder_outputs(plan: Blueprint) -> dict[str, Shape]:
    """{name: shape} of float32 outputs.

    The heads are the projected streams, a missing hand's as its projector maps zeros; `hand_mask` is 1 where either
    hand is missing (fusion then reads zeros for both), `padding_mask` 1 where a frame is padding.
    """
    heads = {name: ("B", "T", plan.config.projector_dim) for name in HEADS}
    return {"encoded": ("B", "T", plan.config.d_model)} | heads | {name: ("B", "T") for name in FLAGS}


def encoder_graph(plan: Blueprint, state: Mapping[str, np.ndarray], *, opset: int, half: bool) -> Graph:
    """Raises UserError where a backbone is a class that only JAX can run."""
    g = Graph("slt_encoder", state, opset=opset, half=half)
    for name, (dtype, shape) in encoder_inputs(plan).items():
        g.input(name, dtype, shape)
    batch_time = g.op("Shape", "pad_mask")
    nothing = g.number(0)

    heads, missing = [], []
    for image, stream, backbone, sizes in zip(IMAGES, STREAMS, BACKBONES, plan.backbones, strict=True):
        features = _features(g, image, f"encoder.{backbone}.", sizes, plan.config.image_size)
        if stream != "face":
            missing.append(g.op("Reshape", f"miss_mask_{'hl' if image == 'hand_l' else 'hr'}", g.integers(-1, 1)))
            features = g.op("Where", missing[-1], nothing, features)
        heads.append(_project(g, features, f"encoder.{stream}_projector"))
    pose = g.op("Reshape", "pose", g.integers(-1, 3 * plan.config.pose_landmarks))
    heads.append(_project(g, pose, "encoder.pose_projector"))

    either = g.op("Or", *missing)
    face, left, right, pose = heads
    streams = face, g.op("Where", either, nothing, left), g.op("Where", either, nothing, right), pose
    encoded = _temporal(g, _fuse(g, streams, batch_time), batch_time, plan)

    shapes = encoder_outputs(plan)
    values = dict(zip(HEADS, heads, strict=True)) | {"encoded": encoded}
    for name in shapes.keys() & values.keys():
        full = g.op("Concat", batch_time, g.integers(shapes[name][-1]), axis=0)
        values[name] = g.op("Reshape", values[name], full)
    values["hand_mask"] = g.cast(g.op("Or", "miss_mask_hl", "miss_mask_hr"), np.float32)
    values["padding_mask"] = g.cast(g.op("Not", "pad_mask"), np.float32)
    for name, shape in shapes.items():
        g.output(name, values[name], shape)
    return g


def _features(g: Graph, frames: str, prefix: str, sizes, image_size: int) -> str:
    """(B, T, 3, H, W) to features (B * T, embed_dim)."""
    images = g.op("Reshape", frames, g.integers(-1, 3, image_size, image_size))
    if isinstance(sizes, ViTConfig):
        return vit_features(g, images, prefix, sizes, image_size)
    if is_small_cnn(sizes):
        return cnn_features(g, images, prefix)
    raise UserError(
        f"the backbone {sizes.name} is a class of your own, which cannot be written as ONNX; use --stablehlo instead"
    )


def _project(g: Graph, features: str, key: str) -> str:
    """The projector of a stream, or `features` as they are where it has none."""
    if f"{key}.layers.0.weight" not in g.state:
        return features
    last = "4" if f"{key}.layers.4.weight" in g.state else "3"
    inner = g.lowered(layer_norm(g, features, f"{key}.layers.0", 1e-6))
    hidden = g.lowered(gelu(g, g.raised(linear(g, inner, f"{key}.layers.1"))))
    return g.raised(linear(g, hidden, f"{key}.layers.{last}"))


def _fuse(g: Graph, streams: tuple[str, ...], batch_time: str) -> str:
    """Frames (B * T, d_model) with their positions."""
    normed = layer_norm(g, g.op("Concat", *streams, axis=-1), "encoder.fusion.norm", 1e-5)
    rows = g.raised(linear(g, g.lowered(normed), "encoder.fusion.proj"))
    # GatherND checks its indices. onnxruntime makes a slice of a plain Gather, which ends with the table, and one
    # position would then be broadcast to any T.
    numbers = g.op("Range", g.integer(0), g.op("Gather", batch_time, g.integer(1)), g.integer(1))
    key = "encoder.positional.embedding.weight"
    positions = g.op("GatherND", g.weight(key), g.op("Unsqueeze", numbers, g.integers(1)))
    width = g.state[key].shape[1]
    frames = g.op("Reshape", rows, g.op("Concat", batch_time, g.integers(width), axis=0))
    return g.op("Reshape", g.op("Add", frames, positions), g.integers(-1, width))


def _temporal(g: Graph, x: str, batch_time: str, plan: Blueprint) -> str:
    """torch.nn.TransformerEncoder, post-norm, on rows."""
    d, heads = plan.config.d_model, plan.config.temporal_nhead
    keep = g.op("Unsqueeze", "pad_mask", g.integers(1, 2))
    by_head = g.op("Concat", batch_time, g.integers(heads, d // heads), axis=0)

    def split(x: str, order: list[int]) -> str:
        return g.op("Transpose", g.op("Reshape", x, by_head), perm=order)

    for number in range(plan.config.temporal_layers):
        key = f"encoder.temporal.encoder.layers.{number}"
        packed = g.op(
            "Gemm",
            g.lowered(x),
            g.matrix(f"{key}.self_attn.in_proj_weight"),
            g.matrix(f"{key}.self_attn.in_proj_bias"),
            transB=1,
        )
        query, memory, value = g.split(packed, d, d, d)
        mixed = attend(
            g,
            split(query, [0, 2, 1, 3]),
            split(memory, [0, 2, 3, 1]),
            split(value, [0, 2, 1, 3]),
            scale=(d // heads) ** -0.5,
            keep=keep,
        )
        rows = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.integers(-1, d))
        attended = g.raised(linear(g, rows, f"{key}.self_attn.out_proj"))
        x = layer_norm(g, g.op("Add", x, attended), f"{key}.norm1", 1e-5)
        hidden = g.op("Relu", linear(g, g.lowered(x), f"{key}.linear1"))
        x = layer_norm(g, g.op("Add", x, g.raised(linear(g, hidden, f"{key}.linear2"))), f"{key}.norm2", 1e-5)
    return x
