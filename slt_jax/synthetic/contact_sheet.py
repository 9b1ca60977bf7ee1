"""Contact sheets: a generated clip as one picture for a person, with Pillow only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from slt_jax.pictures.lettering import draw_text
from slt_jax.pictures.skeleton import Figure, draw_skeleton, usual_names
from slt_jax.pictures.tiles import ROWS, paste_column, photo

if TYPE_CHECKING:
    from slt_jax.synthetic.generator import RenderedClip

_CELL, _LABEL, _TITLE = 96, 64, 26  # pixels
_FIGURE = Figure(usual_names(13))


def draw_sheet(clips: list[RenderedClip], columns: int) -> Image.Image:
    """Clips below each other; of each, a title and the rows face, left hand, right hand and pose."""
    columns = min(columns, max(len(clip.pose) for clip in clips))
    height = _TITLE + len(ROWS) * _CELL + 10
    sheet = Image.new("RGB", (_LABEL + columns * _CELL, height * len(clips)), "white")
    for n, clip in enumerate(clips):
        top = n * height
        draw_text(sheet, (6, top + 3), f"{clip.text}   [{clip.glosses}]   {clip.signer}, {len(clip.pose)} frames", 16)
        for row, name in enumerate(ROWS):
            draw_text(sheet, (6, top + _TITLE + row * _CELL + 38), name, 14)
        for column, frame in enumerate(np.linspace(0, len(clip.pose) - 1, columns).round().astype(int)):
            crops = (
                clip.face[frame],
                None if clip.miss_hand_l[frame] else clip.hand_l[frame],
                None if clip.miss_hand_r[frame] else clip.hand_r[frame],
            )
            tiles = [photo(crop, _CELL - 2) for crop in crops]
            tiles.append(draw_skeleton(clip.pose[frame].reshape(-1, 3), _CELL - 2, _FIGURE))
            paste_column(sheet, (_LABEL + column * _CELL, top + _TITLE), tiles, _CELL)
    return sheet
