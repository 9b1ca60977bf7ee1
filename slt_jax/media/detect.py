"""The detectors; this file and holistic.py know mediapipe. All points and boxes are in pixels of the given image.

Tests replace `Detector` by an object with the same methods.
"""

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from slt_jax.data.landmarks import WRIST
from slt_jax.errors import UserError

Box = tuple[float, float, float, float]  # left, top, right, bottom
PARTS = ("face", "hand_l", "hand_r")
# Hands are accepted from these fractions of the requested confidence on: the pose's wrist vouches for each of them, and
# the models' own 0.5 loses most blurred hands (docs/video.md has the rates).
HOLISTIC_HAND_SHARE, HAND_SHARE = 0.1, 0.4


@dataclass(frozen=True)
class Body:
    """One person: `pose` (33, 3) with x, y, confidence; `face` (N, 2) and hands (21, 2), or None if not seen.

    The first point of a hand is its wrist.
    """

    pose: np.ndarray
    face: np.ndarray | None
    hand_l: np.ndarray | None
    hand_r: np.ndarray | None


Wanted = Callable[[np.ndarray], Collection[str]]  # the parts to look for, of a pose (33, 3)


class Detector:
    """mediapipe's models. `body` remembers the last image until `reset`. Close it after use.

    Raises UserError if mediapipe is not installed.
    """

    def __init__(self, min_confidence: float):
        mp = _mediapipe()
        from slt_jax.media.holistic import Holistic

        self._min_confidence = min_confidence
        solutions = mp.solutions
        self._holistic = Holistic(min_confidence, HOLISTIC_HAND_SHARE * min_confidence)
        # The small models take half the time, and only the position of a hand is used.
        self._hands = solutions.hands.Hands(
            static_image_mode=True,
            max_num_hands=4,
            model_complexity=0,
            min_detection_confidence=HAND_SHARE * min_confidence,
            min_tracking_confidence=HAND_SHARE * min_confidence,
        )
        self._faces = solutions.face_detection.FaceDetection(model_selection=1, min_detection_confidence=min_confidence)
        self._pose: Any = None  # made once there are several people to choose from

    def body(self, image: np.ndarray, wanted: Wanted = lambda _: PARTS) -> Body | None:
        """The most prominent person, searched for near its place in the last image.

        Only those parts are looked for that `wanted` names for the pose; the others are None.
        """
        with _quiet():
            landmarks = self._holistic.pose(image)
            pose = None if landmarks is None else _points(landmarks, image)
            found = self._holistic.parts(() if pose is None else wanted(pose))
        if pose is None:
            return None
        return Body(pose, **{name: _points(found[name], image)[:, :2] if name in found else None for name in PARTS})

    def poses(self, images: Iterable[np.ndarray]) -> list[np.ndarray | None]:
        """The poses (33, 3) of one person followed through `images`; takes less than half the time of `body`."""
        if self._pose is None:
            self._pose = _mediapipe().solutions.pose.Pose(
                model_complexity=1, min_detection_confidence=self._min_confidence,
                min_tracking_confidence=self._min_confidence,
            )  # fmt: skip
        else:
            self._pose.reset()
        with _quiet():
            landmarks = [(image, self._pose.process(image).pose_landmarks) for image in images]
        return [None if points is None else _points(points, image) for image, points in landmarks]

    def hands(self, image: np.ndarray) -> list[np.ndarray]:
        """All hands (21, 2). Whether mediapipe calls them left or right is ignored: it is wrong more often than not."""
        with _quiet():
            result = self._hands.process(image)
        return [_points(hand, image)[:, :2] for hand in result.multi_hand_landmarks or []]

    def faces(self, image: np.ndarray) -> list[Box]:
        """Boxes (left, top, right, bottom) of all faces in `image`."""
        height, width = image.shape[:2]
        with _quiet():
            result = self._faces.process(image)
        boxes = []
        for face in result.detections or []:
            box = face.location_data.relative_bounding_box
            left, top = box.xmin * width, box.ymin * height
            boxes.append((left, top, left + box.width * width, top + box.height * height))
        return sorted(boxes)

    def reset(self) -> None:
        """Forget what `body` saw, so that the next image does not depend on it."""
        self._holistic.reset()

    def close(self) -> None:
        """Free the models."""
        for model in (self._holistic, self._hands, self._faces, self._pose):
            if model is not None:
                model.close()


def _mediapipe():
    os.environ.setdefault("GLOG_minloglevel", "2")  # mediapipe logs every graph
    try:
        import mediapipe
    except ImportError:
        raise UserError('extracting streams needs mediapipe: pip install "slt-jax[media]"') from None
    return mediapipe


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warning that mediapipe uses a deprecated name in protobuf."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SymbolDatabase.GetPrototype", UserWarning)
        yield


def _points(landmarks, image: np.ndarray) -> np.ndarray:
    """(N, 3): x and y in pixels, and visibility (0 if the model gives none)."""
    height, width = image.shape[:2]
    points = np.array([(p.x, p.y, p.visibility) for p in landmarks.landmark], np.float32)
    points[:, :2] *= (width, height)
    return points


def wrist_inside(pose: np.ndarray, side: str, width: int, height: int) -> bool:
    """Whether a pose's wrist lies inside the picture."""
    x, y = pose[WRIST[side], :2]
    return bool(0 <= x < width and 0 <= y < height)
