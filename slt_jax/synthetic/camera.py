"""The generated signer before a camera: whole pictures of sentences, and a detector that reads them.

MediaPipe does not take a drawing for a person. So each picture has its number in a strip at its top, and the detector
knows from the number where everything was drawn. Crops, masks, time and text then go the way of any camera's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from slt_jax.data.landmarks import WRIST
from slt_jax.media.detect import Body, Box, Wanted
from slt_jax.media.finder import FACE_SCALE
from slt_jax.media.hands import HAND_SCALE
from slt_jax.synthetic import render
from slt_jax.synthetic.body import Tracks, rotation, tracks
from slt_jax.synthetic.generator import ClipSpec
from slt_jax.synthetic.signers import SIGNERS

WIDTH, HEIGHT = 640, 480
BLOCK, BITS, CHECK = 20, 16, 8  # pixels of a bit in the strip; bits of the number and of its check
FACE_WIDTH = 0.84  # side of the face's crop, in shoulder widths
PALM = 0.22  # width of a palm, in shoulder widths, as the generated poses have it
COVERED = 0.1  # share of a pixel that a hand covers, from which on it is the hand's
MIDDLE = np.array([0.0, 0.85, 0.0])  # of a hand's crop, in palm widths from the wrist


@dataclass(frozen=True)
class _Drawn:
    """One picture, and where its parts are: the pose (33, 3) and squares (x, y, side), in pixels."""

    image: np.ndarray
    pose: np.ndarray
    face: tuple[float, float, float]
    hands: dict[str, tuple[float, float, float]]  # left, right


class GeneratedSigner:
    """Sentences by one generated signer, one after the other with `pause` frames of rest between them.

    `smooth` pictures show one frame of the corpus, so that the movement looks like one.
    `pictures` are uint8 (480, 640, 3), RGB; `detector` reads them in place of `slt_jax.media.detect.Detector`.
    """

    def __init__(self, specs: Sequence[ClipSpec], *, pause: int = 5, smooth: int = 1):
        signer = SIGNERS[specs[0].signer]
        clips = [tracks(spec.sentence, signer, spec.frames, spec.seed, spec.calm) for spec in specs]
        self.texts = [spec.sentence.text for spec in specs]
        self._drawn = _draw(_smoothed(_with_pauses(clips, pause), smooth), signer, specs[0].seed)

    @property
    def pictures(self) -> list[np.ndarray]:
        """All pictures."""
        return [drawn.image for drawn in self._drawn]

    @property
    def poses(self) -> list[np.ndarray]:
        """The pose (33, 3) of each, in pixels."""
        return [drawn.pose for drawn in self._drawn]

    def detector(self) -> "ReadingDetector":
        """A detector for these pictures."""
        return ReadingDetector(self._drawn)


class ReadingDetector:
    """What `slt_jax.media.detect.Detector` is for pictures of people."""

    def __init__(self, drawn: Sequence[_Drawn]):
        self._drawn = drawn

    def body(self, image: np.ndarray, wanted: Wanted | None = None) -> Body | None:
        """The signer with all parts, wanted or not, if the picture is one of those that are known."""
        drawn = self._known(image)
        if drawn is None:
            return None
        hands = []
        for side, square in drawn.hands.items():
            points = _corners(square, HAND_SCALE)
            wrist = np.clip(drawn.pose[WRIST[side], :2], *points)
            hands.append(np.concatenate([wrist[None], points]))
        return Body(drawn.pose, _corners(drawn.face, FACE_SCALE), *hands)

    def poses(self, images: Iterable[np.ndarray]) -> list[np.ndarray | None]:
        """The poses in `images`."""
        known = [self._known(image) for image in images]
        return [None if drawn is None else drawn.pose for drawn in known]

    def hands(self, image: np.ndarray) -> list[np.ndarray]:
        """None: `body` has found them."""
        return []

    def faces(self, image: np.ndarray) -> list[Box]:
        """The box of the signer's face."""
        drawn = self._known(image)
        if drawn is None:
            return []
        (left, top), (right, bottom) = _corners(drawn.face, FACE_SCALE)
        return [(float(left), float(top), float(right), float(bottom))]

    def reset(self) -> None:
        """Nothing is remembered."""

    def close(self) -> None:
        """Nothing is held."""

    def _known(self, image: np.ndarray) -> _Drawn | None:
        number = read_number(image)
        return self._drawn[number] if number is not None and number < len(self._drawn) else None


