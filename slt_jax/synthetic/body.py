"""From a sentence to movement: signers, timing, and tracks of both hands, face and pose for every frame.

Everything is an array over the frames of a clip. Each sign gives target values. Weights that rise and fall smoothly mix
neighbouring signs (co-articulation), and a stroke is added while a sign is held. Random numbers come from one generator
per purpose, and none depends on the sign shown: two glosses that differ in one stream give equal frames in the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slt_jax.synthetic.classifiers import along
from slt_jax.synthetic.grammar import Sentence
from slt_jax.synthetic.hard_lexicon import articulated
from slt_jax.synthetic.lexicon import FACES, ORIENTATIONS, PLACES, SHAPES, Sign
from slt_jax.synthetic.signers import Signer

# Columns of a hand track: flexion of thumb..pinky, spread, thumb off; roll, pitch, yaw in degrees; x, y in
# shoulder widths from the middle of the shoulders, x towards the hand's own side, y down.
SHAPE, ROLL, PITCH, YAW, X, Y = slice(0, 7), 7, 8, 9, 10, 11
HAND_COLUMNS = 12
# Columns of a face track, 0 = neutral.
FACE = ("raise", "furrow", "eyes", "open", "width", "curve", "cheeks", "teeth", "tongue", "yaw", "pitch", "roll")

REST = np.array([*SHAPES["round"], *ORIENTATIONS["down"], 0.55, 1.2])
BASE_PLACE, BASE_ORIENTATION = (0.25, 0.6), (25, 0, 0)  # of a left hand on which the right one acts


@dataclass(frozen=True)
class Tracks:
    """One clip before it is drawn. `right` and `left` are the person's own sides, also for left-handed signers."""

    right: np.ndarray  # (T, HAND_COLUMNS)
    left: np.ndarray
    miss_right: np.ndarray  # bool (T,)
    miss_left: np.ndarray
    blur: np.ndarray  # (T,) 0 while a sign is held, 1 in the middle of a transition
    face: np.ndarray  # (T, len(FACE))
    pose: np.ndarray  # float32 (T, 39)


def smooth_noise(rng: np.random.Generator, frames: int, columns: int) -> np.ndarray:
    """Noise (frames, columns) of about unit variance, correlated over about three frames."""
    white = rng.standard_normal((frames + 2, columns))
    return (white[:-2] + 2 * white[1:-1] + white[2:]) / np.sqrt(6)


def _stroke(motion: str, phase: np.ndarray) -> np.ndarray:
    """What a motion adds to x, y (in shoulder widths) and roll (in degrees) at phase 0..1 of the sign: (T, 3)."""
    turn = 2 * np.pi * phase
    zero, swing, path = np.zeros_like(phase), np.sin(1.5 * turn), 2 * phase - 1
    triangle = 2 * np.abs((3 * phase) % 2 - 1) - 1
    return np.stack(
        {
            "hold": (zero, zero, zero),
            "tap": (zero, 0.14 * swing, zero),
            "up": (zero, -0.38 * path, zero),
            "down": (zero, 0.38 * path, zero),
            "out": (0.38 * path, zero, zero),
            "cross": (-0.38 * path, zero, zero),
            "circle": (0.28 * np.sin(turn), 0.28 * np.cos(turn), zero),
            "zigzag": (0.34 * path, 0.17 * triangle, zero),
            "wave": (0.24 * swing, zero, zero),
            "twist": (zero, zero, 38 * swing),
            "far": (0.4 * np.sin(turn / 2), -0.3 * np.sin(turn / 2), zero),
            "slide": (0.12 * path, zero, zero),
        }[motion],
        axis=1,
    )


