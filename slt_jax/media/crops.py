"""Square boxes around faces and hands: smoothed over time, cut out and scaled."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageFilter

LOOKAHEAD = 3  # frames on either side over which a box is smoothed
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Square:
    """Centre and side in pixels."""

    x: float
    y: float
    side: float

    @classmethod
    def around(cls, points: np.ndarray, scale: float) -> "Square":
        """The square around points (N, 2+), `scale` times as wide as their extent."""
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        x, y = (low + high) / 2
        return cls(float(x), float(y), float(scale * max(high - low)))

    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def smoothed(squares: Sequence[Square | None], place: int, *, centre: float, side: float) -> Square | None:
    """The square at `place`, averaged with its neighbours up to the next gap, by Gaussians of two widths (in frames).

    A hand moves fast but changes its size slowly, so position and size are smoothed separately.
    """
    if squares[place] is None:
        return None
    first = last = place
    while first > max(place - LOOKAHEAD, 0) and squares[first - 1] is not None:
        first -= 1
    while last < min(place + LOOKAHEAD, len(squares) - 1) and squares[last + 1] is not None:
        last += 1
    values = np.array([(s.x, s.y, s.side) for s in squares[first : last + 1] if s])
    apart = np.arange(first - place, last - place + 1)
    at, wide = (np.exp(-0.5 * (apart / sigma) ** 2) for sigma in (centre, side))
    x, y = at @ values[:, :2] / at.sum()
    return Square(float(x), float(y), float(wide @ values[:, 2] / wide.sum()))


def cut(image: np.ndarray, square: Square, size: int) -> np.ndarray:
    """The square cut from `image`, black beyond its border, as (size, size, 3)."""
    side = max(round(square.side), 2)
    left, top = round(square.x - square.side / 2), round(square.y - square.side / 2)
    height, width = image.shape[:2]
    inside = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    if inside.shape[:2] != (side, side):
        whole = np.zeros((side, side, 3), np.uint8)
        if top < height and left < width:
            down, right = max(-top, 0), max(-left, 0)
            whole[down : down + inside.shape[0], right : right + inside.shape[1]] = inside
        inside = whole
    if side == size:
        return np.ascontiguousarray(inside)
    return np.asarray(Image.fromarray(inside).resize((size, size), Image.Resampling.BICUBIC))


def blurred(image: np.ndarray, face: Square) -> np.ndarray:
    """A copy of `image` in which nobody can be recognised by the face."""
    height, width = image.shape[:2]
    left, top, right, bottom = (round(value) for value in face.corners())
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        return image
    image = image.copy()
    patch = Image.fromarray(image[top:bottom, left:right])
    # A weak blur can be undone. With an eighth of the face, only the tilt of the head is left.
    image[top:bottom, left:right] = np.asarray(patch.filter(ImageFilter.GaussianBlur(face.side / 8)))
    return image


def encoded(crop: np.ndarray, image_format: str) -> bytes:
    """The bytes of the image as a jpg or png file."""
    if image_format == "jpg":
        return simplejpeg.encode_jpeg(crop, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444")
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "png")
    return buffer.getvalue()
