"""A contact sheet: one clip as one picture, to judge at a glance."""

import numpy as np
from PIL import Image, ImageDraw

from slt_jax.data.clip_files import ClipFiles
from slt_jax.pictures.clip import ClipView, open_clip
from slt_jax.pictures.lettering import draw_text, text_width
from slt_jax.pictures.tiles import frame_tiles, paste_column, source_colours
from slt_jax.streams import HANDS, IMAGES, STREAMS

_INK, _FAINT = "black", "#666666"


def clip_sheet(files: ClipFiles, *, columns: int = 12, cell: int = 96) -> Image.Image:
    """One row per stream, over at most `columns` evenly spaced frames, `cell` pixels each.

    Missing crops are grey. A crop that the pose file calls missing is pale and struck out. If the pose file says where
    a hand's crop comes from, a corner has the colour of that source. Raises UserError if a file cannot be read.
    """
    clip = open_clip(files)
    frames = np.linspace(0, clip.total - 1, min(columns, clip.total)).round().astype(int).tolist()
    colours = source_colours(clip)
    size = max(12, cell // 7)
    title = f"{files.video_id}   {describe(clip)}"
    label = max(round(text_width(stream.label, size)) for stream in IMAGES) + 12
    top = 2 * size + 18
    foot = size + 10 if colours else 4
    key = [(word, round(text_width(word, size)) + 2 * size + 8) for word in colours]
    width = max(label + len(frames) * cell, round(text_width(title, size)) + 12, label + sum(w for _, w in key))
    sheet = Image.new("RGB", (width, top + len(STREAMS) * cell + foot), "white")
    draw_text(sheet, (6, 4), title, size)
    for row, stream in enumerate(STREAMS):
        draw_text(sheet, (6, top + row * cell + (cell - size) // 2 - 2), stream.label, size)
    for column, frame in enumerate(frames):
        x = label + column * cell
        draw_text(sheet, (x + 2, top - size - 5), str(frame), size, _FAINT)
        paste_column(sheet, (x, top), frame_tiles(clip, frame, cell - 2, colours), cell)
    x, y = label, top + len(STREAMS) * cell + 2
    for word, step in key:
        ImageDraw.Draw(sheet).rectangle((x, y + 2, x + size - 2, y + size), fill=colours[word], outline=_FAINT)
        draw_text(sheet, (x + size + 4, y), word, size, _INK)
        x += step
    return sheet


def describe(clip: ClipView) -> str:
    """Say how long the clip is and how often the model sees its hands, as far as they were asked for."""
    rate = f" at {clip.fps:g} fps" if clip.fps else ""
    hands = (f"{hand.title} {clip.seen(hand.name):.0%}" for hand in HANDS if hand.name in clip.files.frames)
    return ", ".join((f"{clip.total} frame{'s' * (clip.total > 1)}{rate}", *hands))
