"""Which points of the body a pose holds, by name, and in which space.

All sets are chosen from BlazePose's 33 points. Left and right are the signer's. In every set but `blazepose33` the
points without a side stand at the ends and all others in pairs left, right: slt_jax.data.clips.flip_permutation
mirrors a pose by its number of landmarks alone.
"""

from dataclasses import dataclass

import numpy as np

BLAZEPOSE = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb",
    "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel",
    "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
NOSE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 11, 12
HEAD = tuple(range(11))
WRIST = {"hand_l": 15, "hand_r": 16}
FINGER_BASES = {"hand_l": (17, 19), "hand_r": (18, 20)}  # of the smallest and the index finger
NECK = 33  # between the shoulders; not BlazePose's own

_UPPER = (NOSE, *range(11, 23))
SETS: dict[str, tuple[int, ...]] = {
    "upper13": _UPPER,  # nose, shoulders, elbows, wrists, finger bases: v9's
    "upper14": (*_UPPER, NECK),
    "upper17": (NOSE, 2, 5, 7, 8, *range(11, 23)),  # with eyes and ears: where the head is turned
    "coco17": (NOSE, 2, 5, 7, 8, *range(11, 17), *range(23, 29)),  # COCO's order
    "blazepose33": tuple(range(33)),
}
BY_NUMBER = {"13": "upper13", "14": "upper14", "17": "upper17", "33": "blazepose33"}

# mediapipe's joints of a hand, in its order.
HAND_JOINTS = (
    "wrist", *(f"thumb_{joint}" for joint in ("cmc", "mcp", "ip", "tip")),
    *(f"{finger}_{joint}" for finger in ("index_finger", "middle_finger", "ring_finger", "pinky")
      for joint in ("mcp", "pip", "dip", "tip")),
)  # fmt: skip
WITH_HANDS = "upper13+hands"  # 55 points; of poses from elsewhere, as slt-extract cuts hands out instead

# A signer's reach fills the unit square: this many shoulder widths are one unit.
SHOULDERS_PER_UNIT = 4.0


def names(landmarks: str) -> tuple[str, ...]:
    """The points of a set, in its order."""
    if landmarks == WITH_HANDS:
        hands = (f"{side}_hand_{joint}" for side in ("left", "right") for joint in HAND_JOINTS)
        return (*names("upper13"), *hands)
    return tuple((*BLAZEPOSE, "neck")[index] for index in SETS[landmarks])


@dataclass(frozen=True)
class Space:
    """From pixels to a pose's units: the origin, and the pixels per unit, each as (x, y)."""

    origin: tuple[float, float]
    unit: tuple[float, float]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) in this space."""
        return (pixels - np.array(self.origin, np.float32)) / np.array(self.unit, np.float32)


def raw_space(width: int, height: int) -> Space:
    """Fractions of the picture."""
    return Space((0.0, 0.0), (float(width), float(height)))


def signing_space(poses: np.ndarray, min_confidence: float) -> Space | None:
    """The space of one clip from its poses (T, 33, 3) in pixels; None if the shoulders are never seen.

    The point between the shoulders is (0.5, 0.5) and one unit is the same number of pixels across and down, so the
    shape of the body survives and x -> 1 - x is the mirror. Medians over the clip: the signer's movements stay.
    """
    shoulders = poses[:, [LEFT_SHOULDER, RIGHT_SHOULDER]]
    shoulders = shoulders[(shoulders[..., 2] >= min_confidence).all(1), :, :2]
    widths = np.linalg.norm(shoulders[:, 0] - shoulders[:, 1], axis=-1)
    if not len(widths) or not np.median(widths) > 0:
        return None
    unit = float(SHOULDERS_PER_UNIT * np.median(widths))
    x, y = (float(value) for value in np.median(shoulders.mean(1), axis=0))
    return Space((x - unit / 2, y - unit / 2), (unit, unit))


def choose(poses: np.ndarray, landmarks: str, space: Space | None) -> np.ndarray:
    """Poses (T, 33, 3) in pixels as the rows (T, 3L) of a pose file; zeros without a pose (or a space)."""
    neck = poses[:, [LEFT_SHOULDER, RIGHT_SHOULDER]]
    neck = np.concatenate([neck[..., :2].mean(1), neck[..., 2:].min(1)], axis=-1)
    points = np.concatenate([poses, neck[:, None]], axis=1)[:, SETS[landmarks]].astype(np.float32)
    if space is None:
        points[:] = 0
    else:
        seen = poses[..., 2].any(1)
        points[seen, :, :2] = space(points[seen, :, :2])
        points[~seen] = 0
    return points.reshape(len(points), -1)
