"""The decoder as two ONNX files, so that text is made without JAX: the first token, then one more token at a time.

    decoder_first   input_ids, encoded, pad_mask                      -> logits, present.*, cross.*
    decoder_step    input_ids, pad_mask, past.*, cross.*              -> logits, present.*

`input_ids` (B, 1) int64 is the newest token; `logits` (B, vocab). A cache `past.N.key` or `present.N.value` of layer N
is (B, heads, tokens, head_dim), `cross.*` the same of the T encoded frames.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from slt_jax.errors import UserError
from slt_jax.export import bart, t5
from slt_jax.export.decoder_step import PARTS, DecoderStep
from slt_jax.export.graph import Graph
from slt_jax.export.layers import linear
from slt_jax.models.families import FAMILIES, PREFIX, Family, family_of
from slt_jax.models.seq2seq import AttentionSizes

# By the name of the family.
WRITERS = {"t5": t5, "bart": bart}


def decoder_graphs(
    settings: Mapping[str, Any], state: Mapping[str, np.ndarray], *, opset: int, half: bool
) -> tuple[Graph, Graph]:
    """(first, step). Raises UserError for a decoder that has no writer here."""
    family, writer = _family(settings)
    sizes, vocab = family.attention_sizes(settings), state[PREFIX + family.head].shape[0]
    caches = [(n, part, f"{n}.{part}") for n in range(sizes.layers) for part in PARTS]

    first = Graph("slt_decoder_first", state, opset=opset, half=half)
    ids = first.input("input_ids", np.int64, ("B", 1))
    encoded = first.input("encoded", np.float32, ("B", "T", settings["d_model"]))
    keep = _keep(first)
    memories = {f"{n}.{part}": _memory(first, encoded, writer.memory_key(n, part), sizes) for n, part, _ in caches}
    start = first.integer(0)
    step = DecoderStep(first, sizes, ids, start, None, lambda n: (memories[f"{n}.key"], memories[f"{n}.value"]), keep)
    for name, value in memories.items():
        first.output(f"cross.{name}", value, step.cache_shape("T"))
    first.output("logits", writer.logits(step, settings), ("B", vocab))

    later = Graph("slt_decoder_step", state, opset=opset, half=half)
    ids = later.input("input_ids", np.int64, ("B", 1))
    keep = _keep(later)
    for kind, length in (("past", "P"), ("cross", "T")):
        for _, _, name in caches:
            later.input(f"{kind}.{name}", np.float32, step.cache_shape(length))
    position = later.op("Gather", later.op("Shape", "past.0.key"), later.integer(2))
    step = DecoderStep(
        later,
        sizes,
        ids,
        position,
        lambda n: (f"past.{n}.key", f"past.{n}.value"),
        lambda n: (f"cross.{n}.key", f"cross.{n}.value"),
        keep,
    )
    later.output("logits", writer.logits(step, settings), ("B", vocab))
    return first, later


def _family(settings: Mapping[str, Any]) -> tuple[Family, ModuleType]:
    """The family of these settings, and the module that writes its layers."""
    if "decoder_class" in settings:
        what = f"{settings['decoder_class']} is a class of your own"
    else:
        family = family_of(settings["model_type"])
        if family.name in WRITERS:
            return family, WRITERS[family.name]
        what = f"the decoder is a {settings['model_type']} model"
    *others, last = (kind for name in WRITERS for kind in FAMILIES[name].model_types)
    raise UserError(f"--decoder: {what}, which cannot be written as ONNX; only {', '.join(others)} and {last} can")


def _keep(g: Graph) -> str:
    return g.op("Unsqueeze", g.input("pad_mask", np.bool_, ("B", "T")), g.integers(1, 2))


def _memory(g: Graph, encoded: str, key: str, sizes: AttentionSizes) -> str:
    """Keys or values (B, heads, T, head) of the encoded frames."""
    width = g.state[f"{key}.weight"].shape[1]
    rows = g.lowered(g.op("Reshape", encoded, g.integers(-1, width)))
    projected = g.raised(linear(g, rows, key, bias=f"{key}.bias" in g.state))
    shape = g.op("Concat", g.op("Shape", "pad_mask"), g.integers(sizes.heads, sizes.head_dim), axis=0)
    return g.op("Transpose", g.op("Reshape", projected, shape), perm=[0, 2, 1, 3])
