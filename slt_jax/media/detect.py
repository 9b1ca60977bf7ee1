"""The detectors: the only file that knows mediapipe. All points and boxes are in pixels of the given image.

Tests replace `Detector` by an object with the same methods.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from slt_jax.data.landmarks import WRIST
from slt_jax.errors import UserError

Box = tuple[float, float, float, float]  # left, top, right, bottom

_HOLISTIC = "mediapipe/modules/holistic_landmark/holistic_landmark_cpu.binarypb"
# The nodes of Holistic's graph that decide whether it looks at a hand; one for each hand.
_HAND_THRESHOLD = "handlandmarksleftandrightcpu__handlandmarksfromposecpu_{}__handlandmarkcpu__ThresholdingCalculator"
# Hands are accepted from these fractions of the requested confidence on: the pose's wrist vouches for each of them, and
# the models' own 0.5 loses most blurred hands (docs/video.md has the rates).
HOLISTIC_HAND_SHARE, HAND_SHARE = 0.1, 0.4


@dataclass(frozen=True)
class Body:
    """One person: `pose` (33, 3) with x, y, confidence; `face` (N, 2) and hands (21, 2), or None if not found.

    The first point of a hand is its wrist.
    """

    pose: np.ndarray
    face: np.ndarray | None
    hand_l: np.ndarray | None
    hand_r: np.ndarray | None


class Detector:
    """mediapipe's models. `body` remembers the last image until `reset`. Close it after use.

    Raises UserError if mediapipe is not installed.
    """

    def __init__(self, min_confidence: float):
        mp = _mediapipe()
        from mediapipe.python.solution_base import SolutionBase

        self._min_confidence = min_confidence
        solutions = mp.solutions
        # The public class cannot set the threshold for hands.
        params = {f"{_HAND_THRESHOLD.format(n)}.threshold": HOLISTIC_HAND_SHARE * min_confidence for n in (1, 2)}
        params |= {
            "poselandmarkcpu__posedetectioncpu__TensorsToDetectionsCalculator.min_score_thresh": min_confidence,
            "poselandmarkcpu__poselandmarkbyroicpu__tensorstoposelandmarksandsegmentation__ThresholdingCalculator"
            ".threshold": min_confidence,
        }
        self._holistic = SolutionBase(
            binary_graph_path=_HOLISTIC,
            side_inputs={
                "model_complexity": 1, "smooth_landmarks": True, "enable_segmentation": False,
                "smooth_segmentation": False, "refine_face_landmarks": False, "use_prev_landmarks": True,
            },
            calculator_params=params,
            outputs=["pose_landmarks", "left_hand_landmarks", "right_hand_landmarks", "face_landmarks"],
        )  # fmt: skip
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

    def body(self, image: np.ndarray) -> Body | None:
        """The most prominent person, searched for near its place in the last image."""
        with _quiet():
            result = self._holistic.process({"image": image})
        if result.pose_landmarks is None:
            return None
        face, left, right = (
            None if points is None else _points(points, image)[:, :2]
            for points in (result.face_landmarks, result.left_hand_landmarks, result.right_hand_landmarks)
        )
        return Body(_points(result.pose_landmarks, image), face, left, right)

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
