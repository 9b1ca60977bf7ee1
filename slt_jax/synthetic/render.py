"""Draw the crops: hands as shaded capsules, faces as ellipses, all frames of a clip at once in NumPy.

Shapes are drawn on a grid coarser than the image and enlarged, which is both faster and closer to real
crops, themselves enlarged from small videos. Squared distances stand in for distances: no square roots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import numpy as np

from slt_jax.synthetic.body import FACE, SHAPE, rotation
from slt_jax.synthetic.signers import Signer

_DEGREE = np.pi / 180
# Index, middle, ring, pinky in palm widths: knuckle (x to the thumb, y along the fingers), two bone lengths, radius.
_KNUCKLE = np.array([[0.33, 0.95], [0.11, 1.0], [-0.11, 0.96], [-0.32, 0.86]])
_BONES = np.array([[0.50, 0.46], [0.54, 0.52], [0.50, 0.47], [0.40, 0.36]])
_RADIUS = np.array([0.14, 0.145, 0.14, 0.12])
_FAN = np.array([13.0, 3.0, -8.0, -19.0]) * _DEGREE  # direction of spread fingers, towards the thumb
_CROP = 2.9  # side of a hand crop in palm widths
_HAND_GRID, _FACE_GRID = 0.65, 0.75  # of the image size, for the grid on which to draw
_BLOCK = 16  # frames


def hand_capsules(track: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both ends (T, n, 3) and radii (n,) of a right hand's capsules, in hand coordinates and palm widths."""
    frames, shape = len(track), np.clip(track[:, SHAPE], -0.1, 1.1)
    curl, spread, off = shape[:, 1:5], shape[:, 5:6], shape[:, 6:7]
    fan = _FAN * (0.15 + 0.85 * spread) * (1 - 0.8 * np.clip(curl, 0, 1))
    zero = np.zeros((frames, 4))
    knuckle = np.stack([_KNUCKLE[:, 0] + zero, _KNUCKLE[:, 1] + zero, zero], axis=-1)

    def along(bend):  # direction of a bone bent by `bend` radians from the palm's plane to its front
        return np.stack([np.sin(fan) * np.cos(bend), np.cos(fan) * np.cos(bend), np.sin(bend)], axis=-1)

    joint = knuckle + _BONES[:, :1] * along(curl * 85 * _DEGREE)
    tip = joint + _BONES[:, 1:] * along(curl * 200 * _DEGREE)
    # The thumb stands off to the side, or lies across the palm in front of the fingers when curled.
    thumb_curl = shape[:, :1]
    angle = (12 + 48 * off) * _DEGREE

    def thumb_bone(start, length, turn, lift):
        step = np.concatenate([np.sin(turn), np.cos(turn), lift], axis=1)
        return start + length * step / np.linalg.norm(step, axis=1, keepdims=True)

    root = np.tile([0.26, 0.22, 0.05], (frames, 1))
    base = thumb_bone(root, 0.38, angle + 0.35, 0.2 + 0.3 * thumb_curl)
    middle = thumb_bone(base, 0.34, angle - thumb_curl * 0.9, 0.6 * thumb_curl)
    end = thumb_bone(middle, 0.32, angle - thumb_curl * 1.6, 0.1 + 0.2 * thumb_curl)
    palm_start = knuckle * [0.8, 0.12, 1]
    wrist, elbow = np.zeros((frames, 1, 3)), np.tile([[0.0, -1.8, 0.0]], (frames, 1, 1))
    starts = [wrist, palm_start, knuckle, joint, *(p[:, None] for p in (root, base, middle))]
    ends = [elbow, knuckle, joint, tip, *(p[:, None] for p in (base, middle, end))]
    radii = np.concatenate([[0.27], np.full(4, 0.22), _RADIUS, 0.92 * _RADIUS, [0.22, 0.16, 0.145]])
    return np.concatenate(starts, axis=1), np.concatenate(ends, axis=1), radii