def _hand_targets(sign: Sign, phase: np.ndarray, left_handed: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The dominant and the other hand over the frames, each (T, HAND_COLUMNS); None for an idle hand."""
    start, end = np.array(SHAPES[sign.right]), np.array(SHAPES[sign.right_end])
    right = np.empty((len(phase), HAND_COLUMNS))
    changed = np.clip(2 * phase - 0.5, 0, 1)[:, None]  # open or close in the middle half of the sign
    right[:, SHAPE] = start + changed * (end - start)
    right[:, ROLL:X] = ORIENTATIONS[sign.orientation]
    right[:, X:] = PLACES[sign.place]
    right[:, [X, Y, ROLL]] += _stroke(sign.motion, phase)
    right[:, X] += sign.drift
    if sign.path is not None:
        right[:, X:] += along(sign.path, phase, left_handed)
    if sign.left is None:
        return right, None
    if sign.left == "mirror":
        left = right.copy()
        left[:, X] = np.maximum(left[:, X], 0.12) + 0.1  # two hands do not fit in one place
        return right, left
    return right, np.tile([*SHAPES[sign.left], *BASE_ORIENTATION, *BASE_PLACE], (len(phase), 1))


def _face_targets(sign: Sign, marks: frozenset[str], seconds: np.ndarray) -> np.ndarray:
    """The sign's mouth and eyes and the grammar's brows and head: (T, len(FACE)). `seconds`: four frames are 1."""
    value = dict.fromkeys(FACE, 0.0) | FACES[sign.face]
    track = np.tile([value[name] for name in FACE], (len(seconds), 1))
    if "neg" in marks:
        track[:, FACE.index("yaw")] += np.sin(2 * np.pi * seconds)
        track[:, FACE.index("furrow")] += 0.4
        track[:, FACE.index("curve")] -= 0.5
    if "yn" in marks:
        track[:, FACE.index("raise")] += 1.0
        track[:, FACE.index("eyes")] += 0.3
        track[:, FACE.index("pitch")] += 0.5
    if "wh" in marks:
        track[:, FACE.index("furrow")] += 1.0
        track[:, FACE.index("roll")] += 0.8
    if "imp" in marks:
        track[:, FACE.index("furrow")] += 0.5
        track[:, FACE.index("eyes")] += 0.4
        track[:, FACE.index("pitch")] += 0.8 * np.sin(np.pi * seconds)
    return track


def _timeline(rng: np.random.Generator, frames: int, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """When each sign is on: weights (T, signs + 2) with rest at both ends, phases (T, signs), transition blur (T,).

    `shares` (signs,) say how long each takes beside a usual one.
    """
    signs = len(shares)
    lengths = np.concatenate([[0.3], shares * rng.uniform(0.75, 1.3, signs), [0.3]])
    edges = np.concatenate([[0], np.cumsum(lengths)]) * frames / lengths.sum()
    times = np.arange(frames) + 0.5
    spans = np.diff(edges)
    # The transition between two signs takes 45 % of the shorter one.
    width = 0.45 * np.minimum(spans[:-1], spans[1:])
    width[[0, -1]] = 0.45 * spans[[1, -2]]
    ramp = np.clip((times[:, None] - edges[1:-1]) / width + 0.5, 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    ones = np.ones((frames, 1))
    weights = np.concatenate([ones, ramp], axis=1) - np.concatenate([ramp, 0 * ones], axis=1)
    phase = np.clip((times[:, None] - edges[1:-2]) / spans[1:-1], 0, 1)
    phase += rng.uniform(-0.12, 0.12, signs) * np.sin(np.pi * phase) * phase  # strokes speed up or slow down
    return weights, phase, 1 - np.abs(2 * weights.max(axis=1) - 1)


def tracks(sentence: Sentence, signer: Signer, frames: int, seed: tuple[int, ...], calm: bool = False) -> Tracks:
    """The movement of one clip. `calm` (the small level) halves the jitter and the number of lost hands."""
    timing, body, gaps = (np.random.default_rng([*seed, purpose]) for purpose in (1, 2, 3))
    signs = articulated(sentence.glosses)
    weights, phase, blur = _timeline(timing, frames, np.array([sign.share for sign in signs]))
    seconds = (np.arange(frames) + timing.uniform(0, 4)) / 4
    amount = signer.jitter * (0.5 if calm else 1.0)

    dominant, other = (np.tile(REST, (frames, 1)) for _ in range(2))
    face = np.zeros((frames, len(FACE)))
    for i, (sign, marks) in enumerate(zip(signs, sentence.marks, strict=True)):
        weight = weights[:, i + 1 : i + 2]
        strong, weak = _hand_targets(sign, phase[:, i], signer.left_handed)
        dominant += weight * (strong - REST)
        if weak is not None:
            other += weight * (weak - REST)
        face += weight * _face_targets(sign, marks, seconds)

    spread = np.array([0.04] * 7 + [5, 4, 6, 0.03, 0.03]) * amount
    habit = np.array([0] * 7 + [6, 4, 8, 0.06, 0.06]) * amount
    for track in (dominant, other):
        track += spread * smooth_noise(body, frames, HAND_COLUMNS) + habit * body.standard_normal(HAND_COLUMNS)
    face += amount * np.array([0.1] * 9 + [0.12] * 3) * smooth_noise(body, frames, len(FACE))
    face[:, :9] += 0.08 * amount * body.standard_normal(9)  # everybody's neutral face differs
    blinks = body.random(frames) < 0.03
    face[blinks, FACE.index("eyes")] = -1.0

    # Hands are lost while they move fast and, rarely, while held. An idle hand stays in view: as the model hides both
    # hands if either is missing, it would see little of a corpus in which resting hands leave the picture.
    missing = gaps.random((2, frames)) < (0.03 + 0.27 * blur) * (0.5 if calm else 1.0)
    sides = (1, 0) if signer.left_handed else (0, 1)
    hands, missing = (dominant, other)[:: -1 if signer.left_handed else 1], missing[list(sides)]
    pose = _pose(hands[0], hands[1], face, signer, np.random.default_rng([*seed, 4]), amount)
    return Tracks(hands[0], hands[1], missing[0], missing[1], blur, face, pose)


def rotation(track: np.ndarray) -> np.ndarray:
    """(T, 3, 3) from hand coordinates (x to the thumb of a right hand, y along the fingers, z out of the palm)
    to viewer coordinates (x right, y up, z towards the viewer): turn about y, tilt about x, roll in the image."""
    roll, pitch, yaw = np.deg2rad(track[:, [ROLL, PITCH, YAW]]).T
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    turned = np.array([[cy, 0 * cy, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]])
    rolled = [cr * turned[0] + sr * turned[1], -sr * turned[0] + cr * turned[1], turned[2]]
    return np.moveaxis(np.array(rolled), -1, 0)


KNUCKLES = np.array([[-0.32, 0.86, 0], [0.33, 0.95, 0], [0.5, 0.5, 0]])  # pinky, index, thumb, in palm widths


def _pose(right, left, face, signer: Signer, rng: np.random.Generator, amount: float) -> np.ndarray:
    """The pose (T, 39): BlazePose 0 and 11-22 as x / W, y / H, visibility, for a 4:3 frame."""
    frames, scale = len(face), signer.shoulders
    stretch = scale * 4 / 3  # factor on y, because the frame is wider than high
    sway = 0.012 * amount * smooth_noise(rng, frames, 2)
    middle = np.array([0.5, 0.52]) + rng.uniform(-0.04, 0.04, 2) + sway
    points = np.zeros((frames, 13, 3))
    yaw, pitch, roll = (face[:, FACE.index(name)] for name in ("yaw", "pitch", "roll"))
    nose = np.stack([0.1 * yaw + 0.08 * roll, -0.75 + 0.07 * pitch], axis=1)
    points[:, 0] = np.column_stack([middle + nose * [scale, stretch], np.ones(frames)])
    for side, hand, offset in ((-1, right, 1), (1, left, 0)):  # a right hand is on the left of the image
        flip = np.array([side * scale, stretch])
        shoulder = np.tile([0.5, 0.0], (frames, 1))
        wrist = hand[:, X:] * [1, 1]
        reach = wrist - shoulder
        distance = np.maximum(np.linalg.norm(reach, axis=1, keepdims=True), 1e-6)
        upper = 0.82 * signer.arm
        bend = 0.7 * np.sqrt(np.maximum(upper**2 - (distance / 2) ** 2, 0.0025))
        normal = np.stack([reach[:, 1], -reach[:, 0]], axis=1) / distance
        normal *= np.where(normal[:, :1] + 0.5 * normal[:, 1:] < 0, -1, 1)  # elbows point outwards and down
        elbow = shoulder + reach / 2 + normal * bend
        knuckles = np.einsum("tij,kj->tki", rotation(hand), KNUCKLES)[..., :2] * 0.22 * signer.hand
        knuckles = wrist[:, None] + knuckles * [-1, -1]  # image y is down; x of a hand counts to its own side
        arm = np.concatenate([shoulder[:, None], elbow[:, None], wrist[:, None], knuckles], axis=1)
        xy = middle[:, None] + arm * flip
        visible = np.where(xy[..., 1] > 1, np.exp(-8 * (xy[..., 1] - 1)), 1) * [1, 0.95, 0.93, 0.9, 0.9, 0.9]
        points[:, 1 + offset :: 2] = np.concatenate([xy, visible[..., None]], axis=2)
    points[..., :2] += 0.004 * amount * rng.standard_normal((frames, 13, 2))
    points[..., 2] = np.clip(points[..., 2] - 0.05 * np.abs(rng.standard_normal((frames, 13))), 0.01, 1)
    return points.reshape(frames, 39).astype(np.float32)
