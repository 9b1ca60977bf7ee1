"""One token on its way through a decoder's layers, as ONNX: what all families share."""

from collections.abc import Callable
from dataclasses import dataclass

from slt_jax.export.graph import Graph
from slt_jax.export.layers import attend
from slt_jax.models.seq2seq import AttentionSizes

PARTS = ("key", "value")


@dataclass(frozen=True)
class DecoderStep:
    """One token a sentence on its way through the layers."""

    graph: Graph
    sizes: AttentionSizes
    ids: str  # (B, 1)
    position: str  # int64 scalar: how many tokens came before
    past: Callable[[int], tuple[str, str]] | None
    memory: Callable[[int], tuple[str, str]]
    keep: str  # (B, 1, 1, T): the real frames

    def self_attention(self, number: int, query: str, key: str, value: str, scale: float, bias: str | None) -> str:
        """Rows (B, width) of layer `number`, after writing its caches; query, key and value are rows too."""
        g = self.graph
        key, value = self._heads(g.raised(key)), self._heads(g.raised(value))
        if self.past is not None:
            past_key, past_value = self.past(number)
            key, value = g.op("Concat", past_key, key, axis=2), g.op("Concat", past_value, value, axis=2)
        for part, x in zip(PARTS, (key, value), strict=True):
            g.output(f"present.{number}.{part}", x, self.cache_shape("S"))
        return self._attend(query, key, value, scale, bias, None)

    def cross_attention(self, number: int, query: str, scale: float) -> str:
        """Attention of layer `number` to the encoded frames."""
        return self._attend(query, *self.memory(number), scale, None, self.keep)

    def cache_shape(self, length: str) -> tuple[str, int, str, int]:
        """The shape of a cache whose axis of tokens is called `length`."""
        return "B", self.sizes.heads, length, self.sizes.head_dim

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
        return g.op("Reshape", mixed, g.integers(-1, self.sizes.heads * self.sizes.head_dim))

    def _heads(self, x: str) -> str:
        """Rows (B, width) to (B, heads, 1, head)."""
        return self.graph.op("Reshape", x, self.graph.integers(-1, self.sizes.heads, 1, self.sizes.head_dim))


def embed(g: Graph, table: str, ids: str) -> str:
    """Rows (B, width) of token ids (B, 1)."""
    width = g.state[table].shape[1]
    return g.op("Reshape", g.raised(g.op("Gather", g.matrix(table), ids)), g.integers(-1, width))


def vocabulary_logits(g: Graph, x: str, key: str) -> str:
    """Logits (B, vocab), the product of `x` with the embedding under `key`."""
    return g.raised(g.op("Gemm", g.lowered(x), g.matrix(f"{key}.weight"), transB=1))
