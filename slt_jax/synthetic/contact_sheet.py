"""Contact sheets: generated clips as one picture to look at, with Pillow only."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from slt_jax.base.files import replacing
from slt_jax.data.metadata import read_metadata
from slt_jax.errors import UserError
from slt_jax.pictures.lettering import draw_text
from slt_jax.pictures.skeleton import Figure, draw_skeleton, usual_names
from slt_jax.pictures.tiles import paste_column, photo
from slt_jax.synthetic.generator import RenderedClip

ROWS = ("face", "left", "right", "pose")
_CELL, _LABEL, _TITLE = 96, 64, 26  # pixels
_FIGURE = Figure(usual_names(13))


def contact_sheet(
    source: str | os.PathLike | RenderedClip | Sequence[RenderedClip],
    path: str | os.PathLike,
    video_ids: Sequence[str] | None = None,
    columns: int = 12,
) -> Path:
    """Write a PNG that shows clips: face, both hands and pose, `columns` frames of each.

    `source` is a corpus directory (then `video_ids` chooses, by default the first three) or rendered clips.
    """
    if isinstance(source, RenderedClip):
        clips = [source]
    elif isinstance(source, str | os.PathLike):
        clips = list(_read_clips(Path(source), video_ids))
    else:
        clips = list(source)
    path = Path(path)
    with replacing(path) as file:
        draw_sheet(clips, columns).save(file, "PNG")
    return path


def draw_sheet(clips: list[RenderedClip], columns: int) -> Image.Image:
    """Draw clips below each other, each with a title and rows of face, left hand, right hand and pose."""
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


def _read_clips(directory: Path, video_ids: Sequence[str] | None) -> Iterator[RenderedClip]:
    meta = directory / "meta.csv"
    if not meta.is_file():
        raise UserError(f"{meta} is missing: give the directory of a generated corpus")
    rows = read_metadata(meta)
    for video_id in video_ids or list(rows)[:3]:
        if video_id not in rows:
            raise UserError(f"{video_id} is not in {meta}")
        row = rows[video_id]
        if not {"glosses", "signer"} <= row.extra.keys():
            raise UserError(f"{meta} has no columns glosses and signer: give the directory of a generated corpus")
        with np.load(directory / "pose" / f"{video_id}.npz") as arrays:
            pose = arrays["pose"]
        streams, missing = {}, {}
        for stream in ("face", "hand_l", "hand_r"):
            paths = [directory / stream / f"{video_id}_f{frame:06d}.jpg" for frame in range(len(pose))]
            images = [simplejpeg.decode_jpeg(path.read_bytes()) if path.is_file() else None for path in paths]
            missing[stream] = np.array([image is None for image in images])
            seen = [image for image in images if image is not None]
            blank = np.zeros_like(seen[0]) if seen else np.zeros((64, 64, 3), np.uint8)
            streams[stream] = np.stack([blank if image is None else image for image in images])
        yield RenderedClip(
            row.text, row.extra["glosses"], row.extra["signer"], **streams,
            miss_hand_l=missing["hand_l"], miss_hand_r=missing["hand_r"], pose=pose,
        )  # fmt: skip
