"""Block-wise masks of patches (Bao et al., 2022), drawn on the device, with exactly as many patches as asked for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Key

ATTEMPTS = 24  # rectangles tried for a mask
SMALLEST, LARGEST = 4, 0.5  # patches of a rectangle: at least, and at most as a share of the picture
ASPECT = 0.3  # and 1 / ASPECT: the ratios of its sides


def mask_counts(views: int, patches: int, probability: float, least: float, greatest: float) -> np.ndarray:
    """How many patches each of `views` views loses, int32: none, or ratios that are spread evenly, as in DINOv2."""
    masked = int(views * probability)
    edges = np.linspace(least, greatest, masked + 1)
    ratios = np.concatenate([(edges[1:] + edges[:-1]) / 2, np.zeros(views - masked)])
    return np.round(ratios * patches).astype(np.int32)


def draw_masks(
    key: Key[Array, ""], counts: Int[Array | np.ndarray, " n"], grid: tuple[int, int]
) -> Bool[Array, "n patches"]:
    """A mask for each view of `grid` (rows, columns) patches, true where a patch is hidden.

    The `counts` are dealt to the views at random.
    """
    deal, each = jax.random.split(key)
    dealt = jax.random.permutation(deal, jnp.asarray(counts))
    return jax.vmap(lambda key, count: _draw(key, count, grid))(jax.random.split(each, len(counts)), dealt)


def masked_places(
    masks: Bool[Array, "*views patches"], most: int
) -> tuple[Int[Array, "*views m"], Float[Array, "*views m"]]:
    """The numbers of the first `most` hidden patches of each view, and 1 where there is one, 0 for filling."""
    order = jnp.argsort(~masks, axis=-1, stable=True)[..., :most]
    return order, jnp.take_along_axis(masks, order, axis=-1).astype(jnp.float32)


def _draw(key: Key[Array, ""], count: Int[Array, ""], grid: tuple[int, int]) -> Bool[Array, " patches"]:
    rows, columns = grid
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]
    ratio = math.log(ASPECT)

    def add(mask: Array, key: Array) -> tuple[Array, None]:
        area, aspect, top, left = jax.random.uniform(key, (4,))
        left_over = count - mask.sum()
        most = jnp.minimum(left_over, LARGEST * rows * columns)
        size = SMALLEST + area * jnp.maximum(most - SMALLEST, 0)
        stretch = jnp.exp(ratio * (2 * aspect - 1))
        height = jnp.clip(jnp.round(jnp.sqrt(size * stretch)), 1, rows)
        width = jnp.clip(jnp.round(jnp.sqrt(size / stretch)), 1, columns)
        first_row = jnp.floor(top * (rows - height + 1))
        first_column = jnp.floor(left * (columns - width + 1))
        inside = (
            (row >= first_row) & (row < first_row + height) & (column >= first_column) & (column < first_column + width)
        )
        more = mask | inside
        return jnp.where(more.sum() <= count, more, mask), None

    blocks, rest = jax.random.split(key)
    mask, _ = jax.lax.scan(add, jnp.zeros(grid, bool), jax.random.split(blocks, ATTEMPTS))
    # What the rectangles left over, as single patches.
    rank = jnp.argsort(jnp.argsort(jnp.where(mask.ravel(), -1.0, jax.random.uniform(rest, (rows * columns,)))))
    return rank < count
