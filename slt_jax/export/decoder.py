"""The decoder as two ONNX files, so that text is made without JAX: the first token, then one more token at a time.

    decoder_first   input_ids, encoded, pad_mask                      -> logits, present.*, cross.*
    decoder_step    input_ids, pad_mask, past.*, cross.*              -> logits, present.*

`input_ids` (B, 1) int64 is the newest token; `logits` (B, vocab). A cache `past.N.key` or `present.N.value` of layer N
is (B, heads, tokens, head_dim), `cross.*` the same of the T encoded frames.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from slt_jax.errors import UserError
from slt_jax.export.graph import Graph
from slt_jax.export.layers import attend, linear

PARTS = ("key", "value")


@dataclass(frozen=True)
class DecoderSizes:
    """What the caches and the logits measure."""

    layers: int
    heads: int
    head: int
    vocab: int


@dataclass(frozen=True)
class DecoderStep:
    """One token a sentence on its way through the layers."""

    graph: Graph
    sizes: DecoderSizes
    ids: str  # (B, 1)
    position: str  # int64 scalar: how many tokens came before
    past: Callable[[int], tuple[str, str]] | None
    memory: Callable[[int], tuple[str, str]]
    keep: str  # (B, 1, 1, T): the real frames

    def self_attention(self, number: int, query: str, key: str, value: str, scale: float, bias: str | None) -> str:
        """Rows (B, width) of layer `number`, after writing its caches; query, key and value are rows too."""
        g = self.graph
        new = [self._heads(g.raised(x)) for x in (key, value)]
        if self.past is not None:
            new = [g.op("Concat", old, x, axis=2) for old, x in zip(self.past(number), new, strict=True)]
        for part, x in zip(PARTS, new, strict=True):
            g.output(f"present.{number}.{part}", x, self.cache_shape("S"))
        return self._attend(query, *new, scale, bias, None)

    def cross_attention(self, number: int, query: str, scale: float) -> str:
        return self._attend(query, *self.memory(number), scale, None, self.keep)

    def cache_shape(self, length: str) -> tuple[str, int, str, int]:
        return "B", self.sizes.heads, length, self.sizes.head

    def _attend(self, query: str, key: str, value: str, scale: float, bias: str | None, keep: str | None) -> str:
        g = self.graph
        mixed = attend(
            g,
            self._heads(query),
            g.op("Transpose", g.lowered(key), perm=[0, 1, 3, 2]),
            g.lowered(value),
            scale=scale,
            bias=bias,
            keep=keep,
        )
        return g.op("Reshape", mixed, g.integers(-1, self.sizes.heads * self.sizes.head))

    def _heads(self, x: str) -> str:
        """Rows (B, width) to (B, heads, 1, head)."""
        return self.graph.op("Reshape", x, self.graph.integers(-1, self.sizes.heads, 1, self.sizes.head))


def decoder_graphs(
    settings: Mapping[str, Any], state: Mapping[str, np.ndarray], *, opset: int, half: bool
) -> tuple[Graph, Graph]:
    """(first, step). Raises UserError for a decoder of the user's own class."""
    family = _family(settings)
    sizes = family.sizes(settings, state)
    caches = [(n, part, f"{n}.{part}") for n in range(sizes.layers) for part in PARTS]

    first = Graph("slt_decoder_first", state, opset=opset, half=half)
    ids = first.input("input_ids", np.int64, ("B", 1))
    encoded = first.input("encoded", np.float32, ("B", "T", settings["d_model"]))
    keep = _keep(first)
    memories = {f"{n}.{part}": _memory(first, encoded, family.memory_key(n, part), sizes) for n, part, _ in caches}
    step = DecoderStep(
        first, sizes, ids, first.integer(0), None, lambda n: tuple(memories[f"{n}.{p}"] for p in PARTS), keep
    )
    for name, value in memories.items():
        first.output(f"cross.{name}", value, step.cache_shape("T"))
    first.output("logits", family.logits(step, settings), ("B", sizes.vocab))

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
        lambda n: tuple(f"past.{n}.{p}" for p in PARTS),
        lambda n: tuple(f"cross.{n}.{p}" for p in PARTS),
        keep,
    )
    later.output("logits", family.logits(step, settings), ("B", sizes.vocab))
    return first, later


def _family(settings: Mapping[str, Any]):
    """The module that writes the layers of these settings."""
    from slt_jax.export import bart, t5  # they import `DecoderStep`

    if "decoder_class" in settings:
        raise UserError(
            f"--decoder: {settings['decoder_class']} is a class of your own, which cannot be written as ONNX; only T5, "
            f"mT5, BART and mBART can"
        )
    return t5 if settings["model_type"] in ("t5", "mt5") else bart


def _keep(g: Graph) -> str:
    return g.op("Unsqueeze", g.input("pad_mask", np.bool_, ("B", "T")), g.integers(1, 2))


def _memory(g: Graph, encoded: str, key: str, sizes: DecoderSizes) -> str:
    """Keys or values (B, heads, T, head) of the encoded frames."""
    width = g.state[f"{key}.weight"].shape[1]
    rows = g.lowered(g.op("Reshape", encoded, g.integers(-1, width)))
    projected = g.raised(linear(g, rows, key, bias=f"{key}.bias" in g.state))
    shape = g.op("Concat", g.op("Shape", "pad_mask"), g.integers(sizes.heads, sizes.head), axis=0)
    return g.op("Transpose", g.op("Reshape", projected, shape), perm=[0, 2, 1, 3])


def embed(g: Graph, table: str, ids: str) -> str:
    """Rows (B, width) of token ids (B, 1)."""
    width = g.state[table].shape[1]
    return g.op("Reshape", g.raised(g.op("Gather", g.matrix(table), ids)), g.integers(-1, width))


def vocabulary_logits(g: Graph, x: str, key: str) -> str:
    return g.raised(g.op("Gemm", g.lowered(x), g.matrix(f"{key}.weight"), transB=1))
