"""Crops and their views as one picture, to judge augmentation with one's own eyes."""

import jax
import numpy as np
from jax import Array
from PIL import Image

from slt_jax.pictures.lettering import draw_text
from slt_jax.pictures.tiles import photo
from slt_jax.pretraining.settings import Augmentation
from slt_jax.pretraining.views import views_per_image

GAP, INK = 4, "#666666"


def views_sheet(
    crops: np.ndarray, settings: Augmentation, hflip: float, *, seed: int = 0, cell: int = 112
) -> Image.Image:
    """A row for each of `crops`, uint8 (N, S, S, 3): the crop and its global views, `cell` wide, then its local views.

    Local views are drawn to the same scale as global ones.
    """
    make = jax.jit(lambda images, key: views_per_image(images, key, settings, hflip))
    whole, local = (_pixels(views, settings) for views in make(crops, jax.random.key(seed)))
    small = round(cell * settings.local_crop_size / settings.image_size)
    top, size = 24, 13
    starts = [(cell + GAP) * place for place in range(3)] + [
        3 * (cell + GAP) + (small + GAP) * place for place in range(local.shape[1])
    ]
    sheet = Image.new("RGB", (starts[-1] + max(cell, small), top + len(crops) * (cell + GAP)), "white")
    for x, title in zip((starts[0], starts[1], *starts[3:4]), ("crop", "global views", "local views"), strict=False):
        draw_text(sheet, (x + 2, 3), title, size, INK)
    for row, crop in enumerate(crops):
        tiles = [photo(crop, cell), *(photo(view, cell) for view in whole[row])]
        tiles += [photo(view, small) for view in local[row]]
        for x, tile in zip(starts, tiles, strict=True):
            sheet.paste(tile, (x, top + row * (cell + GAP)))
    return sheet


def _pixels(views: Array, settings: Augmentation) -> np.ndarray:
    """Normalised views as uint8."""
    values = np.asarray(views, np.float32) * np.array(settings.std) + np.array(settings.mean)
    return np.round(255 * values).clip(0, 255).astype(np.uint8)
