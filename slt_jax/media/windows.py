"""Where to cut a long video for translation: at pauses of the hands, or at even steps."""

from collections.abc import Mapping

import numpy as np

SMOOTH_SECONDS = 0.3
STILL = 0.5  # shoulder widths per second; hands that are never faster say nothing
SHORTEST = 1 / 3  # of the longest window; no pause is searched for before this


def hand_motion(archive: Mapping[str, np.ndarray], min_confidence: float = 0.25) -> np.ndarray:
    """The speed of the faster wrist (T,), in shoulder widths per second, from the arrays of a pose file.

    A hand that is not seen counts as resting.
    """
    points = [str(name) for name in archive["landmarks"]]
    pose = np.asarray(archive["pose"], np.float32).reshape(len(archive["pose"]), len(points), 3)
    place = {name: pose[:, points.index(name)] for name in
             ("left_wrist", "right_wrist", "left_shoulder", "right_shoulder")}  # fmt: skip
    unit = np.asarray(archive["space_unit"], np.float32)
    apart = np.linalg.norm((place["left_shoulder"] - place["right_shoulder"])[:, :2] * unit, axis=-1)
    known = apart[pose[:, :, 2].any(1)]
    width = max(float(np.median(known)) if len(known) else 1.0, 1e-6)
    speeds = []
    for side in ("left_wrist", "right_wrist"):
        wrist = place[side]
        steps = np.linalg.norm(np.diff(wrist[:, :2], axis=0) * unit, axis=-1)
        seen = (wrist[1:, 2] >= min_confidence) & (wrist[:-1, 2] >= min_confidence)
        speeds.append(np.concatenate([[0.0], np.where(seen, steps, 0.0)]))
    return np.maximum(*speeds) * float(archive["fps"]) / width


def at_pauses(motion: np.ndarray, fps: float, longest: int) -> list[tuple[int, int]]:
    """Windows (first, end) that cover all frames, at most `longest` each, cut where the hands are slowest."""
    wide = max(round(SMOOTH_SECONDS * fps), 1)
    padded = np.pad(motion, (wide // 2, wide - 1 - wide // 2), mode="edge")
    calm = np.convolve(padded, np.ones(wide) / wide, mode="valid")
    windows, first = [], 0
    while len(motion) - first > longest:
        earliest = first + max(round(SHORTEST * longest), 1)
        # Of equal pauses take the last, for fewer windows.
        stretch = calm[earliest : first + longest + 1]
        end = earliest + len(stretch) - 1 - int(np.argmin(stretch[::-1]))
        windows.append((first, end))
        first = end
    return [*windows, (first, len(motion))]


def even(frames: int, length: int) -> list[tuple[int, int]]:
    """Windows (first, end) of `length` frames; the last holds what is left."""
    return [(first, min(first + length, frames)) for first in range(0, frames, length)]
