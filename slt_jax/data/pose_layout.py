"""What the numbers of a pose file mean: which columns are a landmark's, and whether they can be what training reads.

Training reads x, y and confidence of each landmark. Files with x, y, z and visibility, or with x and y alone, are
brought to that. How many numbers a landmark has follows from the shape (frames, L, 2 to 4), or for (frames, columns)
from the number of landmarks that is asked for. A number of columns alone says nothing: 132 are 33 x 4 and 44 x 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from slt_jax.data.landmarks import SETS
from slt_jax.errors import UserError

MEANING = {3: "x, y, confidence", 4: "x, y, z, visibility", 2: "x, y"}  # of so many numbers a landmark
SHAPES = "(frames, 3 x landmarks) of x, y, confidence; with z 4 x, x and y alone 2 x; or (frames, landmarks, 2 to 4)"
TOLD = {
    4: "x, y, z, visibility of each landmark: visibility is read as its confidence, z is left out",
    2: "x, y of each landmark and no confidence: all count as sure but those at (0, 0)",
}
MIN_CONFIDENCE = 0.25  # below it, a landmark is hidden from the model
DOUBTS = ("pose never confident", "pose around 0")  # kinds of problems that may be meant
FARTHEST = 10.0  # pictures or shoulder widths away; a landmark beyond this is in pixels, or nonsense
ROUNDING = 1e-3  # by which a confidence may miss 0 to 1
STRAY = 0.05  # of the landmarks may have a strange confidence before none is believed
FRAMES = 64  # of a clip are looked at, evenly spread
MIRRORED = 0.3  # of x at least are negative, and positive, where 0 is the middle
CLEAR = 0.1  # of the differences between columns that a layout must explain, and explain better than the other


@dataclass(frozen=True)
class PoseProblem:
    """What is wrong with the values of a pose. If it is `certain`, nothing can be learned from the clip."""

    kind: str
    detail: str
    certain: bool


def is_pose(pose: np.ndarray) -> bool:
    """Whether an array has the shape of a pose: (frames, L, 2 to 4), or (frames, columns of landmarks)."""
    if pose.ndim == 3:
        return pose.shape[1] > 0 and pose.shape[2] in MEANING
    return pose.ndim == 2 and pose.shape[1] > 0 and any(pose.shape[1] % numbers == 0 for numbers in MEANING)


def numbers_a_landmark(columns: int, landmarks: int) -> int | None:
    """How many of `columns` each of `landmarks` has: 3, 4 or 2; None if the two do not fit."""
    return next((numbers for numbers in MEANING if columns == numbers * landmarks), None)


def into_landmarks(pose: np.ndarray, landmarks: int | None = None) -> np.ndarray | None:
    """A pose as (frames, L, 2 to 4), None if it does not have so many landmarks.

    Without `landmarks`, columns are divided as their values say, else by the first of 3, 4 and 2 that divides them.
    """
    if pose.ndim == 3:
        return pose if landmarks in (None, pose.shape[1]) else None
    columns = pose.shape[1]
    if landmarks is None:
        numbers = likely_numbers(pose) or next(numbers for numbers in MEANING if columns % numbers == 0)
        return pose.reshape(len(pose), columns // numbers, numbers)
    found = numbers_a_landmark(columns, landmarks)
    return None if found is None else pose.reshape(len(pose), landmarks, found)


def with_confidence(points: np.ndarray) -> np.ndarray:
    """Landmarks (..., L, 2 to 4) as x, y and confidence (..., L, 3)."""
    if points.shape[-1] == 3:
        return points
    x_y = points[..., :2]
    # Where no confidence says so, (0, 0) is "not seen". What is no number is masked by the loader.
    sure = points[..., 3:] if points.shape[-1] == 4 else x_y.any(axis=-1, keepdims=True)
    return np.concatenate([x_y, sure.astype(points.dtype)], axis=-1)


def some_frames(pose: np.ndarray) -> np.ndarray:
    """At most `FRAMES` of a pose's frames, evenly spread."""
    return pose[np.linspace(0, len(pose) - 1, min(len(pose), FRAMES)).round().astype(int)]


