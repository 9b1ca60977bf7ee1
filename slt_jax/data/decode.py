"""Decode images to 8-bit RGB: what has no one right reading as that is refused."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64 * 2**20
TOO_LARGE = f"more than the {MAX_PIXELS >> 20} megapixels that are read"
# What cameras and tools write. Pillow knows many more, and some of those start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# Pillow's readers raise what they stumble over.
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError, RuntimeError,
                MemoryError, struct.error, zlib.error)  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n"


def decode_into(content: bytes | memoryview, out: np.ndarray) -> None:
    """Decode an image into `out` (H, W, 3) uint8, resized to fit. Raises one of IMAGE_ERRORS.

    Pillow's bicubic (its own default for resize, antialiased, and what DINOv2 was prepared with) resizes; it only runs
    for crops that were not stored at the model's size, or are no plain JPEG.
    """
    import simplejpeg  # imported here, because preparing batches on the device needs no decoder

    if (header := jpeg_header(content)) and (*header[:2], 3) == out.shape and header[2] in ("YCbCr", "RGB", "Gray"):
        try:
            simplejpeg.decode_jpeg(content, "RGB", buffer=out)
            return
        except ValueError:
            pass  # slightly damaged; Pillow decides
    with open_image(content) as file:
        image = _rgb(file)
        if image.size != (out.shape[1], out.shape[0]):
            image = image.resize((out.shape[1], out.shape[0]), Image.Resampling.BICUBIC)
        out[:] = np.asarray(image)


def jpeg_header(content: bytes | memoryview) -> tuple[int, int, str] | None:
    """Height, width and colour space of a JPEG, None for other files. Raises ValueError if it is too large."""
    import simplejpeg

    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    _check_size(width, height)
    return height, width, colour


def open_image(content: bytes | memoryview) -> Image.Image:
    """The image with nothing but its header read. Raises one of IMAGE_ERRORS."""
    if bytes(content[:8]) == PNG:  # Pillow would only warn of some
        _check_size(int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big"))
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:  # whose own message contains a memory address
        raise ValueError("no jpg or png") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(TOO_LARGE) from None
    _check_size(*image.size)
    return image


def looks_plain(start: bytes) -> bool:
    """Whether a file that starts so (26 bytes) is a JPEG, or a PNG of bearable size without palette or transparency."""
    if start[:8] != PNG or len(start) < 26:
        return start[:2] == b"\xff\xd8"
    width, height, _, colour = struct.unpack(">IIBB", start[16:26])
    return width * height <= MAX_PIXELS and colour in (0, 2)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, {TOO_LARGE}")


def _rgb(image: Image.Image) -> Image.Image:
    """The image as RGB of 8 bits."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its values have 32 bits and no known range; save it with 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            raise ValueError("has transparent pixels, whose colour nobody sees; save it without transparency")
    return image.convert("RGB")