def _corners(square: tuple[float, float, float], scale: float) -> np.ndarray:
    """Two points of which `Square.around` makes the square."""
    x, y, side = square
    half = side / scale / 2
    return np.array([[x - half, y - half], [x + half, y + half]], np.float32)


def _with_pauses(clips: Sequence[Tracks], pause: int) -> Tracks:
    """Clips as one, with frames between them in which the signer goes slowly from the end of one to the next."""
    parts: list[Tracks] = []
    for before, after in zip((None, *clips), (*clips, None), strict=True):
        start, end = before or after, after or before
        assert start is not None
        assert end is not None
        share = np.linspace(0, 1, pause + 2)[1:-1, None]
        ends = {name: (getattr(start, name)[-1 if before else 0], getattr(end, name)[0 if after else -1])
                for name in ("right", "left", "face", "pose")}  # fmt: skip
        still = {name: (1 - share) * first + share * last for name, (first, last) in ends.items()}
        none = np.zeros(pause)
        parts.append(Tracks(miss_right=none > 0, miss_left=none > 0, blur=none, **still))
        if after is not None:
            parts.append(after)
    return Tracks(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Tracks.__annotations__})


def _smoothed(motion: Tracks, count: int) -> Tracks:
    """`count` frames for each one, on the way to the next."""
    frames = len(motion.pose)
    times = np.arange(frames * count) / count

    def between(track: np.ndarray) -> np.ndarray:
        columns = track.reshape(frames, -1).T
        return np.stack([np.interp(times, range(frames), column) for column in columns], 1).reshape(
            -1, *track.shape[1:]
        )

    return Tracks(**{name: between(getattr(motion, name)) for name in Tracks.__annotations__})


def _draw(motion: Tracks, signer, seed: tuple[int, ...]) -> list[_Drawn]:
    unit = signer.shoulders * WIDTH
    side, face_side = render._CROP * PALM * unit, FACE_WIDTH * unit
    sizes = {"hand": round(side), "face": round(face_side)}
    crops, covers = {}, {}
    for name, track, mirrored, stream in (("hand_l", motion.left, True, 5), ("hand_r", motion.right, False, 6)):
        crops[name] = render.render_hand(track, motion.blur, signer, mirrored, (*seed, stream), sizes["hand"])
        covers[name], _ = render.draw_hand(track, motion.blur, signer, mirrored, sizes["hand"])
    faces = render.render_face(motion.face, signer, (*seed, 7), sizes["face"])
    points = motion.pose.reshape(-1, 13, 3) * [WIDTH, HEIGHT, 1]
    pictures = []
    for number, pose13 in enumerate(points):
        pose = np.zeros((33, 3), np.float32)
        pose[[0, *range(11, 23)]] = pose13
        pose[1:11] = pose[0]
        nose = pose13[0]
        places = {"face": (nose[0], nose[1] - 0.02 * unit)}
        for name, track, flip, wrist in (("hand_l", motion.left, 1, 15), ("hand_r", motion.right, -1, 16)):
            offset = rotation(track[number : number + 1])[0] @ MIDDLE * PALM * signer.hand * unit
            places[name] = (pose[wrist, 0] - flip * offset[0], pose[wrist, 1] - offset[1])
        # Resting hands would leave the picture, whose shape is that of the corpus's poses.
        squares = {name: _inside(*at, face_side if name == "face" else side) for name, at in places.items()}
        image = _picture(pose, squares, signer, unit)
        _paste(image, faces[number], squares["face"], np.ones((sizes["face"],) * 2))
        whole = np.ones((sizes["hand"],) * 2)
        for name, frames in crops.items():
            _paste(image, frames[number], squares[name], whole)
        for name, frames in crops.items():  # where two crops share a place, both hands are shown
            _paste(image, frames[number], squares[name], covers[name][number] > COVERED)
        write_number(image, number)
        hands = {name: squares[name] for name in crops}
        pictures.append(_Drawn(image, pose, squares["face"], hands))
    return pictures


