"""Text on pictures, in the font that comes with Pillow."""

import unicodedata
from functools import cache

from PIL import Image, ImageDraw, ImageFont


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def text_width(text: str, size: int) -> float:
    """The width of the text in pixels, as `draw_text` draws it."""
    plain = (unicodedata.normalize("NFD", character)[0] for character in text)
    return sum(_font(size).getlength({"¿": "?", "¡": "!"}.get(letter, letter)) for letter in plain)


def draw_text(image: Image.Image, at: tuple[float, float], text: str, size: int, fill: str = "black") -> None:
    """Draw text in Pillow's built-in font. It lacks Spanish letters, so accents are drawn over the plain letters."""
    font, draw = _font(size), ImageDraw.Draw(image)
    x, y = at
    for character in text:
        letter, *marks = list(unicodedata.normalize("NFD", character))
        if letter in "¿¡":  # the upright sign, rotated by 180 degrees and lowered
            upright = "?" if letter == "¿" else "!"
            glyph = Image.new("L", (round(font.getlength(upright)), size + 4))
            ImageDraw.Draw(glyph).text((0, 0), upright, font=font, fill=255)
            image.paste(fill, (round(x), round(y) + 4), glyph.transpose(Image.Transpose.ROTATE_180))
            x += glyph.width
            continue
        draw.text((x, y), letter, font=font, fill=fill)
        width = font.getlength(letter)
        left, top, right, _ = draw.textbbox((x, y), letter, font=font)
        middle, top = (left + right) / 2, top - 2
        for mark in marks:
            if mark == "\N{COMBINING ACUTE ACCENT}":
                draw.line([(middle - 2, top), (middle + size / 8, top - size / 5)], fill=fill, width=2)
            elif mark == "\N{COMBINING TILDE}":
                reach = size / 5
                wave = [(middle + reach * step, top - 2 * (i % 2)) for i, step in enumerate((-1, -0.3, 0.3, 1))]
                draw.line(wave, fill=fill, width=1)
            elif mark == "\N{COMBINING DIAERESIS}":
                for side in (-1, 1):
                    draw.circle((middle + side * size / 7, top - 1), 1, fill=fill)
        x += width
