"""What a backbone has learnt, as pictures: where it looks, and what it takes for alike."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from slt_jax.pictures.lettering import draw_text
from slt_jax.pictures.tiles import photo
from slt_jax.pretraining.knn import Labelled, neighbours

CELL, GAP = 96, 4
LETTERS = 12
RIGHT, WRONG = (0, 158, 115), (213, 94, 0)  # can be told apart without seeing red and green
DARK, BRIGHT = np.array([20.0, 20, 60]), np.array([255.0, 220, 60])


def attention_sheet(images: np.ndarray, attention: np.ndarray, columns: int = 12) -> Image.Image:
    """Pictures (N, S, S, 3), uint8, each above the CLS token's attention (N, heads, patches), the mean of its heads."""
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * CELL, rows * 2 * CELL + LETTERS + 8), "white")
    draw_text(sheet, (2, 2), "Attention of the CLS token (bright: much)", LETTERS)
    for number, (image, weights) in enumerate(zip(images, attention.mean(axis=1), strict=True)):
        x, y = number % columns * CELL, number // columns * 2 * CELL + LETTERS + 8
        sheet.paste(photo(image, CELL - GAP), (x, y))
        sheet.paste(_heat(weights), (x, y + CELL - GAP))
    return sheet


def _heat(weights: np.ndarray) -> Image.Image:
    """The attention to the patches as colours, from the least to the 99th percentile."""
    side = round(len(weights) ** 0.5)
    low, high = weights.min(), np.percentile(weights, 99)
    shares = np.clip((weights - low) / max(high - low, 1e-12), 0, 1).reshape(side, side, 1)
    pixels = (DARK + (BRIGHT - DARK) * shares).astype(np.uint8)
    return Image.fromarray(pixels).resize((CELL - GAP, CELL - GAP), Image.Resampling.NEAREST)


def neighbour_sheet(labelled: Labelled, features: np.ndarray, chosen: Sequence[int], count: int = 8) -> Image.Image:
    """A row for each chosen picture: itself, then its nearest ones of other groups, framed by whether labels agree."""
    nearest, _ = neighbours(features, labelled, np.asarray(chosen), count)
    sheet = Image.new("RGB", ((count + 1) * CELL + 2 * GAP, len(chosen) * CELL + LETTERS + 8), "white")
    draw_text(sheet, (2, 2), "A picture, and its nearest of other groups (orange: another label)", LETTERS)
    for row, (picture, found) in enumerate(zip(chosen, nearest, strict=True)):
        y = LETTERS + 8 + row * CELL
        sheet.paste(photo(labelled.images[picture], CELL - GAP), (0, y))
        for column, other in enumerate(found):
            x = (column + 1) * CELL + 2 * GAP
            sheet.paste(photo(labelled.images[other], CELL - GAP), (x, y))
            colour = RIGHT if labelled.labels[other] == labelled.labels[picture] else WRONG
            ImageDraw.Draw(sheet).rectangle((x, y, x + CELL - GAP - 1, y + CELL - GAP - 1), outline=colour, width=3)
    return sheet
