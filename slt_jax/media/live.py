"""A camera's pictures to what a model reads, one after another: the crops and poses of `slt-extract`, with no file.

It looks at most `LOOKAHEAD` frames ahead. What an extraction takes from the whole video is taken from what has come:
who signs (from the first picture, or the first second if several people are there) and the signing space (from the
last `SPACE_SECONDS`).
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from slt_jax.data import landmarks
from slt_jax.data.clips import sure_landmarks
from slt_jax.media.crops import LOOKAHEAD, Square
from slt_jax.media.detect import Box, Detector
from slt_jax.media.finder import Cropper, Finder, Found
from slt_jax.media.settings import ExtractionSettings
from slt_jax.media.signer import LOST_SECONDS, SAMPLES, choose_signer
from slt_jax.media.video import AtRate
from slt_jax.streams import IMAGES, POSE, chosen

CHOOSE_SECONDS = 1.0  # for telling by their hands which of several people signs
SPACE_SECONDS = 10.0
GAP_SECONDS = 1.0  # without a picture; then nothing is carried over
MOST_EVERY = LOOKAHEAD + 1  # between two frames so far apart, all are known in time


@dataclass(frozen=True)
class LiveFrame:
    """One frame at the model's rate. `landmarks` (33, 3) and `boxes` (left, top, right, bottom) are for drawing.

    Both are in pixels of the upright picture; confidences are 0 without a person, a box is None without a crop.
    `arrays` are those of a clip of one frame (slt_jax.data.schema), always with the pose; a unit of its x and y are
    `space_unit` pixels. `time` is in seconds, of the pictures' own. `begins` where the one before is no neighbour.
    """

    time: float
    begins: bool
    arrays: dict[str, np.ndarray]
    space_unit: tuple[float, float]
    boxes: dict[str, Box | None]
    landmarks: np.ndarray

    @property
    def anybody(self) -> bool:
        """Whether a person is seen."""
        return bool(self.landmarks[:, 2].any())


def joined(frames: Sequence[LiveFrame]) -> dict[str, np.ndarray]:
    """The arrays of consecutive frames as those of one clip: (n, ...)."""
    return {name: np.concatenate([frame.arrays[name] for frame in frames]) for name in frames[0].arrays}


@dataclass
class _Seen:
    """A frame on its way; `found` is None until it has been looked at, or lies between two that were."""

    time: float
    image: np.ndarray
    fresh: bool
    found: Found | None = None


class LiveExtractor:
    """The signer before one camera: a context manager, for one thread.

    `image_size` and `streams` are the model's. Models look at every `every`-th picture; places in between are
    interpolated, and crops are cut from each. Raises UserError if mediapipe is not installed.
    """

    def __init__(
        self,
        settings: ExtractionSettings,
        *,
        image_size: int | None = None,
        streams: Sequence[str] | None = None,
        every: int = 1,
        source_fps: float | None = None,
        make_detector: Callable[[], Any] | None = None,
    ):
        self.settings, self.fps = settings, settings.rate(source_fps)
        self.every = every
        self._size, self._images = image_size or settings.crop_size, [s for s in chosen(streams) if s.images]
        self._detector = make_detector() if make_detector else Detector(settings.min_confidence)
        self._cropper = Cropper(settings, self.fps)
        self._rate: AtRate[np.ndarray] | None = None
        self._start = self._last = 0.0
        self._shape: tuple[int, ...] = ()
        self._region: tuple[int, ...] = ()
        self._finder: Finder | None = None  # None while the signer is chosen
        self._looked: list[np.ndarray] = []  # pictures to choose from
        self._held: list[_Seen] = []  # until then
        self._sampled = self._met = -np.inf  # when one was put there last; when a signer was chosen or seen last
        self._waiting: deque[_Seen] = deque()
        self._past: deque[_Seen] = deque(maxlen=LOOKAHEAD)  # handed out already
        self._handed: LiveFrame | None = None  # the last one
        self._since = MOST_EVERY  # fresh pictures since models looked at one
        self._poses: deque[np.ndarray] = deque(maxlen=max(round(SPACE_SECONDS * self.fps), 1))
        self._shown: dict[str, np.ndarray] = {}  # the last crop of each stream

    def __enter__(self) -> "LiveExtractor":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Free the models."""
        self._detector.close()

    def frame(self, picture: np.ndarray, time: float) -> list[LiveFrame]:
        """The frames that are complete once `picture` comes: uint8 (H, W, 3), RGB, taken at `time`, in seconds.

        Mostly one, of a little earlier; none at first or where pictures come faster than the model's rate. After
        GAP_SECONDS without a picture, and where the picture changes its size, what waited is handed out first.
        """
        if self.settings.mirrored:
            picture = np.ascontiguousarray(picture[:, ::-1])
        frames: list[LiveFrame] = []
        if self._rate is None or time - self._last > GAP_SECONDS or picture.shape != self._shape:
            frames += self.flush()
            self._start = self._last = time
        rate = self._rate = self._rate or AtRate(self.fps, time)
        if picture.shape != self._shape:
            self._shape = picture.shape
            self._forget()
        self._last = max(time, self._last)
        for number, image, fresh in rate.push(self._last, 1 / self.fps, picture):
            frames += self._take(_Seen(self._start + number / self.fps, image, fresh))
        return frames

    def flush(self) -> list[LiveFrame]:
        """The frames that wait for others. Pictures may follow, but frames of before and after are no neighbours."""
        frames: list[LiveFrame] = []
        for number, image, fresh in self._rate.finish() if self._rate else ():
            frames += self._take(_Seen(self._start + number / self.fps, image, fresh))
        if self._held:
            self._choose(self._held[-1], last=True)
            frames += self._follow_held()
        if self._waiting and self._waiting[-1].found is None:
            self._look(self._waiting[-1])
        while self._waiting:
            frames.append(self._hand_out())
        self._rate, self._since = None, MOST_EVERY
        self._past.clear()
        return frames

    def _forget(self) -> None:
        """In pictures of another size, nothing is known of where the signer is."""
        self._detector.reset()
        self._finder, self._region, self._met = None, (), -np.inf
        self._looked, self._sampled = [], -np.inf
        self._poses.clear()

    def _take(self, seen: _Seen) -> list[LiveFrame]:
        if self._finder is None:
            self._held.append(seen)
            return self._follow_held() if self._choose(seen) else []
        return self._follow(seen)

    def _choose(self, seen: _Seen, *, last: bool = False) -> bool:
        """Whether the signer is chosen: at once if one person or none is there, else once their hands have moved."""
        first = not self._looked
        due = seen.fresh and seen.time - self._sampled >= CHOOSE_SECONDS / SAMPLES
        if first or due:
            self._looked.append(seen.image)
            self._sampled = seen.time
        if not (first or last or (due and len(self._looked) == SAMPLES)):
            return False
        choice = choose_signer(self._looked, self._detector, self.settings.signer_box)
        if first and not last and choice.people > 1:
            return False
        if choice.region != self._region:
            if self._region:
                self._detector.reset()
            self._poses.clear()
        self._region, self._finder = choice.region, Finder(self._detector, self.settings, choice)
        self._met, self._looked = seen.time, []
        return True

    def _follow_held(self) -> list[LiveFrame]:
        held, self._held = self._held, []
        return [frame for seen in held for frame in self._follow(seen)]

    def _follow(self, seen: _Seen) -> list[LiveFrame]:
        before = self._waiting[-1] if self._waiting else self._past[-1] if self._past else None
        self._waiting.append(seen)
        self._since += seen.fresh
        if not seen.fresh and before is not None and before.found is not None:
            seen.found = before.found
        unknown = sum(frame.found is None for frame in self._waiting)
        if unknown and (self._since >= self.every or unknown > LOOKAHEAD):
            self._look(seen)
        return [self._hand_out()] if len(self._waiting) > LOOKAHEAD else []

    def _look(self, seen: _Seen) -> None:
        """Let the models look at a frame, and fill those before it that they have not seen."""
        assert self._finder is not None
        found, self._since = self._finder.look(seen.image, seen.time), 0
        unknown = [frame for frame in self._waiting if frame.found is None]
        known = [frame for frame in (*self._past, *self._waiting) if frame.found is not None]
        before, seen.found = known[-1].found if known else None, found
        for place, frame in enumerate(unknown, 1):
            if frame.found is None:
                frame.found = between(before or found, found, place / len(unknown))
            self._poses.append(frame.found.pose)
        if found.anybody:
            self._met = seen.time
        elif seen.time - self._met >= LOST_SECONDS and self.settings.signer_box is None:
            self._finder = None  # who is there now?

    def _hand_out(self) -> LiveFrame:
        seen = self._waiting.popleft()
        if not seen.fresh and self._past and self._handed is not None:  # where pictures are dropped, this must be cheap
            self._past.append(seen)
            return replace(self._handed, time=seen.time, begins=False)
        near = [frame.found for frame in (*self._past, seen, *self._waiting) if frame.found is not None]
        found, place = near[len(self._past)], len(self._past)
        self._past.append(seen)
        squares = self._cropper.squares(near, place)
        self._shown |= {name: self._resized(crop) for name, crop in
                        self._cropper.crops(seen.image, found, squares).items()}  # fmt: skip
        boxes = {name: square.corners() if square else None for name, square in squares.items()}
        space = self._space()
        pose = landmarks.choose(found.pose[None], self.settings.landmarks, space)
        arrays = self._crops(found, squares)
        arrays |= {POSE.name: pose, POSE.mask: sure_landmarks(pose.reshape(1, -1, 3))}
        unit = space.unit if space else (1.0, 1.0)
        self._handed = LiveFrame(seen.time, not place, arrays, unit, boxes, found.pose)
        return self._handed

    def _space(self) -> landmarks.Space | None:
        if self.settings.pose == "raw":
            height, width = self._shape[:2]
            return landmarks.raw_space(width, height)
        return landmarks.signing_space(np.array(self._poses), self.settings.min_confidence)

    def _crops(self, found: Found, squares: dict[str, Square | None]) -> dict[str, np.ndarray]:
        """The model's images of a frame, and their masks."""
        arrays: dict[str, np.ndarray] = {}
        for stream in self._images:
            # Where the loader takes the nearest crop of a stream without a mask, take the last one.
            there = squares[stream.name] is not None or not stream.mask
            black = np.zeros((self._size, self._size, 3), np.uint8)
            arrays[stream.name] = (self._shown.get(stream.name, black) if there else black)[None]
            if stream.mask:
                arrays[stream.mask] = np.array([not found.sources[stream.name]])
        return arrays

    def _resized(self, crop: np.ndarray) -> np.ndarray:
        """As the loader reads a crop of another size."""
        if len(crop) == self._size:
            return crop
        return np.asarray(Image.fromarray(crop).resize((self._size, self._size), Image.Resampling.BICUBIC))


def between(one: Found, other: Found, share: float) -> Found:
    """What lies `share` (0 to 1) of the way from one frame to another; the nearer one's where only one has it."""
    nearer = one if share < 0.5 else other
    pose = nearer.pose
    if one.anybody and other.anybody:
        pose = ((1 - share) * one.pose + share * other.pose).astype(np.float32)
    squares = dict(nearer.squares)
    for stream in IMAGES:
        a, b = one.squares[stream.name], other.squares[stream.name]
        if a and b:
            squares[stream.name] = Square(*((1 - share) * u + share * v for u, v in
                                            ((a.x, b.x), (a.y, b.y), (a.side, b.side))))  # fmt: skip
    return Found(pose, squares, nearer.sources)
