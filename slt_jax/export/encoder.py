"""The multi-stream encoder as ONNX, with v9's inputs and outputs: what `slt_jax.models.multistream` computes."""

from collections.abc import Mapping, Sequence
from functools import partial, reduce

import numpy as np

from convert.checkpoint import Blueprint
from slt_jax.data.schema import CLIP_ARRAYS, PAD_MASK, BatchSizes
from slt_jax.errors import UserError
from slt_jax.export.cnn import cnn_features, is_small_cnn
from slt_jax.export.graph import Graph
from slt_jax.export.layers import attend, gelu, layer_norm, linear
from slt_jax.export.vit import vit_features
from slt_jax.models.vit import ViTConfig
from slt_jax.streams import STREAMS, Stream

# Of a clip's arrays: streams, then masks. Landmarks come as they are to be read, 0 where they are unsure.
INPUTS = sorted(
    (array for array in CLIP_ARRAYS if "L" not in array.axes),
    key=lambda array: (array.dtype == np.bool_, array.name != PAD_MASK),
)


FrameShape = tuple[str, str, *tuple[int, ...]]  # ("B", "T", and what a frame measures)


def encoder_inputs(plan: Blueprint) -> dict[str, tuple[type, FrameShape]]:
    """{name: (type, shape)}; B and T are free. Images are normalised, channels first."""
    sizes = BatchSizes(0, 0, plan.config.image_size, plan.config.pose_landmarks)
    inputs: dict[str, tuple[type, FrameShape]] = {}
    for array in INPUTS:
        _, _, *sides = array.shape(sizes)
        if array.images:
            sides = [sides[-1], *sides[:-1]]  # channels first
        inputs[array.name] = np.bool_ if array.dtype == np.bool_ else np.float32, ("B", "T", *sides)
    return inputs


def encoder_outputs(plan: Blueprint) -> dict[str, FrameShape]:
    """{name: shape} of float32 outputs.

    The heads are the projected streams, a missing hand's as its projector maps zeros; `hand_mask` is 1 where either
    hand is missing (fusion then reads zeros for both), `padding_mask` 1 where a frame is padding.
    """
    outputs: dict[str, FrameShape] = {"encoded": ("B", "T", plan.config.d_model)}
    outputs |= {stream.head: ("B", "T", plan.config.projector_dim) for stream in STREAMS}
    return outputs | {name: ("B", "T") for name in ("hand_mask", "padding_mask")}


def encoder_graph(plan: Blueprint, state: Mapping[str, np.ndarray], *, opset: int, half: bool) -> Graph:
    """Raises UserError if a backbone is a class that only JAX can run."""
    g = Graph("slt_encoder", state, opset=opset, half=half)
    for name, (dtype, shape) in encoder_inputs(plan).items():
        g.input(name, dtype, shape)
    batch_time = g.op("Shape", "pad_mask")
    heads, hidden, fused = _frames(g, plan)
    encoded = _temporal(g, _placed(g, fused, batch_time), batch_time, plan)

    shapes = encoder_outputs(plan)
    values = {"encoded": encoded} | heads
    for name, rows in values.items():
        values[name] = g.op("Reshape", rows, g.op("Concat", batch_time, g.integers(*shapes[name][2:]), axis=0))
    values["hand_mask"] = g.cast(hidden["hands"], np.float32)
    values["padding_mask"] = g.cast(g.op("Not", "pad_mask"), np.float32)
    for name, shape in shapes.items():
        g.output(name, values[name], shape)
    return g