def _inside(x: float, y: float, side: float) -> tuple[float, float, float]:
    half = side / 2
    return (float(np.clip(x, half, WIDTH - half)), float(np.clip(y, BLOCK + half, HEIGHT - half)), side)


def _picture(pose: np.ndarray, squares: dict[str, tuple[float, float, float]], signer, unit: float) -> np.ndarray:
    """The wall, and the signer's trunk and arms."""
    image = Image.new("RGB", (WIDTH, HEIGHT), signer.wall)
    pen = ImageDraw.Draw(image)
    left, right = pose[11, :2], pose[12, :2]
    top, wide = (left[1] + right[1]) / 2, 0.24 * unit
    shade = tuple(round(0.93 * value) for value in signer.shirt)
    pen.rounded_rectangle(
        (right[0] - wide / 2, top - 0.14 * unit, left[0] + wide / 2, HEIGHT + 60), 0.3 * unit, signer.shirt
    )
    x, y, side = squares["face"]
    neck = tuple(round(0.82 * value) for value in signer.skin)
    pen.rectangle((x - 0.11 * side, y + 0.3 * side, x + 0.11 * side, top - 0.02 * unit), neck)
    for shoulder, elbow, wrist, name in ((11, 13, 15, "hand_l"), (12, 14, 16, "hand_r")):
        x, y, _ = squares[name]
        joints = [tuple(map(float, pose[joint, :2])) for joint in (shoulder, elbow)]
        end = (float(np.clip(pose[wrist, 0], x - 40, x + 40)), float(min(pose[wrist, 1], HEIGHT)))
        for start, stop in ((joints[0], joints[1]), (joints[1], end)):
            pen.line((start, stop), shade, round(wide))
            for spot in (start, stop):
                half = wide / 2
                pen.ellipse((spot[0] - half, spot[1] - half, spot[0] + half, spot[1] + half), shade)
    return np.asarray(image).copy()


def _paste(image: np.ndarray, crop: np.ndarray, square: tuple[float, float, float], shown: np.ndarray) -> None:
    """Put a crop where `slt_jax.media.crops.cut` takes it from."""
    size = len(crop)
    left, top = (round(centre - square[2] / 2) for centre in square[:2])
    part = image[max(top, 0) : top + size, max(left, 0) : left + size]
    some = (slice(max(-top, 0), max(-top, 0) + part.shape[0]), slice(max(-left, 0), max(-left, 0) + part.shape[1]))
    part[:] = np.rint(part + shown[some][..., None] * (crop[some].astype(float) - part))


def write_number(image: np.ndarray, number: int) -> None:
    """Put a number into the strip at the top of a picture."""
    for place, bit in enumerate(_bits(number)):
        image[:BLOCK, place * BLOCK : (place + 1) * BLOCK] = 255 * bit
    image[:BLOCK, len(_bits(number)) * BLOCK :] = image[BLOCK, 0] // 2 + 64


def read_number(image: np.ndarray) -> int | None:
    """The number of a picture of any size and quality; None if it has none."""
    height, width = image.shape[:2]
    scale = width / WIDTH
    if abs(height * WIDTH - width * HEIGHT) > 2 * WIDTH:
        return None
    bits = []
    for place in range(BITS + CHECK):
        rows, columns = (slice(round((start + 0.3) * BLOCK * scale), max(round((start + 0.7) * BLOCK * scale), 1))
                         for start in (0, place))  # fmt: skip
        bits.append(int(image[rows, columns].mean() > 127))
    number = int("".join(map(str, bits[:BITS])), 2)
    return number if bits == _bits(number) else None


def _bits(number: int) -> list[int]:
    check = (number * 167 + 91) % (1 << CHECK)  # an empty picture has no number
    return [int(bit) for bit in f"{number:0{BITS}b}{check:0{CHECK}b}"]