def pose_problems(points: np.ndarray) -> Iterator[PoseProblem]:
    """What is wrong with the values of landmarks (frames, L, 3)."""
    points = points.astype(np.float64)
    finite = np.isfinite(points).all(axis=-1)
    if lost := int((~finite).sum()):
        yield PoseProblem("pose not finite", f"{lost} of {finite.size} landmarks", False)
    known = points[finite & points.any(axis=-1)]
    if not len(known):
        return
    confidence, far = known[:, 2], np.abs(known[:, :2]).max(axis=-1)
    stray = (confidence < -ROUNDING) | (confidence > 1 + ROUNDING)
    if stray.any():
        certain = bool((stray & (confidence != -1)).mean() > STRAY)  # -1 is "not seen" to some, and masked like 0
        yield PoseProblem("pose confidence", f"{confidence.min():g} to {confidence.max():g}, expected 0 to 1", certain)
    elif confidence.max() < MIN_CONFIDENCE:
        detail = f"{confidence.max():g} at most, and below {MIN_CONFIDENCE} the model sees none: is it one?"
        yield PoseProblem("pose never confident", detail, False)
    if MIRRORED < (share := float((known[:, 0] < 0).mean())) < 1 - MIRRORED:
        detail = (
            f"x is negative at {share:.0%} of the landmarks, but a mirrored clip takes 1 - x: put the middle at 0.5"
        )
        yield PoseProblem("pose around 0", detail, False)
    if far.max() > FARTHEST:
        detail = f"x or y up to {far.max():g}, where 0 to 1 is the picture: pixels, it seems"
        yield PoseProblem("pose out of range", detail, bool(np.median(far) > FARTHEST))


# --- what the values say about the layout -------------------------------------------------------------------------


def likely_numbers(pose: np.ndarray) -> int | None:
    """3 or 4 if the values of a pose (frames, columns) say that each landmark has so many numbers, else None.

    Columns of one kind are alike: confidences are high, x lie around the body. So the true period explains more of the
    differences between columns than another.
    """
    pose, columns = some_frames(pose), pose.shape[1]
    possible = possible_numbers(pose)
    scores = {numbers: _explained(pose, numbers) if numbers in possible else 0.0 for numbers in (3, 4)}
    best, other = sorted(scores, key=scores.__getitem__, reverse=True)
    known = {len(points) for points in SETS.values()}
    if best == 4 and columns // 2 in known and columns // 4 not in known:
        return None  # left and right take turns, so x, y of 14 landmarks look like four numbers of 7
    return best if scores[best] - max(scores[other], 0.0) > CLEAR else None


def possible_numbers(pose: np.ndarray) -> list[int]:
    """With which numbers a landmark the values of a pose can be meant; all where it shows nobody."""
    if pose.ndim == 3:
        return [] if _nonsense(pose) else [pose.shape[2]]
    frames, columns = pose.shape  # there may be no frames
    divided = (n for n in MEANING if columns % n == 0)
    return [n for n in divided if not _nonsense(pose.reshape(frames, columns // n, n))]


def _nonsense(points: np.ndarray) -> bool:
    return any(problem.certain for problem in pose_problems(with_confidence(points)))


def _explained(pose: np.ndarray, period: int) -> float:
    """The share of the differences between columns that their place in the period explains, corrected for chance."""
    count = pose.shape[1]
    seen = np.where(np.isfinite(pose), pose, 0).astype(np.float64)
    seen = seen[seen.any(axis=1)]  # frames that show nobody are 0
    if count <= period or not len(seen):
        return 0.0
    facts = np.stack([seen.mean(axis=0), seen.std(axis=0)])
    groups = facts.reshape(2, -1, period)
    inside, total = ((x - x.mean(axis=1, keepdims=True)) ** 2 for x in (groups, facts))
    unexplained = inside.sum(axis=(1, 2)) / np.maximum(total.sum(axis=1), 1e-12)
    return float((1 - unexplained * (count - 1) / (count - period)).mean())


def other_landmarks(path: str, pose: np.ndarray, landmarks: int) -> UserError:
    """The error about a pose that is not of so many landmarks. It advises only what its shape or its values say."""
    if pose.ndim == 3:
        found, numbers, size = pose.shape[1], pose.shape[2], f"{pose.shape[1]} x {pose.shape[2]}"
    else:
        numbers, size = likely_numbers(pose) or 0, f"{pose.shape[1]} columns"
        found = pose.shape[1] // max(numbers, 1)
    if numbers:
        meaning = "" if numbers == 3 else f" of {MEANING[numbers]}"
        holds = f"{found} landmarks{meaning} ({size}), expected {landmarks}"
        return UserError(f"{path}: {holds}; set --pose-landmarks to what the files hold")
    wanted = " or ".join(f"{numbers * landmarks} ({meaning})" for numbers, meaning in MEANING.items())
    return UserError(
        f"{path}: {size}, but {landmarks} landmarks have {wanted}; set --pose-landmarks to the landmarks of a frame, "
        f"or write x, y, confidence of each"
    )


def misread(pose: np.ndarray, landmarks: int) -> str:
    """What the values of a pose rather seem to be than what is read; empty if nothing says so."""
    if pose.ndim == 3 or (likely := likely_numbers(pose)) is None:
        return ""
    columns = pose.shape[1]
    if {likely, numbers_a_landmark(columns, landmarks)} != {3, 4}:
        return ""
    count = columns // likely
    return (
        f"the {columns} columns look like {count} landmarks of {MEANING[likely]}: if so, set --pose-landmarks {count}"
    )
