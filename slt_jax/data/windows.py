"""Where to cut a long video for translation: at pauses of the hands, or at even steps."""

from collections.abc import Mapping, Sequence

import numpy as np

SMOOTH_SECONDS = 0.3
STILL = 0.5  # shoulder widths per second; hands that are never faster say nothing
SHORTEST = 1 / 3  # of the longest window; no pause is searched for before this
SURE = 0.25  # the confidence from which on a wrist counts as seen
SIDES = ("left", "right")


def hand_motion(archive: Mapping[str, np.ndarray], min_confidence: float = SURE) -> np.ndarray:
    """The speed of the faster wrist (T,), in shoulder widths per second, from the arrays of a pose file.

    A hand that is not seen counts as resting.
    """
    points = [str(name) for name in archive["landmarks"]]
    pose = np.asarray(archive["pose"], np.float32).reshape(len(archive["pose"]), len(points), 3)
    unit = np.asarray(archive["space_unit"], np.float32)
    width = usual_width(shoulder_widths(pose, points, unit))
    return wrist_steps(pose, points, unit, min_confidence) * float(archive["fps"]) / width


def wrist_steps(pose: np.ndarray, points: Sequence[str], unit: np.ndarray, min_confidence: float = SURE) -> np.ndarray:
    """How far the faster wrist came from the frame before (T,), in pixels; 0 in the first frame, and where not seen.

    `pose` (T, L, 3) has the landmarks `points`; `unit` are the pixels of a unit of x and of y.
    """
    steps = []
    for side in SIDES:
        wrist = pose[:, points.index(f"{side}_wrist")]
        far = np.linalg.norm(np.diff(wrist[:, :2], axis=0) * unit, axis=-1)
        seen = (wrist[1:, 2] >= min_confidence) & (wrist[:-1, 2] >= min_confidence)
        steps.append(np.concatenate([[0.0], np.where(seen, far, 0.0)]))
    return np.maximum(*steps)


def shoulder_widths(pose: np.ndarray, points: Sequence[str], unit: np.ndarray) -> np.ndarray:
    """The pixels between the shoulders, of each frame of a pose (T, L, 3) that shows anybody."""
    left, right = (pose[:, points.index(f"{side}_shoulder"), :2] for side in SIDES)
    return np.linalg.norm((left - right) * unit, axis=-1)[pose[:, :, 2].any(1)]


def usual_width(widths: np.ndarray) -> float:
    """The median of shoulder widths; 1 without any."""
    return max(float(np.median(widths)) if len(widths) else 1.0, 1e-6)


def smoothing(fps: float) -> int:
    """The frames over which a motion is smoothed."""
    return max(round(SMOOTH_SECONDS * fps), 1)


def smoothed(motion: np.ndarray, fps: float) -> np.ndarray:
    """The mean of a motion (T,) over `SMOOTH_SECONDS` around each frame."""
    wide = smoothing(fps)
    padded = np.pad(motion, (wide // 2, wide - 1 - wide // 2), mode="edge")
    return np.convolve(padded, np.ones(wide) / wide, mode="valid")


def at_pauses(motion: np.ndarray, fps: float, longest: int) -> list[tuple[int, int]]:
    """Windows (first, end) that cover all frames, at most `longest` each, cut where the hands are slowest."""
    calm, windows, first = smoothed(motion, fps), [], 0
    while len(motion) - first > longest:
        end = first + pause_in(calm[first:], longest)
        windows.append((first, end))
        first = end
    return [*windows, (first, len(motion))]


def pause_in(calm: np.ndarray, longest: int) -> int:
    """The frame, at most `longest`, at which to cut a smoothed motion of more frames: where it is slowest."""
    earliest = max(round(SHORTEST * longest), 1)
    # Of equal pauses take the last, for fewer windows.
    stretch = calm[earliest : longest + 1]
    return earliest + len(stretch) - 1 - int(np.argmin(stretch[::-1]))


def even(frames: int, length: int) -> list[tuple[int, int]]:
    """Windows (first, end) of `length` frames; the last holds what is left."""
    return [(first, min(first + length, frames)) for first in range(0, frames, length)]
