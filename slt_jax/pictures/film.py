"""A clip as a film: its streams side by side, as gif or mp4."""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from slt_jax.base.files import replacing
from slt_jax.errors import UserError
from slt_jax.pictures.clip import ClipView
from slt_jax.pictures.lettering import draw_text
from slt_jax.pictures.tiles import frame_tiles, source_colours
from slt_jax.streams import STREAMS, Stream

_GAP, _BAR, _TEXT = 8, 26, 13  # pixels
_PAPER, _INK, _FAINT = "white", "black", "#666666"


def film(clip: ClipView, fps: float, frames: Iterable[int], tile: int = 184) -> Iterator[Image.Image]:
    """One picture per requested frame. Width and height are even, as video needs them."""
    colours = source_colours(clip)
    width, height = len(STREAMS) * (tile + _GAP) + _GAP, 2 * _BAR + tile + 14
    for frame in frames:
        image = Image.new("RGB", (width + width % 2, height + height % 2), _PAPER)
        draw = ImageDraw.Draw(image)
        draw_text(image, (_GAP, 5), clip.files.video_id, _TEXT, _INK)
        draw_text(image, (width - 190, 5), f"frame {frame} of {clip.total}   {frame / fps:.2f} s", _TEXT, _FAINT)
        tiles = frame_tiles(clip, frame, tile, colours)
        for column, (stream, picture) in enumerate(zip(STREAMS, tiles, strict=True)):
            x = _GAP + column * (tile + _GAP)
            image.paste(picture, (x, _BAR))
            draw_text(image, (x, _BAR + tile + 4), _caption(clip, stream, frame), _TEXT, _INK)
        progress = _GAP + (width - 2 * _GAP) * (frame + 1) / clip.total
        draw.rectangle((_GAP, height - 9, width - _GAP, height - 6), fill="#dddddd")
        draw.rectangle((_GAP, height - 9, progress, height - 6), fill="#0072b2")
        yield image


def _caption(clip: ClipView, stream: Stream, frame: int) -> str:
    """The stream's name and, for a hand, where its crop comes from or why there is none."""
    there = clip.has(stream.name, frame) if stream.images else clip.points(frame) is not None
    if not there:
        return f"{stream.title}: none"
    hidden = "hidden" if clip.hidden(stream.name, frame) else ""
    facts = ", ".join(filter(None, (clip.source(stream.name, frame), hidden)))
    return f"{stream.title}: {facts}" if facts else stream.title


def write_gif(path: str | Path, clip: ClipView, fps: float) -> None:
    """Write at most 50 frames per second, because viewers slow down faster files."""
    # One palette, from frames all over the clip: smaller than one per frame, and nothing flickers.
    some = list(film(clip, fps, np.linspace(0, clip.total - 1, 8).round().astype(int).tolist()))
    montage = Image.new("RGB", (some[0].width, len(some) * some[0].height))
    for row, image in enumerate(some):
        montage.paste(image, (0, row * image.height))
    palette = montage.quantize(256, method=Image.Quantize.MEDIANCUT)
    images = film(clip, fps, range(clip.total))
    reduced = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
    with replacing(path) as file:
        duration = max(round(1000 / fps), 20)
        next(reduced).save(file, "GIF", save_all=True, append_images=reduced, duration=duration, loop=0)


def write_mp4(path: str | Path, clip: ClipView, fps: float) -> None:
    """Write H.264. Raises UserError if PyAV is not installed or has no encoder for it."""
    try:
        import av
    except ImportError:
        raise UserError(f'{path}: mp4 needs PyAV: pip install "slt-jax[media]", or write a .gif') from None
    images = film(clip, fps, range(clip.total))
    first = next(images)
    written = io.BytesIO()  # of a file on a full disk, PyAV would print and pass over the last error
    try:
        with av.open(written, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height = first.size
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "20"}
            for image in chain([first], images):
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
            container.mux(stream.encode())
    except (av.FFmpegError, av.codec.codec.UnknownCodecError) as error:
        raise UserError(f"{path}: cannot be written as H.264 ({error}); write a .gif") from None
    with replacing(path) as file:
        file.write(written.getbuffer())
