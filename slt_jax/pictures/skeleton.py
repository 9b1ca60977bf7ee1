"""Draw a frame's landmarks as a stick figure: bones between known names, dots for the rest."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from slt_jax.data.clips import MIN_CONFIDENCE, sure_landmarks
from slt_jax.data.landmarks import BY_NUMBER, names

PAPER = (246, 246, 242)
_GREY, _PALE = (90, 90, 90), (215, 215, 215)
_COLOURS = {"left": (30, 110, 200), "right": (200, 70, 40)}
_SHARP = 3  # draw larger and reduce, for smooth lines
_HEAD = 22 / 282  # radius in a picture with the shoulders at the usual 0.22 apart


_TRUNK = (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"), ("mouth_left", "mouth_right"))
_ARM, _LEG = ("shoulder", "elbow", "wrist"), ("shoulder", "hip", "knee", "ankle", "heel", "foot_index")
_FINGERS = ("pinky", "index", "thumb")


def _bones() -> list[tuple[str, str, tuple[int, int, int], int]]:
    """(from, to, colour, width). Widths are for a picture of 94 pixels, drawn three times larger."""
    bones = [(a, b, _GREY, 6) for a, b in _TRUNK]
    for side, colour in _COLOURS.items():
        limb = [f"{side}_{part}" for part in _LEG]
        bones += [(a, b, _GREY, 6) for a, b in pairwise(limb)]
        limb = [f"{side}_{part}" for part in _ARM]
        bones += [(a, b, colour, 8) for a, b in pairwise(limb)]
        bones += [(limb[-1], f"{side}_{finger}", colour, 5) for finger in _FINGERS]
    return bones


BONES = tuple(_bones())


def usual_names(number: int) -> tuple[str, ...]:
    """The names of landmarks that a file does not name; none if no usual set has this number."""
    return names(BY_NUMBER[str(number)]) if str(number) in BY_NUMBER else ()


@dataclass(frozen=True)
class Figure:
    """How to draw the landmarks of one clip: names, the visible square of the picture, the head's radius."""

    names: tuple[str, ...]
    left: float = 0.0
    top: float = 0.0
    side: float = 1.0
    head: float = _HEAD

    @classmethod
    def of(cls, pose: np.ndarray, names: tuple[str, ...]) -> "Figure":
        """For a whole clip, pose (T, L, 3), so that nothing jumps. More is shown if arms leave the picture."""
        sure = sure_landmarks(pose)
        low, high = np.zeros(2), np.ones(2)
        if sure.any():
            within = np.percentile(pose[sure][:, :2], (1, 99), axis=0)
            low, high = np.minimum(low, within[0] - 0.03), np.maximum(high, within[1] + 0.03)
            low, high = np.where(low > -0.08, 0.0, low), np.where(high < 1.08, 1.0, high)
        side = float((high - low).max())
        left, top = ((low + high - side) / 2).tolist()
        head = _HEAD
        if {"left_shoulder", "right_shoulder"} <= set(names):
            pair = [names.index("left_shoulder"), names.index("right_shoulder")]
            both = pose[sure[:, pair].all(1)][:, pair, :2]
            if len(both):
                breadth = float(np.median(np.linalg.norm(both[:, 0] - both[:, 1], axis=-1)))
                head = float(np.clip(0.35 * breadth / side, 0.03, 0.2))
        return cls(names, left, top, side, head)


def draw_skeleton(points: np.ndarray, size: int, figure: Figure) -> Image.Image:
    """Draw one frame's landmarks (L, 3) on a square of `size` pixels. Those below confidence 0.25 are pale."""
    large = _SHARP * size
    unit = large / 282
    image = Image.new("RGB", (large, large), PAPER)
    draw = ImageDraw.Draw(image)
    known = np.isfinite(points).all(-1) & points.any(-1)  # zeros stand for landmarks that were not seen
    sure = known & (points[:, 2] >= MIN_CONFIDENCE)
    # Pillow refuses larger numbers, and this far away is as good as infinite.
    near = np.nan_to_num(points[:, :2] - (figure.left, figure.top)).clip(-9 * figure.side, 9 * figure.side)
    xy = [(float(x) * large, float(y) * large) for x, y in near / figure.side]
    place = {name: index for index, name in enumerate(figure.names) if index < len(points) and known[index]}
    drawn = set()
    for a, b, colour, width in BONES[: len(_TRUNK)]:
        drawn |= _bone(draw, xy, sure, place, (a, b), colour, width * unit)
    if "nose" in place:
        nose = place["nose"]
        colour = _GREY if sure[nose] else _PALE
        draw.circle(xy[nose], figure.head * large, outline=colour, width=_pixels(6 * unit))
        draw.circle(xy[nose], 5 * unit, fill=colour)
        drawn.add(nose)
    for a, b, colour, width in BONES[len(_TRUNK) :]:
        drawn |= _bone(draw, xy, sure, place, (a, b), colour, width * unit)
    radius = (3 if drawn else 6) * unit  # smaller if they are only eyes and ears
    for index in set(np.flatnonzero(known).tolist()) - drawn:
        side = next((side for side in _COLOURS if index < len(figure.names) and side in figure.names[index]), "")
        colour = _COLOURS.get(side, _GREY) if sure[index] else _PALE
        draw.circle(xy[index], radius, fill=colour)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _bone(draw, xy, sure, place, ends, colour, width) -> set[int]:
    """Draw a bone if both its ends are there. Returns the landmarks that it joins."""
    if not all(end in place for end in ends):
        return set()
    a, b = (place[end] for end in ends)
    draw.line([xy[a], xy[b]], fill=colour if sure[b] else _PALE, width=_pixels(width))
    return {a, b}


def _pixels(width: float) -> int:
    return max(1, round(width))
