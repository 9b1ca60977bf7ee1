"""The signer in one picture after another, and the crops of a frame: what an extraction and a live camera share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slt_jax.data import landmarks
from slt_jax.media.crops import LOOKAHEAD, Square, blurred, cut, smoothed
from slt_jax.media.detect import Body
from slt_jax.media.hands import HandFinder, Track, shoulder_width
from slt_jax.media.settings import ExtractionSettings
from slt_jax.media.signer import Choice, Follower
from slt_jax.streams import IMAGES, Crop

FACE_SCALE = 1.5  # a crop's side relative to the widest extent of the face's points
HEAD_SCALE = 2.2  # the same for the pose's points of the head, which reach only to the ears
BLUR_SCALE = 1.2  # the blurred square relative to the crop
FACE_HOLD_SECONDS = 1.0
FACE_TRACK_SECONDS = 0.19  # less than this after a model saw the face, its box may follow the pose instead


@dataclass(frozen=True)
class Found:
    """What was found in one picture, in its pixels: the pose (33, 3), zeros without one, and each stream's square.

    `sources` say what found a square; empty where there is none.
    """

    pose: np.ndarray
    squares: dict[str, Square | None]
    sources: dict[str, str]

    @property
    def anybody(self) -> bool:
        """Whether there is a pose."""
        return bool(self.pose[:, 2].any())


class Finder:
    """Finds the signer in one picture after another; a new one for each video."""

    def __init__(self, detector, settings: ExtractionSettings, choice: Choice):
        self._detector, self._region = detector, choice.region
        self._hands = HandFinder(detector, settings.min_confidence)
        self._min_confidence = settings.min_confidence
        self._follower = Follower()
        self._face: tuple[float, Square] | None = None
        self._face_track: Track | None = None
        self._face_tracked: Square | None = None  # of the picture that is looked at

    def look(self, image: np.ndarray, time: float) -> Found:
        """What is in `image`, uint8 (H, W, 3), which is shown at `time` in seconds."""
        body = self._body(image, time)
        hands = self._hands.find(image, body, time)
        crops: dict[str, tuple[Square, str] | None] = {side: (h.square, h.source) for side, h in hands.items()}
        crops["face"] = self._face_square(body, time)
        found = Found(np.zeros((33, 3), np.float32) if body is None else body.pose, {}, {})
        for stream in IMAGES:
            if stream.crop.around:
                crops[stream.name] = self._part_square(body, stream.crop)
            found.squares[stream.name], found.sources[stream.name] = crops.get(stream.name) or (None, "")
        return found

    def _body(self, image: np.ndarray, time: float) -> Body | None:
        """The signer in pixels of the whole picture."""
        left, top, right, bottom = self._region
        corner = np.array([left, top, 0], np.float32)
        self._face_tracked = None
        seen = np.ascontiguousarray(image[top:bottom, left:right])
        body = self._detector.body(seen, lambda pose: self._wanted(image, pose + corner, time))
        if body is None:
            return None
        pose, corner = body.pose + corner, corner[:2]
        others = (None if points is None else points + corner for points in (body.face, body.hand_l, body.hand_r))
        body = Body(pose, *others)
        if not self._follower.accepts(body, time):
            self._detector.reset()  # it would continue with the wrong person
            return None
        return body

    def _wanted(self, image: np.ndarray, pose: np.ndarray, time: float) -> list[str]:
        """The parts that a model must look at."""
        if self._face_track:
            self._face_tracked = self._face_track.follow(_head(pose), time, FACE_TRACK_SECONDS)
        return self._hands.wanted(image, pose, time) + ([] if self._face_tracked else ["face"])

    def _face_square(self, body: Body | None, time: float) -> tuple[Square, str] | None:
        crop: tuple[Square, str] | None = None
        if body is not None and body.face is not None:
            crop = Square.around(body.face, FACE_SCALE), "holistic"
            self._face_track = Track(time, _head(body.pose), crop[0])
        elif body is not None and self._face_tracked:
            crop = self._face_tracked, "tracked"
        elif body is not None and body.pose[landmarks.NOSE, 2] >= self._min_confidence:
            head = Square.around(body.pose[list(landmarks.HEAD)], HEAD_SCALE)
            crop = Square(head.x, head.y, max(head.side, 0.6 * shoulder_width(body.pose))), "pose"
        elif self._face and time - self._face[0] <= FACE_HOLD_SECONDS:
            return self._face[1], "hold"
        if crop:
            self._face = time, crop[0]
        return crop

    def _part_square(self, body: Body | None, crop: Crop) -> tuple[Square, str] | None:
        """About those points of a crop that the pose is sure of."""
        if body is None:
            return None
        points = body.pose[[landmarks.BLAZEPOSE.index(name) for name in crop.around]]
        points = points[points[:, 2] >= self._min_confidence]
        return (Square.around(points, crop.scale), "pose") if len(points) > 1 else None


def _head(pose: np.ndarray) -> np.ndarray:
    return pose[list(landmarks.HEAD), :2]


class Cropper:
    """Cuts the crops of one frame after another, at `fps` frames a second."""

    def __init__(self, settings: ExtractionSettings, fps: float):
        self._settings, self._fps = settings, fps
        self._face: Square | None = None  # where it was last found

    def squares(self, found: Sequence[Found], place: int) -> dict[str, Square | None]:
        """The squares of the frame at `place` in `found`, smoothed over the frames around it that are in there."""
        first = max(place - LOOKAHEAD, 0)
        near = found[first : place + LOOKAHEAD + 1]
        squares = {}
        for stream in IMAGES:
            centre, side = (self._fps * seconds for seconds in stream.crop.smoothing)
            boxes = [frame.squares[stream.name] for frame in near]
            squares[stream.name] = smoothed(boxes, place - first, centre=centre, side=side)
        return squares

    def crops(self, image: np.ndarray, found: Found, squares: dict[str, Square | None]) -> dict[str, np.ndarray]:
        """The crops, uint8 (crop_size, crop_size, 3), of the streams that have a square in this frame."""
        if self._settings.face_blur:
            # If the face is not found, hand crops must not show it either: its last known place is blurred.
            self._face = found.squares["face"] or self._face
            if face := squares["face"] or self._face:
                image = blurred(image, Square(face.x, face.y, BLUR_SCALE * face.side))
        size = self._settings.crop_size
        return {name: cut(image, square, size) for name, square in squares.items() if square is not None}
