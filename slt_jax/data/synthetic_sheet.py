"""Contact sheets: a generated clip as one picture for a person, with Pillow only."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from slt_jax.data.synthetic import RenderedClip

_CELL, _LABEL, _TITLE = 96, 64, 26  # pixels
_ROWS = ("face", "left", "right", "pose")
# BlazePose 0, 11-22: nose, then left and right shoulder, elbow, wrist, pinky, index, thumb.
_ARMS = ((1, 3, 5), (2, 4, 6))
_FINGERS = ((5, (7, 9, 11)), (6, (8, 10, 12)))
_COLOURS = ((30, 110, 200), (200, 70, 40))  # left, right


def draw_sheet(clips: list[RenderedClip], columns: int) -> Image.Image:
    """Clips below each other; of each, a title and the rows face, left hand, right hand and pose."""
    columns = min(columns, max(len(clip.pose) for clip in clips))
    height = _TITLE + len(_ROWS) * _CELL + 10
    sheet = Image.new("RGB", (_LABEL + columns * _CELL, height * len(clips)), "white")
    draw = ImageDraw.Draw(sheet)
    for n, clip in enumerate(clips):
        top = n * height
        draw_text(sheet, (6, top + 3), f"{clip.text}   [{clip.glosses}]   {clip.signer}, {len(clip.pose)} frames", 16)
        for row, name in enumerate(_ROWS):
            draw_text(sheet, (6, top + _TITLE + row * _CELL + 38), name, 14)
        for column, frame in enumerate(np.linspace(0, len(clip.pose) - 1, columns).round().astype(int)):
            x, y = _LABEL + column * _CELL, top + _TITLE
            for row, image in enumerate((clip.face[frame], clip.hand_l[frame], clip.hand_r[frame])):
                cell = Image.fromarray(image).resize((_CELL - 2, _CELL - 2), Image.Resampling.BICUBIC)
                sheet.paste(cell, (x, y + row * _CELL))
            for row, missing in ((1, clip.miss_hand_l), (2, clip.miss_hand_r)):
                if missing[frame]:
                    box = (x, y + row * _CELL, x + _CELL - 3, y + (row + 1) * _CELL - 3)
                    draw.rectangle(box, fill=(235, 235, 235))
            sheet.paste(_skeleton(clip.pose[frame]), (x, y + 3 * _CELL))
    return sheet


def _skeleton(pose: np.ndarray) -> Image.Image:
    """One frame's landmarks (39,) as a stick figure; parts below confidence 0.25 are pale."""
    size = 3 * (_CELL - 2)  # drawn large and reduced, for smooth lines
    image = Image.new("RGB", (size, size), (246, 246, 242))
    draw = ImageDraw.Draw(image)
    points = pose.reshape(-1, 3)
    xy = [(float(x) * size, float(y) * size) for x, y, _ in points]
    draw.line([xy[1], xy[2]], fill=(90, 90, 90), width=6)
    draw.circle(xy[0], 22, outline=(90, 90, 90), width=6)
    draw.circle(xy[0], 5, fill=(90, 90, 90))
    for chain, (wrist, fingers), colour in zip(_ARMS, _FINGERS, _COLOURS, strict=True):
        lines = [*pairwise(chain), *((wrist, finger) for finger in fingers)]
        for a, b in lines:
            seen = points[b, 2] >= 0.25
            draw.line([xy[a], xy[b]], fill=colour if seen else (215, 215, 215), width=8 if b in chain else 5)
    return image.resize((_CELL - 2, _CELL - 2), Image.Resampling.LANCZOS)


def draw_text(image: Image.Image, at: tuple[int, int], text: str, size: int) -> None:
    """Black text in Pillow's built-in font, which lacks Spanish letters: marks are drawn over the plain letters."""
    font, draw = ImageFont.load_default(size=size), ImageDraw.Draw(image)
    x, y = at
    for character in text:
        letter, *marks = unicodedata.normalize("NFD", character)
        if letter in "¿¡":  # the upright sign, turned by 180 degrees and lowered
            width = round(font.getlength("?" if letter == "¿" else "!"))
            glyph = Image.new("L", (width, size + 4))
            ImageDraw.Draw(glyph).text((0, 0), "?" if letter == "¿" else "!", font=font, fill=255)
            image.paste("black", (round(x), y + 4), glyph.transpose(Image.Transpose.ROTATE_180))
            x += width
            continue
        draw.text((x, y), letter, font=font, fill="black")
        width = font.getlength(letter)
        left, top, right, _ = draw.textbbox((x, y), letter, font=font)
        middle, top = (left + right) / 2, top - 2
        for mark in marks:
            if mark == "\N{COMBINING ACUTE ACCENT}":
                draw.line([(middle - 2, top), (middle + size / 8, top - size / 5)], fill="black", width=2)
            elif mark == "\N{COMBINING TILDE}":
                reach = size / 5
                wave = [(middle + reach * step, top - 2 * (i % 2)) for i, step in enumerate((-1, -0.3, 0.3, 1))]
                draw.line(wave, fill="black", width=1)
            elif mark == "\N{COMBINING DIAERESIS}":
                for side in (-1, 1):
                    draw.circle((middle + side * size / 7, top - 1), 1, fill="black")
        x += width
