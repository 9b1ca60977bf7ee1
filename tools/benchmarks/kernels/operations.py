"""What is timed alone: each operation as it is today and by its kernel in several tiles, and whether they agree."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tools.benchmarks.kernels import products
from tools.benchmarks.kernels.attention_forward import Tiles
from tools.benchmarks.kernels.choice import Choice, statistics

Sizes = tuple[int, int, int, int]  # images, tokens, heads, head


@dataclass(frozen=True)
class Operation:
    """`run(choice)` is a function of `inputs`; `choose` makes fields of a choice of one of its kernel's `tiles`.

    Operations of one `field` share their tiles. `today` are the inputs of what training uses and `exact` those of the
    same in float32, where they differ by more than that.
    """

    name: str
    run: Callable[[Choice], Callable]
    inputs: tuple[Any, ...]
    tiles: tuple[Any, ...]
    choose: Callable[[Any], dict[str, Any]]
    field: str
    today: tuple[Any, ...] | None = None
    exact: tuple[Any, ...] | None = None


def attention_tiles(interpret: bool) -> tuple[Tiles, ...]:
    """Of the forward pass: those that a compiler for an H200 gives enough registers, or nearly."""
    if interpret:
        return Tiles(16, 16, 1, 4, 1), Tiles(16, 16, 16, 4, 2, True)
    cut = (64, 64, 16, 4), (128, 64, 16, 8)
    looped = *cut, (64, 64, 1, 4), (64, 128, 16, 4), (128, 128, 16, 8), (64, 32, 16, 4), (128, 128, 128, 8)
    return (
        *(Tiles(*sizes, 1) for sizes in (*cut, (64, 256, 1, 8))),
        Tiles(64, 64, 16, 4, 2),
        *(Tiles(*sizes, 2, True) for sizes in looped),
        *(Tiles(*sizes, 3, True) for sizes in cut),
    )


def gradient_tiles(interpret: bool) -> tuple[Any, ...]:
    """Of the backward pass: pairs for its two passes, and some in one."""
    if interpret:
        return Tiles(16, 16, 1, 4, 1), (Tiles(16, 16, 16, 4, 2, True), Tiles(16, 16, 1, 4, 1))

    def two(first: int, second: int, rest: int, warps: int, stages: int, looped: bool) -> tuple[Tiles, Tiles]:
        cut = Tiles(first, second, rest, warps, stages, looped)
        return cut, replace(cut, queries=second, keys=first)

    return (
        *(two(64, 64, 16, 4, stages, looped) for stages, looped in ((1, False), (2, False), (2, True), (3, True))),
        *(two(64, 32, 16, 4, stages, True) for stages in (2, 3)),
        two(64, 64, 1, 4, 2, True),
        two(128, 64, 16, 8, 2, True),
        two(128, 64, 16, 8, 1, False),
        Tiles(32, 128, 16, 8, 2),
        Tiles(16, 256, 16, 8, 2),
    )


def product_tiles(interpret: bool, whole_rows: bool = False) -> tuple[products.Tiles, ...]:
    """Of products; `whole_rows` where a program needs all columns."""
    if interpret:
        return (products.Tiles(16, 16, 16, 4, 2),)
    if whole_rows:
        cuts = [(64, 128, 64, 8, 3), (64, 128, 64, 8, 2), (64, 128, 32, 8, 3), (32, 128, 64, 8, 3), (64, 256, 64, 8, 3)]
    else:
        cuts = [(128, 128, 64, 8, 3), (128, 128, 64, 4, 3), (128, 128, 32, 8, 4), (64, 128, 64, 4, 3)]
        cuts += [(128, 128, 64, 8, 2)]
    return tuple(products.Tiles(*cut) for cut in cuts)


def operations(sizes: Sizes, hidden: int, interpret: bool) -> Iterator[Operation]:
    """All, on random arrays of the sizes of a backbone; rows are the tokens of all images."""
    images, tokens, heads, head = sizes
    rows, d = images * tokens, heads * head
    draw = _Random()
    yield from _attention(sizes, draw, interpret)
    x, of_x, of_y = draw(rows, d), draw(rows, d), draw(rows, hidden)
    wide, narrow, three = (draw(d, hidden), draw(hidden)), (draw(hidden, d), draw(d)), (draw(d, 3 * d), draw(3 * d))
    known = jax.jit(statistics)(x)
    tiles, whole = product_tiles(interpret), product_tiles(interpret, whole_rows=True)
    of_packed = draw(rows, 3 * d)

    def only(name: str) -> tuple[Callable[[Any], dict[str, Any]], str]:
        return (lambda tiles: {name: tiles}), name

    def normed(choice: Choice) -> Callable:
        return lambda *given: choice.normed(*given)[:1]

    def normed_gelu(choice: Choice) -> Callable:
        return lambda *given: choice.normed_gelu(*given)[:2]

    def added(choice: Choice) -> Callable:
        return lambda *given: (choice.added(*given),)

    def through_gelu(choice: Choice) -> Callable:
        return choice.through_gelu

    def through_norm(choice: Choice) -> Callable:
        return lambda *given: (choice.through_norm(*given),)

    yield Operation("norm, queries keys values", normed, (x, *three), tiles, *only("norm"))
    yield Operation("norm, first of MLP, GELU", normed_gelu, (x, *wide), tiles, *only("norm_gelu"))
    yield Operation("after attention, residual", added, (of_x, draw(d, d), draw(d), x), tiles, *only("add"))
    yield Operation("last of MLP, residual", added, (of_y, *narrow, x), tiles, *only("add"))
    yield Operation("gradient through GELU", through_gelu, (of_x, narrow[0], of_y), tiles, *only("gelu_gradient"))
    of_norm = of_y, wide[0], x, known, of_x
    yield Operation("gradient through norm, MLP", through_norm, of_norm, whole, *only("norm_gradient"))
    of_norm = of_packed, three[0], x, known, of_x
    yield Operation("gradient through norm, attention", through_norm, of_norm, whole, *only("norm_gradient"))


def _attention(sizes: Sizes, draw: "_Random", interpret: bool) -> Iterator[Operation]:
    images, tokens, heads, head = sizes
    packed, of_mixed = draw(images, tokens, 3, heads, head), draw(images, tokens, heads, head)
    padding = [(0, 0), (0, -tokens % 8)]
    padded = (jnp.pad(packed, [*padding, (0, 0), (0, 0), (0, 0)]), jnp.pad(of_mixed, [*padding, (0, 0), (0, 0)]))
    first, plain = attention_tiles(interpret)[0], Choice(interpret=interpret)

    def attend(choice: Choice) -> Callable:
        return lambda packed: (choice.attend(packed, tokens)[0],)

    def back(choice: Choice) -> Callable:
        return lambda kept, of_mixed: (choice.attend_back(kept, of_mixed),)

    def kept(choice: Choice, packed: Array) -> Any:
        return jax.jit(lambda packed: choice.attend(packed, tokens)[1])(packed)

    def both(tiles: Any) -> dict[str, Any]:
        return {"attention": (first, tiles)}

    def forward(tiles: Any) -> dict[str, Any]:
        return {"attention": (tiles, None)}

    kind = "attention forward"
    yield Operation("attention", attend, (packed,), attention_tiles(interpret), forward, kind, today=padded[:1])
    inputs, today = (kept(replace(plain, **both(None)), packed), of_mixed), (kept(plain, padded[0]), padded[1])
    exact = exactly(lambda: kept(plain, in_float32(packed))), in_float32(of_mixed)
    name, kind = "gradient of attention", "attention backward"
    yield Operation(name, back, inputs, gradient_tiles(interpret), both, kind, today, exact)


class _Random:
    """Arrays in bfloat16, each from a seed of its own; matrices are as large as those of a new model."""

    def __init__(self) -> None:
        self.seed = 0

    def __call__(self, *shape: int) -> Array:
        self.seed += 1
        small = len(shape) == 2 and max(shape) < 16 * min(shape)
        drawn = jax.random.normal(jax.random.key(self.seed), shape) * (shape[0] ** -0.5 if small else 1.0)
        return drawn.astype(jnp.bfloat16)


def in_float32(arrays: Any) -> Any:
    """The same numbers."""
    return jax.tree.map(lambda array: array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array, arrays)


def exactly(run: Callable[[], Any]) -> Any:
    """What `run` gives where products of float32 are products of float32."""
    with jax.default_matmul_precision("highest"):
        return run()


def difference(found: Any, expected: Any) -> float:
    """The largest, of the largest value of each array; what was found may be padded."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return float(np.max([_difference(a, b) for a, b in pairs]))  # a NaN stays


@jax.jit
def _difference(a: Array, b: Array) -> Array:
    a, b = a[tuple(map(slice, b.shape))].astype(jnp.float32), b.astype(jnp.float32)
    return jnp.abs(a - b).max() / jnp.abs(b).max()
