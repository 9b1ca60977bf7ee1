"""Products of a ViT's block with what is around them: LayerNorm before, GELU or the residual after; their gradients.

A program computes a tile of rows and columns of the result. Rows are tokens of all images; their number must be a
multiple of a tile's. Statistics of LayerNorm come from outside: XLA reads the rows once for them.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jaxtyping import Float

from tools.benchmarks.kernels.gelu import gelu, gelu_slope
from tools.benchmarks.kernels.triton import call, pieces, power_of_two, times

Statistics = tuple[Float[Array, " rows"], Float[Array, " rows"]]  # mean and reciprocal deviation


@dataclass(frozen=True)
class Tiles:
    """Rows and columns of the result that a program computes, and summands that it reads at a time."""

    rows: int
    columns: int
    summands: int
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns} x {self.summands}, {self.warps} warps, {self.stages} stages"

    def grid(self, rows: int, columns: int, summands: int) -> tuple[int, int]:
        """Tiles of columns, which run first as they share rows, and of rows; ValueError where they don't divide."""
        if rows % self.rows or columns % self.columns or summands % self.summands:
            raise ValueError(f"{rows} x {columns} x {summands} is not made of tiles of {self}")
        return columns // self.columns, rows // self.rows


def product(
    x: Float[Array, "rows d_in"],
    kernel: Float[Array, "d_in d_out"],
    bias: Float[Array, " d_out"],
    tiles: Tiles,
    interpret: bool,
    *,
    statistics: Statistics | None = None,
    added: Float[Array, "rows d_out"] | None = None,
    with_gelu: bool = False,
) -> list[Float[Array, "rows d_out"]]:
    """`x @ kernel + bias`, of standardised `x` where there are statistics, plus `added`; `with_gelu` also its GELU."""
    rows, summands = x.shape
    columns, power = kernel.shape[1], power_of_two(interpret)
    at = _at(tiles)
    inputs = [(x, pl.BlockSpec((tiles.rows, summands), lambda column, row: (row, 0)))]
    inputs += [(kernel, pl.BlockSpec((summands, tiles.columns), lambda column, row: (0, column))), (bias, at.column)]
    inputs += [] if statistics is None else [(array, at.row) for array in statistics]
    inputs += [] if added is None else [(added, at.both)]

    def product(x: Any, kernel: Any, bias: Any, *others: Any) -> None:
        others, y, *z = others[: len(inputs) - 3], *others[len(inputs) - 3 :]
        known = None if statistics is None else [ref[...][:, None] for ref in others[:2]]

        def more(step: Any, total: Array) -> Array:
            place = pl.ds(step * tiles.summands, tiles.summands)
            some = x[:, place]
            if known is not None:
                some = standardised(some, *known).astype(some.dtype)
            return total + times(some, kernel[place, :])

        total = jax.lax.fori_loop(0, summands // tiles.summands, more, jnp.zeros((tiles.rows, tiles.columns)))
        total = total + bias[...].astype(jnp.float32)[None]
        if added is not None:
            total = total + others[-1][...].astype(jnp.float32)
        y[...] = total.astype(y.dtype)
        if z:
            z[0][...] = gelu(total.astype(y.dtype).astype(jnp.float32), power).astype(y.dtype)

    outputs = [((rows, columns), x.dtype, at.both)] * (2 if with_gelu else 1)
    return call(product, tiles.grid(rows, columns, summands), inputs, outputs, **_how(tiles, interpret))


def gelu_gradient(
    of_z: Float[Array, "rows d_out"],
    kernel: Float[Array, "d_in d_out"],
    y: Float[Array, "rows d_in"],
    tiles: Tiles,
    interpret: bool,
) -> tuple[Float[Array, "rows d_in"], Float[Array, " d_in"]]:
    """What reaches `y` of a product `gelu(y) @ kernel` whose gradient is `of_z`, and its sum over rows in float32."""
    (rows, columns), summands, power = y.shape, of_z.shape[1], power_of_two(interpret)
    at, grid = _at(tiles), tiles.grid(rows, columns, summands)
    inputs = [
        (of_z, pl.BlockSpec((tiles.rows, summands), lambda column, row: (row, 0))),
        (kernel, pl.BlockSpec((tiles.columns, summands), lambda column, row: (column, 0))),
        (y, at.both),
    ]

    def gelu_gradient(of_z: Any, kernel: Any, y: Any, of_y: Any, sums: Any) -> None:
        def more(step: Any, total: Array) -> Array:
            place = pl.ds(step * tiles.summands, tiles.summands)
            return total + times(of_z[:, place], kernel[:, place], (1, 1))

        total = jax.lax.fori_loop(0, summands // tiles.summands, more, jnp.zeros((tiles.rows, tiles.columns)))
        total = total * gelu_slope(y[...].astype(jnp.float32), power)
        of_y[...] = total.astype(of_y.dtype)
        sums[...] = total.sum(axis=0)

    partial_sums = pl.BlockSpec((None, tiles.columns), lambda column, row: (row, column))
    outputs = [((rows, columns), y.dtype, at.both), ((grid[1], columns), jnp.float32, partial_sums)]
    of_y, sums = call(gelu_gradient, grid, inputs, outputs, **_how(tiles, interpret))
    return of_y, sums.sum(axis=0)


def norm_gradient(
    of_y: Float[Array, "rows d_out"],
    kernel: Float[Array, "d_in d_out"],
    x: Float[Array, "rows d_in"],
    statistics: Statistics,
    of_x: Float[Array, "rows d_in"],
    tiles: Tiles,
    interpret: bool,
) -> Float[Array, "rows d_in"]:
    """What reaches `x` of `standardised(x) @ kernel`, whose gradient is `of_y`, plus `of_x`, that of the residual.

    A program computes all columns, because LayerNorm's gradient needs their sums: in pieces of `tiles.columns` and half
    of that, 384 as 256 and 128.
    """
    (rows, columns), summands = x.shape, of_y.shape[1]
    cut = pieces(columns, tiles.columns, tiles.columns // 2)
    if rows % tiles.rows or summands % tiles.summands or any(width > real for _, width, real in cut):
        raise ValueError(f"{rows} x {columns} x {summands} is not made of tiles of {tiles}")
    whole = pl.BlockSpec((tiles.rows, columns), lambda row: (row, 0))
    inputs = [(of_y, pl.BlockSpec((tiles.rows, summands), lambda row: (row, 0)))]
    inputs += [(kernel, pl.BlockSpec(kernel.shape, lambda row: (0, 0))), (x, whole)]
    inputs += [(array, pl.BlockSpec((tiles.rows,), lambda row: (row,))) for array in statistics]
    inputs += [(of_x, whole)]

    def norm_gradient(of_y: Any, kernel: Any, x: Any, mean: Any, deviation: Any, of_x: Any, out: Any) -> None:
        def more(step: Any, totals: list[Array]) -> list[Array]:
            place = pl.ds(step * tiles.summands, tiles.summands)
            some = of_y[:, place]
            parts = (kernel[pl.ds(start, width), place] for start, width, _ in cut)
            return [total + times(some, part, (1, 1)) for total, part in zip(totals, parts, strict=True)]

        nothing = [jnp.zeros((tiles.rows, width)) for _, width, _ in cut]
        totals = jax.lax.fori_loop(0, summands // tiles.summands, more, nothing)
        known = mean[...][:, None], deviation[...][:, None]
        level = sum(total.sum(axis=1) for total in totals) / columns
        slope = jnp.zeros(tiles.rows)
        for (start, width, _), total in zip(cut, totals, strict=True):
            slope = slope + (total * standardised(x[:, pl.ds(start, width)], *known)).sum(axis=1)
        for (start, width, _), total in zip(cut, totals, strict=True):
            place = pl.ds(start, width)
            y = standardised(x[:, place], *known)  # read again: registers are dearer
            found = known[1] * (total - level[:, None] - y * (slope / columns)[:, None])
            out[:, place] = (found + of_x[:, place].astype(jnp.float32)).astype(out.dtype)

    outputs = [((rows, columns), x.dtype, whole)]
    return call(norm_gradient, (rows // tiles.rows,), inputs, outputs, **_how(tiles, interpret))[0]


@dataclass(frozen=True)
class _At:
    row: pl.BlockSpec
    column: pl.BlockSpec
    both: pl.BlockSpec


def _at(tiles: Tiles) -> _At:
    return _At(
        pl.BlockSpec((tiles.rows,), lambda column, row: (row,)),
        pl.BlockSpec((tiles.columns,), lambda column, row: (column,)),
        pl.BlockSpec((tiles.rows, tiles.columns), lambda column, row: (row, column)),
    )


def standardised(x: Array, mean: Array, deviation: Array) -> Array:
    """Rows in float32, by columns of their means and reciprocal deviations."""
    return (x.astype(jnp.float32) - mean) * deviation


def _how(tiles: Tiles, interpret: bool) -> dict[str, Any]:
    return {"warps": tiles.warps, "stages": tiles.stages, "interpret": interpret}