def encoder_halves(plan: Blueprint, state: Mapping[str, np.ndarray], *, opset: int, half: bool) -> tuple[Graph, Graph]:
    """The encoder as two graphs, so that a window that slides looks at each frame once.

    frames    the encoder's inputs but `pad_mask`   -> features (B, T, d_model), of each frame by itself
    context   features, pad_mask                    -> encoded

    Raises UserError as `encoder_graph`.
    """
    shape: FrameShape = ("B", "T", plan.config.d_model)
    frames = Graph("slt_frames", state, opset=opset, half=half)
    names = [name for name in encoder_inputs(plan) if name != PAD_MASK]
    for name in names:
        frames.input(name, *encoder_inputs(plan)[name])
    _, _, fused = _frames(frames, plan)
    batch_time = frames.op("Shape", names[-1])  # of a mask
    frames.output("features", _by_clip(frames, fused, batch_time, plan), shape)

    context = Graph("slt_context", state, opset=opset, half=half)
    rows = context.op(
        "Reshape", context.input("features", np.float32, shape), context.integers(-1, plan.config.d_model)
    )
    batch_time = context.op("Shape", context.input(PAD_MASK, np.bool_, ("B", "T")))
    encoded = _temporal(context, _placed(context, rows, batch_time), batch_time, plan)
    context.output("encoded", _by_clip(context, encoded, batch_time, plan), shape)
    return frames, context


def _by_clip(g: Graph, rows: str, batch_time: str, plan: Blueprint) -> str:
    """Rows (B * T, d_model) as (B, T, d_model)."""
    return g.op("Reshape", rows, g.op("Concat", batch_time, g.integers(plan.config.d_model), axis=0))


def _frames(g: Graph, plan: Blueprint) -> tuple[dict[str, str], dict[str, str], str]:
    """The heads, what hides each pair (B, T), and the fused streams, all but the masks as rows of frames."""
    heads = {stream.head: _project(g, stream, _features(g, stream, plan)) for stream in STREAMS}
    pairs = {stream.pair: stream.hiding_masks for stream in STREAMS if stream.pair}
    hidden = {pair: reduce(partial(g.op, "Or"), masks) for pair, masks in pairs.items()}
    shown = [
        _zero_where(g, hidden[stream.pair], heads[stream.head]) if stream.pair else heads[stream.head]
        for stream in STREAMS
    ]
    return heads, hidden, _fuse(g, shown)


def _features(g: Graph, stream: Stream, plan: Blueprint) -> str:
    """The backbone's features (B * T, embed_dim) of the frames, 0 where missing; landmarks (B * T, 3L)."""
    if not stream.images:
        return g.op("Reshape", stream.name, g.integers(-1, 3 * plan.config.pose_landmarks))
    size, sizes = plan.config.image_size, plan.backbones[stream.name]
    images = g.op("Reshape", stream.name, g.integers(-1, 3, size, size))
    if isinstance(sizes, ViTConfig):
        features = vit_features(g, images, stream.backbone_prefix, sizes, size)
    elif is_small_cnn(sizes):
        features = cnn_features(g, images, stream.backbone_prefix)
    else:
        raise UserError(
            f"the backbone {sizes.name} is a class of your own, which cannot be written as ONNX; use --stablehlo "
            f"instead"
        )
    return _zero_where(g, stream.mask, features) if stream.mask else features


def _zero_where(g: Graph, mask: str, rows: str) -> str:
    """Rows (B * T, features) with those of `mask` (B, T) set to 0."""
    return g.op("Where", g.op("Reshape", mask, g.integers(-1, 1)), g.number(0), rows)


def _project(g: Graph, stream: Stream, features: str) -> str:
    """The projector of a stream, or `features` as they are where it has none."""
    key = f"encoder.{stream.projector}.layers"
    if f"{key}.0.weight" not in g.state:
        return features
    last = "4" if f"{key}.4.weight" in g.state else "3"
    inner = g.lowered(layer_norm(g, features, f"{key}.0", 1e-6))
    hidden = g.lowered(gelu(g, g.raised(linear(g, inner, f"{key}.1"))))
    return g.raised(linear(g, hidden, f"{key}.{last}"))


def _fuse(g: Graph, streams: Sequence[str]) -> str:
    """Rows (B * T, d_model) of frames."""
    normed = layer_norm(g, g.op("Concat", *streams, axis=-1), "encoder.fusion.norm", 1e-5)
    return g.raised(linear(g, g.lowered(normed), "encoder.fusion.proj"))


def _placed(g: Graph, rows: str, batch_time: str) -> str:
    """Rows of frames with their positions in the clip."""
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