def draw_hand(track, blur, signer: Signer, mirrored: bool, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and covered shade (T, size, size) of a hand in its crop; `mirrored` for the person's left hand."""
    a, b, radius = hand_capsules(track)
    turn = rotation(track)
    a, b = (np.einsum("tij,tkj->tki", turn, ends) for ends in (a, b))
    centre = np.einsum("tij,j->ti", turn, np.array([0.0, 0.85, 0.0]))[:, None]
    pixels = size / _CROP * signer.hand
    axes = np.array([-pixels if mirrored else pixels, -pixels, 1.0])  # image y is down, depth stays in palm widths
    a, b = (axes * (ends - centre) + [size / 2, size / 2, 0] for ends in (a, b))
    radius = np.tile(radius * signer.thickness * pixels, (len(a), 1))
    # Nearer parts are lighter, and the palm is lighter than the back of the hand.
    depth = (a[..., 2] + b[..., 2]) / 2
    tone = 0.9 + 0.16 * np.clip(depth, -1, 1) + 0.07 * turn[:, 2, 2][:, None]
    return draw_capsules(a[..., :2], b[..., :2], radius, tone, depth, 1.0 + 0.9 * blur, size)


def draw_capsules(a, b, radius, tone, depth, softness, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint capsules from the farthest to the nearest, in each frame's own order.

    a, b: (T, n, 2) ends in pixels; radius (pixels), tone (brightness), depth: (T, n); softness: (T,) edge width in
    pixels. Returns coverage 0..1 and shade times coverage, float32 (T, size, size).
    """
    order = np.argsort(depth, axis=1, kind="stable")
    a, b = (np.take_along_axis(ends, order[..., None], axis=1) for ends in (a, b))
    radius, tone = (np.take_along_axis(values, order, axis=1) for values in (radius, tone))
    step = b - a
    length = np.maximum((step**2).sum(axis=-1), 1e-3)
    grid = (np.arange(size) + 0.5).astype(np.float32)

    def f32(values):
        return np.ascontiguousarray(values, dtype=np.float32)

    # Everything that depends on x or y alone is (T, n, size); only sums of the two are images.
    from_a = [f32(grid - a[..., axis, None]) for axis in (0, 1)]
    part = [f32(from_a[axis] * (step[..., axis] / length)[..., None]) for axis in (0, 1)]
    step, inverse = f32(step), f32(1 / radius**2)
    hardness = f32(radius / (2 * softness[:, None]))
    tone = f32(tone)

    frames, count = depth.shape
    coverage, shade = (np.zeros((frames, size, size), np.float32) for _ in range(2))
    h, dx, dy = (np.empty_like(shade) for _ in range(3))
    for k in range(count):
        column, row = (slice(None), k, None, slice(None)), (slice(None), k, slice(None), None)
        one = (slice(None), k, None, None)
        np.add(part[0][column], part[1][row], out=h)  # place of the nearest point on the axis, 0..1
        np.clip(h, 0, 1, out=h)
        np.multiply(h, step[:, k, 0, None, None], out=dx)
        np.subtract(from_a[0][column], dx, out=dx)
        np.multiply(h, step[:, k, 1, None, None], out=dy)
        np.subtract(from_a[1][row], dy, out=dy)
        dx *= dx
        dy *= dy
        dx += dy
        dx *= inverse[one]  # 0 on the axis, 1 on the outline
        np.subtract(1, dx, out=dy)
        dy *= hardness[one]
        dy += 0.5
        np.clip(dy, 0, 1, out=dy)
        np.subtract(1, coverage, out=h)
        h *= dy
        coverage += h
        dx *= -0.3  # darker towards the outline, so that neighbouring fingers stay apart
        dx += tone[one]
        dx -= shade
        dx *= dy
        shade += dx
    return coverage, shade


@cache
def _enlarging(small: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For bilinear enlarging: two neighbours and the weight of the second for each of `size` pixels."""
    at = np.clip((np.arange(size) + 0.5) * small / size - 0.5, 0, small - 1)
    low = np.minimum(at.astype(int), small - 2)
    return low, low + 1, (at - low).astype(np.float32)


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Enlarge (..., s, s) to (..., size, size), bilinearly, as a transposed view.

    Only rows are gathered (and then, transposed, the columns): runs of memory instead of single numbers. The view
    is passed on as it is, numpy works in the order of the memory underneath.
    """
    low, high, weight = _enlarging(images.shape[-1], size)
    for _ in range(2):
        images = np.ascontiguousarray(images)
        first = images.take(low, axis=-2)
        images = images.take(high, axis=-2)
        images -= first
        images *= weight[:, None]
        images += first
        images = images.swapaxes(-1, -2)
    return images


@cache
def _noise_sheet(side: int) -> np.ndarray:
    return (2.2 * np.random.default_rng(11).standard_normal((2 * side, 2 * side))).astype(np.float32)


def _backdrop(colour, rng: np.random.Generator, size: int) -> np.ndarray:
    """A backdrop (3, size, size): a colour with soft blotches and a gradient of light."""
    blotches = rng.standard_normal((1, 6, 6)).astype(np.float32) * 9
    slope = np.linspace(-8, 8, size, dtype=np.float32) * rng.uniform(-1, 1)
    return np.array(colour, np.float32)[:, None, None] + enlarge(blotches, size) + slope


def _blocks(frames: int) -> Iterator[slice]:
    """Yield a few frames at a time, so that intermediate results stay in the processor's cache."""
    return (slice(start, start + _BLOCK) for start in range(0, frames, _BLOCK))


def _grain(rng: np.random.Generator, frames: int, size: int) -> list[np.ndarray]:
    """Sensor noise: for each frame, a square from a random place on one sheet."""
    at = rng.integers(0, size, (frames, 2))
    return [_noise_sheet(size)[y : y + size, x : x + size] for y, x in at]


def _finish(image: np.ndarray, grain: list[np.ndarray], result: np.ndarray) -> None:
    """Add grain to float (3, T, H, W), which is overwritten, and turn it into uint8 (T, H, W, 3)."""
    image += np.stack(grain).swapaxes(-1, -2)  # in memory as `enlarge` leaves images
    np.clip(image, 0, 255, out=image)
    for channel in range(3):
        result[..., channel] = image[channel]


def render_hand(track, blur, signer: Signer, mirrored: bool, seed: tuple[int, ...], size: int) -> np.ndarray:
    """Hand crops, uint8 (T, size, size, 3). The backdrop is always the shirt: only the pose shows where the hand is."""
    rng = np.random.default_rng(seed)
    skin = (np.array(signer.skin) * rng.uniform(0.92, 1.08)).astype(np.float32)
    backdrop = _backdrop(signer.shirt, rng, size)[:, None]
    grain = _grain(rng, len(track), size)
    coverage, shade = draw_hand(track, blur, signer, mirrored, max(24, round(_HAND_GRID * size)))
    result = np.empty((len(track), size, size, 3), np.uint8)
    for block in _blocks(len(track)):
        through = enlarge(coverage[block], size)
        np.subtract(1, through, out=through)
        image = backdrop * through
        image += skin[:, None, None, None] * enlarge(shade[block], size)
        _finish(image, grain[block], result[block])
    return result


class _Canvas:
    """An image (3, T, size, size) to paint ellipses on. Coordinates and lengths are in crop widths, numbers or (T,)."""

    def __init__(self, image: np.ndarray):
        self.image, self.size = image, image.shape[-1]
        self.grid = ((np.arange(self.size) + 0.5) / self.size).astype(np.float32)

    def ellipse(self, x, y, rx, ry, colour, slope=0.0, bend=0.0, box=(0.0, 1.0, 0.0, 1.0), opacity=None):
        """Paint an ellipse, sheared up by slope u + bend u^2 and bounded by `box` (left, right, top, bottom)."""
        if opacity is not None and not np.any(opacity):
            return
        left, right, top, bottom = (round(edge * self.size) for edge in box)
        x, y, rx, ry, slope, bend = np.broadcast_arrays(x, y, rx, ry, slope, bend, np.zeros(self.image.shape[1]))[:6]
        u = self.grid[left:right] - x[:, None]  # (T, W)
        level = y[:, None] + (slope[:, None] + bend[:, None] * u) * u
        hardness = 0.5 * self.size * np.minimum(rx, ry)  # of the edge, which is one pixel wide
        u *= u
        u *= (-hardness / rx**2)[:, None]
        u += (hardness + 0.5)[:, None]
        cover = self.grid[None, top:bottom, None] - level.astype(np.float32)[:, None]
        cover *= cover
        cover *= (-hardness / ry**2).astype(np.float32)[:, None, None]
        cover += u.astype(np.float32)[:, None]
        np.clip(cover, 0, 1, out=cover)
        if opacity is not None:
            cover *= opacity.astype(np.float32)[:, None, None]
        part = self.image[:, :, top:bottom, left:right]
        change = np.asarray(colour, np.float32)[:, None, None, None] - part
        change *= cover
        part += change


def render_face(track: np.ndarray, signer: Signer, seed: tuple[int, ...], size: int) -> np.ndarray:
    """Face crops, uint8 (T, size, size, 3): the features follow the track; the head turns, nods and tilts."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.92, 1.08)
    backdrop = _backdrop(signer.wall, rng, max(28, round(_FACE_GRID * size)))[:, None]
    grain = _grain(rng, len(track), size)
    result = np.empty((len(track), size, size, 3), np.uint8)
    for block in _blocks(len(track)):
        image = np.repeat(backdrop, len(track[block]), axis=1)
        _paint_face(image, track[block], signer, light)
        _finish(enlarge(image, size), grain[block], result[block])
    return result


def _paint_face(image: np.ndarray, track: np.ndarray, signer: Signer, light: float) -> None:
    """Paint onto (3, T, s, s), from the shirt up to the mouth."""
    t = dict(zip(FACE, np.clip(track, -1.3, 1.5).T, strict=True))
    skin, hair = (np.array(colour) * light for colour in (signer.skin, signer.hair))
    wide, high = signer.face
    canvas = _Canvas(image)
    # The head moves a little, and its features move more, as on a ball.
    head_x, head_y = 0.5 + 0.02 * t["yaw"] + 0.03 * t["roll"], 0.5 + 0.02 * t["pitch"]
    x, y, tilt = head_x + 0.085 * t["yaw"], head_y + 0.05 * t["pitch"], 0.22 * t["roll"]

    def feature(dx, dy, rx, ry, colour, slope=0.0, **more):
        """An ellipse at (dx, dy) from the middle of the face, turned with the head."""
        canvas.ellipse(x + dx - tilt * dy, y + dy + tilt * dx, rx, ry, colour, slope=tilt + slope, **more)

    canvas.ellipse(0.5, 1.12, 0.46, 0.24, signer.shirt, box=(0, 1, 0.85, 1))
    if signer.long_hair:
        canvas.ellipse(head_x, head_y + 0.1, wide + 0.08, high + 0.1, hair)
    canvas.ellipse(0.5, 0.88, 0.11, 0.16, 0.82 * skin, box=(0.35, 0.65, 0.7, 1))
    canvas.ellipse(head_x, head_y - 0.08, wide + 0.05, high - 0.02, hair, slope=tilt, box=(0.05, 0.95, 0, 0.75))
    canvas.ellipse(head_x + 0.02 * t["yaw"], head_y + 0.03, wide, high - 0.03, skin, slope=tilt)
    brow_y, eye_y = -0.115 - 0.075 * t["raise"], -0.035
    eye = 0.036 * np.clip(1 + 0.8 * t["eyes"], 0.12, 1.7)
    puff = np.clip(t["cheeks"] - 0.2, 0, 1)
    for side in (-1, 1):
        half = (0.05, 0.6) if side < 0 else (0.4, 0.95)
        canvas.ellipse(
            head_x + side * (wide - 0.045),
            head_y + 0.18,
            0.02 + 0.1 * puff,
            0.02 + 0.1 * puff,
            np.minimum(1.1 * skin, 255),
            box=(*half, 0.45, 0.95),
            opacity=puff,
        )
        at = 0.135 * side
        feature(
            at,
            brow_y + 0.028 * t["furrow"],
            0.085,
            0.019 * signer.brows,
            0.75 * hair,
            slope=-0.5 * side * t["furrow"],
            bend=2.5,
            box=(*half, 0.1, 0.62),
        )
        feature(at, eye_y, 0.068, eye, (244, 240, 236), box=(*half, 0.25, 0.7))
        feature(at + 0.02 * t["yaw"], eye_y, 0.03, np.minimum(eye, 0.032), (36, 26, 22), box=(*half, 0.25, 0.7))
    feature(0.02 * t["yaw"], 0.085, 0.032, 0.06, 0.84 * skin, box=(0.3, 0.7, 0.4, 0.8))
    _paint_mouth(feature, t, skin)


def _paint_mouth(feature: Callable[..., None], t: Mapping[str, np.ndarray], skin: np.ndarray) -> None:
    """Lips, then the opening, teeth and tongue inside it; `feature` and `t` as in `_paint_face`."""
    middle, opening = 0.225, np.clip(t["open"], 0, 1.2)
    width = 0.115 * np.clip(1 + 0.55 * t["width"], 0.35, 1.6)
    tall = 0.022 + 0.075 * opening
    shape = {"bend": -3.2 * t["curve"], "box": (0.1, 0.9, 0.5, 1)}
    feature(0, middle, width, tall + 0.012, skin * [0.78, 0.5, 0.5], **shape)
    feature(
        0,
        middle,
        width * 0.8,
        np.maximum(tall - 0.014, 0.006),
        (70, 20, 24),
        **shape,
        opacity=np.clip(3 * opening, 0.6, 1),
    )
    feature(
        0,
        middle,
        width * 0.76,
        np.maximum(tall - 0.02, 0.005),
        (245, 243, 236),
        **shape,
        opacity=np.clip(t["teeth"] - 0.2, 0, 1),
    )
    feature(0, middle + 0.05, 0.06, 0.065, (226, 92, 104), box=shape["box"], opacity=np.clip(t["tongue"] - 0.2, 0, 1))
