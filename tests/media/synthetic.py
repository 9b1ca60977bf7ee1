"""Small videos with a signer made of coloured squares, and a detector that sees nothing else.

Red is a face, green the signer's left hand, blue the right one. Holistic's stand-in sees bright hands, the hand
detector also dim ones, and the dimmest only where they fill enough of the picture, as they do in a crop.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from slt_jax.media.detect import PARTS, Body, Wanted

RED, GREEN, BLUE = 0, 1, 2
BRIGHT, DIM, DIMMEST = 220, 160, 110
FACE, HAND = 12, 8  # sides in pixels
CODECS = {".webm": "libvpx", ".gif": "gif", ".avi": "mpeg4"}


def picture(width: int, height: int, *people: dict) -> np.ndarray:
    """People as {"face": (x, y), "left": (x, y) or (x, y, brightness), "right": ...}; missing parts are not drawn."""
    image = np.zeros((height, width, 3), np.uint8)
    for person in people:
        for part, channel, side in (("face", RED, FACE), ("left", GREEN, HAND), ("right", BLUE, HAND)):
            if part in person:
                x, y, *level = person[part]
                top, left = max(y - side // 2, 0), max(x - side // 2, 0)
                image[top : y + side // 2, left : x + side // 2, channel] = level[0] if level else BRIGHT
    return image


def signing(frames: int, width: int = 96, height: int = 96) -> list[np.ndarray]:
    """A signer whose hands move."""
    return [
        picture(width, height, {"face": (48, 24), "left": (60 + x, 60), "right": (36 - x, 60)})
        for x in (abs(n % 8 - 4) for n in range(frames))
    ]


def write_video(
    path: Path,
    images: Iterable[np.ndarray],
    *,
    rate: Fraction | int = 25,
    times: Sequence[float] | None = None,
    rotation: int | None = None,
    pixel_width: int = 1,
    sound: bool = False,
) -> Path:
    """Encode by the ending of the name; `times` in seconds make the frame rate variable."""
    images = list(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    container = {".m4v": "mp4"}.get(path.suffix.lower(), path.suffix.lower()[1:])
    with av.open(str(path), "w", format={"mkv": "matroska"}.get(container, container)) as file:
        stream = file.add_stream(CODECS.get(path.suffix.lower(), "libx264"), rate=rate)
        stream.height, stream.width = images[0].shape[:2] if images else (32, 32)
        stream.pix_fmt = "rgb8" if container == "gif" else "yuv420p"
        if "264" in stream.codec_context.codec.name:
            stream.options = {"crf": "4", "preset": "ultrafast"}
        else:
            stream.bit_rate = 4_000_000
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if pixel_width != 1:
            stream.codec_context.sample_aspect_ratio = Fraction(pixel_width, 1)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file that has sound and no picture."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def blobs(image: np.ndarray, channel: int, level: int) -> list[np.ndarray]:
    """(left, top, right, bottom) of the squares of one colour, from left to right; columns between must be free."""
    others = [n for n in range(3) if n != channel]
    mask = (image[..., channel] > level) & (image[..., others].max(-1) < 90)
    columns = np.flatnonzero(mask.any(0))
    boxes = []
    for run in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
        if len(run) > 1:
            rows = np.flatnonzero(mask[:, run].any(1))
            boxes.append(np.array([run[0], rows[0], run[-1] + 1, rows[-1] + 1], np.float32))
    return boxes


def hand_points(box: np.ndarray) -> np.ndarray:
    """21 points of a hand; the wrist is in the middle, where this world's poses have it."""
    points = np.tile((box[:2] + box[2:]) / 2, (21, 1)).astype(np.float32)
    points[1], points[2] = box[:2], box[2:]
    return points


class SquareDetector:
    """Detects the squares, as slt_jax.media.detect.Detector does people; nothing is remembered."""

    def __init__(self):
        self.asked = {"hands": 0}

    def body(self, image: np.ndarray, wanted: Wanted = lambda _: PARTS) -> Body | None:
        faces = blobs(image, RED, 150)
        if not faces:
            return None
        face = max(faces, key=lambda box: box[2] - box[0])
        width = face[2] - face[0]
        nose = (face[:2] + face[2:]) / 2
        pose = np.zeros((33, 3), np.float32)
        pose[:11, :2], pose[:, 2] = nose, 0.9
        for point, x, y in ((7, 0.5, 0), (8, -0.5, 0), (11, 1, 1.5), (12, -1, 1.5)):
            pose[point, :2] = nose + width * np.array([x, y])
        pose[13:33, :2] = nose + width * np.array([0, 100])  # out of the picture
        found = {}
        for side, channel, points in (("l", GREEN, (15, 17, 19, 21)), ("r", BLUE, (16, 18, 20, 22))):
            near = self._nearest(blobs(image, channel, 70), nose, 5 * width)
            if near is not None:
                pose[list(points), :2] = (near[:2] + near[2:]) / 2
            bright = self._nearest(blobs(image, channel, 190), nose, 5 * width)
            found[f"hand_{side}"] = None if bright is None else hand_points(bright)
        found["face"] = np.array([face[:2], face[2:]], np.float32)
        asked = wanted(pose)
        return Body(pose, **{part: points if part in asked else None for part, points in found.items()})

    @staticmethod
    def _nearest(boxes: list[np.ndarray], nose: np.ndarray, reach: float) -> np.ndarray | None:
        near = [box for box in boxes if abs((box[0] + box[2]) / 2 - nose[0]) < reach]
        return min(near, key=lambda box: abs((box[0] + box[2]) / 2 - nose[0]), default=None)

    def poses(self, images: Iterable[np.ndarray]) -> list[np.ndarray | None]:
        bodies = [self.body(image) for image in images]
        return [None if body is None else body.pose for body in bodies]

    def hands(self, image: np.ndarray) -> list[np.ndarray]:
        """In no order that would tell left from right."""
        self.asked["hands"] += 1
        found = []
        for channel in (BLUE, GREEN):
            for box in blobs(image, channel, 70):
                level = np.median(image[int(box[1]) : int(box[3]), int(box[0]) : int(box[2]), channel])
                if level > 140 or (level > 85 and (box[2] - box[0]) > 0.2 * len(image)):
                    found.append(hand_points(box))
        return found

    def faces(self, image: np.ndarray) -> list[tuple[float, ...]]:
        return [tuple(float(side) for side in box) for box in blobs(image, RED, 150)]

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass
