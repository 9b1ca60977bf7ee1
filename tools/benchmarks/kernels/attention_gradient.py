"""The gradient of attention, in one pass or in two, laid out as queries, keys and values are.

One pass computes each weight once and holds the gradients of all keys and values in registers. Two passes, first for
queries and then for keys and values, compute weights twice and hold those of one tile.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from tools.benchmarks.kernels.attention_forward import Tiles, Work
from tools.benchmarks.kernels.triton import load, load_row, pieces, store, store_row, times

Passes = Tiles | tuple[Tiles, Tiles]


def gradient(
    packed: Array, mixed: Array, total: Array, of_mixed: Array, scale: float, tiles: Passes, interpret: bool
) -> Array:
    """The gradient of `packed`, from what `attend` gave and from the gradient of what is attended to."""
    if isinstance(tiles, tuple):
        return _in_two(packed, mixed, total, of_mixed, scale, tiles, interpret)
    work = Work(packed, scale, tiles, interpret)
    inputs = [(packed, work.packed), (mixed, work.mixed), (total, work.rows), (of_mixed, work.mixed)]

    def attention_gradient(*refs: Any) -> None:
        _at_once(work, *refs)

    return work.call(attention_gradient, inputs, [(packed.shape, packed.dtype, work.packed)])[0]


def _at_once(work: Work, packed: Any, mixed: Any, total: Any, of_mixed: Any, of_packed: Any) -> None:
    cut = pieces(work.tokens, work.tiles.keys, work.tiles.rest)

    def step(start: Any, rows: int, real: int, sums: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
        query, outer, shares = _of_a_tile(packed, mixed, of_mixed, start, rows, real)
        base = load_row(total, start, rows, real)[None]
        of_query, grown = jnp.zeros((work.head, rows)), []
        # Tables are (keys, queries), so that two of the three products which read one find it in their registers.
        for piece, (of_key, of_value) in zip(cut, sums, strict=True):
            key, value = load(packed, *piece, 1), load(packed, *piece, 2)
            weights = shown(work.power(times(key, query, (1, 1)) * work.by - base), piece[2], 0)
            of_scores = (weights * (times(value, outer, (1, 1)) - shares[None])).astype(query.dtype)
            of_value = of_value + times(weights.astype(outer.dtype), outer)
            grown.append((of_key + times(of_scores, query), of_value))
            of_query = of_query + times(key, of_scores, (0, 0))
        store(of_packed, start, of_query.T * work.scale, real, 0)
        return grown

    sums = work.over(work.tiles.queries, step, [(jnp.zeros((rows, work.head)),) * 2 for _, rows, _ in cut])
    for (start, _, real), (of_key, of_value) in zip(cut, sums, strict=True):
        store(of_packed, start, of_key * work.scale, real, 1)
        store(of_packed, start, of_value, real, 2)


def shown(weights: Array, real: int, axis: int) -> Array:
    """Those of padding become 0: where scores are far below 0, they would be infinite."""
    if real == weights.shape[axis]:
        return weights
    there = jnp.arange(weights.shape[axis]) < real
    return jnp.where(there[:, None] if axis == 0 else there[None], weights, 0.0)


def _of_a_tile(packed: Any, mixed: Any, of_mixed: Any, *piece: Any) -> tuple[Array, Array, Array]:
    """Queries, the gradient of what they attend to, and how much of it each of their softmaxes takes as a whole."""
    outer, inner = load(of_mixed, *piece), load(mixed, *piece)
    return load(packed, *piece, 0), outer, (outer.astype(jnp.float32) * inner.astype(jnp.float32)).sum(axis=1)


def _in_two(
    packed: Array, mixed: Array, total: Array, of_mixed: Array, scale: float, tiles: tuple, interpret: bool
) -> Array:
    first, second = (Work(packed, scale, cut, interpret) for cut in tiles)

    def queries_gradient(*refs: Any) -> None:
        _of_queries(first, *refs)

    def keys_gradient(*refs: Any) -> None:
        _of_keys(second, *refs)

    rows, out = (total.shape, total.dtype, first.rows), (packed.shape, packed.dtype, first.packed)
    of_mixed_in = (of_mixed, first.mixed)
    inputs = [(packed, first.packed), (mixed, first.mixed), (total, first.rows), of_mixed_in]
    of_packed, shares = first.call(queries_gradient, inputs, [out, rows])
    inputs = [(packed, first.packed), (total, first.rows), (shares, first.rows), of_mixed_in, (of_packed, first.packed)]
    return second.call(keys_gradient, inputs, [out], aliases={4: 0})[0]


def _of_queries(work: Work, packed: Any, mixed: Any, total: Any, of_mixed: Any, of_packed: Any, kept: Any) -> None:
    def step(start: Any, rows: int, real: int, _: None) -> None:
        query, outer, shares = _of_a_tile(packed, mixed, of_mixed, start, rows, real)
        base = load_row(total, start, rows, real)[:, None]

        def from_keys(start: Any, width: int, there: int, of_query: Array) -> Array:
            key, value = load(packed, start, width, there, 1), load(packed, start, width, there, 2)
            weights = shown(work.power(times(query, key, (1, 1)) * work.by - base), there, 1)
            of_scores = weights * (times(outer, value, (1, 1)) - shares[:, None])
            return of_query + times(of_scores.astype(key.dtype), key)

        of_query = work.within(work.tiles.keys, from_keys, jnp.zeros((rows, work.head)))
        store(of_packed, start, of_query * work.scale, real, 0)
        store_row(kept, start, shares, real)

    work.over(work.tiles.queries, step)


def _of_keys(work: Work, packed: Any, total: Any, shares: Any, of_mixed: Any, _: Any, of_packed: Any) -> None:
    def step(start: Any, rows: int, real: int, _: None) -> None:
        key, value = load(packed, start, rows, real, 1), load(packed, start, rows, real, 2)

        def from_queries(start: Any, height: int, there: int, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            piece, (of_key, of_value) = (start, height, there), sums
            query, outer = load(packed, *piece, 0), load(of_mixed, *piece)
            weights = work.power(times(key, query, (1, 1)) * work.by - load_row(total, *piece)[None])
            of_scores = weights * (times(value, outer, (1, 1)) - load_row(shares, *piece)[None])
            of_key = of_key + times(of_scores.astype(query.dtype), query)
            return of_key, of_value + times(weights.astype(outer.dtype), outer)

        nothing = (jnp.zeros((rows, work.head)),) * 2
        of_key, of_value = work.within(work.tiles.queries, from_queries, nothing)
        store(of_packed, start, of_key * work.scale, real, 1)
        store(of_packed, start, of_value, real, 2)

    work.over(work.tiles.keys, step)
