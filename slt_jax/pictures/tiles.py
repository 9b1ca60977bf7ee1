"""The tiles that contact sheets and films are made of."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from slt_jax.pictures.clip import ClipView
from slt_jax.pictures.skeleton import draw_skeleton
from slt_jax.streams import STREAMS, Stream

MISSING = (235, 235, 235)
# Colours that can be told apart without seeing red and green. The more a crop can be trusted, the cooler.
SOURCES = {
    "holistic": (0, 114, 178), "tracked": (20, 40, 110), "hands": (86, 180, 233), "retry": (0, 158, 115),
    "pose": (240, 190, 40), "hold": (213, 94, 0), "none": MISSING,
}  # fmt: skip
_OTHERS = ((204, 121, 167), (120, 94, 240), (90, 90, 90), (150, 120, 60))


def photo(pixels: np.ndarray | None, size: int) -> Image.Image:
    """A crop, uint8 (H, W, 3), as a square; grey if there is none."""
    if pixels is None:
        return Image.new("RGB", (size, size), MISSING)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)


def paste_column(sheet: Image.Image, at: tuple[int, int], tiles: Sequence[Image.Image], cell: int) -> None:
    """Paste tiles below each other, one every `cell` pixels."""
    x, y = at
    for row, tile in enumerate(tiles):
        sheet.paste(tile, (x, y + row * cell))


def frame_tiles(clip: ClipView, frame: int, size: int, colours: dict[str, tuple[int, int, int]]) -> list[Image.Image]:
    """The tiles of a frame, one per stream. Hands have the colour of their source in a corner."""
    return [_tile(clip, stream, frame, size, colours) for stream in STREAMS]


def _tile(
    clip: ClipView, stream: Stream, frame: int, size: int, colours: dict[str, tuple[int, int, int]]
) -> Image.Image:
    if not stream.images:
        points = clip.points(frame)
        return photo(None, size) if points is None else draw_skeleton(points, size, clip.figure)
    crop = clip.crop(stream.name, frame, size)
    tile = photo(crop, size)
    if crop is not None and clip.hidden(stream.name, frame):
        tile = _struck_out(tile)
    if crop is not None and (source := clip.source(stream.name, frame)):
        mark = max(5, size // 8)
        ImageDraw.Draw(tile).rectangle((0, 0, mark, mark), fill=colours[source], outline="white")
    return tile


def source_colours(clip: ClipView) -> dict[str, tuple[int, int, int]]:
    """A colour for each source of crops, always the same for the usual sources."""
    words = dict.fromkeys(word for sources in clip.sources.values() for word in sources if word)
    strange = [word for word in words if word not in SOURCES]
    return {
        word: SOURCES.get(word) or _OTHERS[strange.index(word) % len(_OTHERS)]
        for word in sorted(words, key=lambda word: (*SOURCES, *strange).index(word))
    }


def _struck_out(tile: Image.Image) -> Image.Image:
    """Mark a picture that exists but is not shown to the model."""
    tile = Image.blend(tile.convert("L").convert("RGB"), Image.new("RGB", tile.size, MISSING), 0.6)
    side = tile.width - 1
    ImageDraw.Draw(tile).line([(0, side), (side, 0)], fill=(150, 150, 150), width=2)
    return tile
