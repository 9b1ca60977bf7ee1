"""Softmax attention of a ViT for a few hundred tokens: each program has all queries and keys of a head of an image.

It reads queries, keys and values as their product leaves them, (images, tokens, 3, heads, head), so nothing is split,
transposed or padded in memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from tools.benchmarks.kernels.triton import call, load, pieces, power_of_two, store, store_row, times


@dataclass(frozen=True)
class Tiles:
    """How one pass is cut: `queries` and `keys` of a tile, and `rest`, the rows of those that cover what is left.

    With `rest` 1, the last of 257 tokens is computed by vectors; with 16, in a narrow tile that is mostly padding; with
    `rest` as large as a tile of 128, as if there were 384 tokens. Where one tile needs all others, these are `looped`
    over, or written out.
    """

    queries: int
    keys: int
    rest: int
    warps: int
    stages: int
    looped: bool = False

    def __str__(self) -> str:
        inner = ", looped" if self.looped else ""
        return f"{self.queries} x {self.keys}, rest {self.rest}, {self.warps} warps, {self.stages} stages{inner}"


class Work:
    """What a kernel is told: the tokens and scale of `packed`, how they are cut, and how 2^x is computed."""

    def __init__(self, packed: Array, scale: float, tiles: Tiles, interpret: bool):
        self.images, self.tokens, _, self.heads, self.head = packed.shape
        self.scale, self.tiles, self.interpret = scale, tiles, interpret
        self.by = scale * math.log2(math.e)  # exponentials to base 2 are what a GPU has
        self.power = power_of_two(interpret)

    def call(self, kernel: Callable, inputs: list, outputs: list, **aliases: Any) -> list[Array]:
        """`kernel` in a program for each head of each image."""
        tiles = self.tiles
        how: dict[str, Any] = {"warps": tiles.warps, "stages": tiles.stages, "interpret": self.interpret, **aliases}
        return call(kernel, (self.heads, self.images), inputs, outputs, **how)

    @property
    def packed(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.tokens, 3, None, self.head), lambda head, image: (image, 0, 0, head, 0))

    @property
    def mixed(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.tokens, None, self.head), lambda head, image: (image, 0, head, 0))

    @property
    def rows(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, self.tokens), lambda head, image: (image, head, 0))

    def over(self, size: int, step: Callable, carry: Any = None, *, unrolled: bool = False) -> Any:
        """`step(start, rows, real, carry)` for tiles of `size`: the whole ones in a loop, the rest written out."""
        cut, whole = pieces(self.tokens, size, self.tiles.rest), self.tokens // size
        if whole and not unrolled:
            carry = jax.lax.fori_loop(0, whole, lambda number, carry: step(number * size, size, size, carry), carry)
            cut = cut[whole:]
        for piece in cut:
            carry = step(*piece, carry)
        return carry

    def within(self, size: int, step: Callable, carry: Any) -> Any:
        """The same inside of a step."""
        return self.over(size, step, carry, unrolled=not self.tiles.looped)


def attend(packed: Array, scale: float, tiles: Tiles, interpret: bool) -> list[Array]:
    """What is attended to, (n, tokens, heads, head), and log2 of each softmax's sum, (n, heads, tokens), float32."""
    work = Work(packed, scale, tiles, interpret)
    n, tokens, _, heads, head = packed.shape
    outputs = [((n, tokens, heads, head), packed.dtype, work.mixed), ((n, heads, tokens), jnp.float32, work.rows)]

    def attention(*refs: Any) -> None:
        _forward(work, *refs)

    return work.call(attention, [(packed, work.packed)], outputs)


def _forward(work: Work, packed: Any, mixed: Any, total: Any) -> None:
    def step(start: Any, rows: int, real: int, _: None) -> None:
        query = load(packed, start, rows, real, 0)

        def of_keys(start: Any, width: int, there: int, so_far: tuple[Array, Array, Array]) -> tuple:
            highest, summed, found = so_far
            key, value = load(packed, start, width, there, 1), load(packed, start, width, there, 2)
            scores = times(query, key, (1, 1))
            if there < width:
                scores = jnp.where(jnp.arange(width)[None] < there, scores, -jnp.inf)
            peak = jnp.maximum(scores.max(axis=1), highest)
            weights = work.power(scores * work.by - (peak * work.by)[:, None])
            shrunk = work.power((highest - peak) * work.by)
            found = found * shrunk[:, None] + times(weights.astype(value.dtype), value)
            return peak, summed * shrunk + weights.sum(axis=1), found

        nothing = jnp.full(rows, -jnp.inf), jnp.zeros(rows), jnp.zeros((rows, work.head))
        highest, summed, found = work.within(work.tiles.keys, of_keys, nothing)
        store(mixed, start, found / summed[:, None], real)
        store_row(total, start, highest * work.by + jnp.log2(summed), real)

    work.over(work.tiles.queries, step)
