"""What the kernels share: calls through Pallas's Triton back end, products of tiles, and pieces of odd lengths.

A Triton kernel knows only arrays whose sizes are powers of two, and products of at least 16 rows, columns and summands.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

Piece = tuple[int, int, int]  # where it begins, its rows, and how many of them are real


def call(
    kernel: Callable,
    grid: tuple[int, ...],
    inputs: Sequence[tuple[Array, pl.BlockSpec]],
    outputs: Sequence[tuple[tuple[int, ...], Any, pl.BlockSpec]],
    *,
    warps: int,
    stages: int,
    interpret: bool,
    aliases: dict[int, int] | None = None,
) -> list[Array]:
    """`kernel` over a grid; `inputs` are arrays with their blocks, `outputs` shapes, dtypes and blocks.

    `aliases` are inputs that become outputs.
    """
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[block for _, block in inputs],
        out_specs=[block for *_, block in outputs],
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype, _ in outputs],
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
        input_output_aliases=aliases or {},
        interpret=interpret,
    )(*(array for array, _ in inputs))


def power_of_two(interpret: bool) -> Callable[[Array], Array]:
    """2^x in float32, as the GPU's own instruction: `jnp.exp2` spends three more on results below the normal ones."""

    def instruction(x: Array) -> Array:
        shape = [jax.ShapeDtypeStruct(x.shape, x.dtype)]
        (y,) = triton.elementwise_inline_asm(
            "ex2.approx.ftz.f32 $0, $1;", args=[x], constraints="=f,f", pack=1, result_shape_dtypes=shape
        )
        return y

    return jnp.exp2 if interpret else instruction


def pieces(length: int, size: int, rest: int) -> list[Piece]:
    """`length` rows as tiles of `size`, and what is left as tiles of `rest`, of which the last may be padded.

    257 rows as tiles of 256 leave one row, which is a vector with `rest` 1.
    """
    whole = length // size * size
    found = [(start, size, size) for start in range(0, whole, size)]
    return found + [(start, rest, min(rest, length - start)) for start in range(whole, length, rest)]


def _rows(start: Any, rows: int) -> Any:
    return pl.ds(start if isinstance(start, Array) else jnp.int32(start), rows)  # an int must not end beyond the array


def load(ref: Any, start: Any, rows: int, real: int, *place: int) -> Array:
    """(rows, d) of ref (tokens, *place, d), and zeros beyond the `real` rows."""
    view = ref.at[(_rows(start, rows), *map(np.int32, place), slice(None))]
    if real == rows:
        return triton.load(view)
    return triton.load(view, mask=(jnp.arange(rows) < real)[:, None], other=0.0)


def store(ref: Any, start: Any, values: Array, real: int, *place: int) -> None:
    """Writes the `real` first rows of (rows, d)."""
    rows = len(values)
    view = ref.at[(_rows(start, rows), *map(np.int32, place), slice(None))]
    triton.store(view, values.astype(ref.dtype), mask=None if real == rows else (jnp.arange(rows) < real)[:, None])


def load_row(ref: Any, start: Any, rows: int, real: int) -> Array:
    """(rows,) of ref (tokens,), and zeros beyond the `real` ones."""
    view = ref.at[_rows(start, rows)]
    return triton.load(view) if real == rows else triton.load(view, mask=jnp.arange(rows) < real, other=0.0)


def store_row(ref: Any, start: Any, values: Array, real: int) -> None:
    """Writes the `real` first of (rows,)."""
    rows = len(values)
    triton.store(ref.at[_rows(start, rows)], values, mask=None if real == rows else jnp.arange(rows) < real)


def times(left: Array, right: Array, summed: tuple[int, int] = (1, 0)) -> Array:
    """The float32 product of two tiles over axis `summed[0]` of the first and `summed[1]` of the second.

    Where one has a single row, column or summand, it is computed without tensor cores.
    """
    rows, columns, summands = left.shape[1 - summed[0]], right.shape[1 - summed[1]], left.shape[summed[0]]
    if 1 not in (rows, columns, summands):
        precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
        dimensions = (((summed[0],), (summed[1],)), ((), ()))
        return jax.lax.dot_general(left, right, dimensions, precision=precision, preferred_element_type=jnp.float32)
    left, right = left.astype(jnp.float32), right.astype(jnp.float32)
    if summands == 1:
        return left.reshape(rows, 1) * right.reshape(1, columns)
    if rows == 1:
        vector = left.reshape(summands, 1) if summed[1] == 0 else left.reshape(1, summands)
        return (vector * right).sum(axis=summed[1]).reshape(1, columns)
    vector = right.reshape(summands, 1) if summed[0] == 0 else right.reshape(1, summands)
    return (left * vector).sum(axis=summed[0]).reshape(rows, 1)
