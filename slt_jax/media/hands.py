"""Where the hands are. Each belongs to the nearest wrist of the pose, whatever its label says.

For each hand, the first of these that finds it decides; its name becomes the source of the frame:

- `tracked`: the model saw the hand less than a tenth of a second ago, and the pose says that it has hardly moved: its
  box follows the pose, and no model looks;
- `holistic`: Holistic's hand;
- `hands`: the hand detector on the signer's upper body, if Holistic lost a hand whose wrist is in the picture;
- `retry`: the hand detector again, on a crop around that wrist;
- `pose`: a box around the pose's wrist and finger bases, if the pose is sure of the wrist;
- `hold`: the last box, for a fifth of a second.
"""

from dataclasses import dataclass, field

import numpy as np

from slt_jax.data.landmarks import FINGER_BASES, LEFT_SHOULDER, RIGHT_SHOULDER, WRIST
from slt_jax.media.crops import Square, cut
from slt_jax.media.detect import Body, Detector, wrist_inside

SIDES = ("hand_l", "hand_r")
DETECTED = ("tracked", "holistic", "hands", "retry")

HAND_SCALE = 1.6  # a crop's side relative to the widest extent of the hand's points
REACH = 0.5  # shoulder widths that a hand's wrist may be away from the pose's
UPPER_BODY = 4.0  # side of the picture that the hand detector gets, in shoulder widths
RETRY = 1.4  # side of the crop around a wrist, in shoulder widths
DETECTOR_SIDE = 256  # pixels; the hand detector looks at fewer
HOLD_SECONDS = 0.2
TRACK_SECONDS = 0.09  # less than this after a model saw a hand, its box may follow the pose instead
# After PATIENCE searches in a row without a hand at a resting wrist, only every REST_INTERVAL-th frame is searched.
PATIENCE, REST_INTERVAL = 3, 4
RESTING = 0.08  # shoulder widths per frame
STEADY = 0.1  # of the side of a crop: how far each of its points of the pose may have moved since a model looked


@dataclass(frozen=True)
class Hand:
    """A hand that was found: the square of its crop, and its source."""

    square: Square
    source: str


@dataclass(frozen=True)
class Track:
    """The square of a crop when a model last looked, at `time`, and the points of the pose (N, 2) that go with it."""

    time: float
    points: np.ndarray
    square: Square

    def follow(self, points: np.ndarray, time: float, seconds: float) -> Square | None:
        """The square now, moved as its points have; None after `seconds`, or where one of them has moved far."""
        apart = points - self.points
        if time - self.time >= seconds or np.linalg.norm(apart, axis=-1).max() > STEADY * self.square.side:
            return None
        x, y = apart.mean(0)
        return Square(self.square.x + float(x), self.square.y + float(y), self.square.side)


@dataclass
class _Side:
    """What is remembered of one hand."""

    track: Track | None = None
    last: Square | None = None
    last_time: float = -1e9
    side: float | None = None  # running size of the crop
    failures: int = 0
    wrist: np.ndarray | None = None


@dataclass
class HandFinder:
    """Both hands of one signer, frame after frame; a new one for each video."""

    detector: Detector
    min_confidence: float
    _sides: dict[str, _Side] = field(default_factory=lambda: {side: _Side() for side in SIDES})
    _tracked: dict[str, Square] = field(default_factory=dict)  # of the picture that is looked at

    def wanted(self, image: np.ndarray, pose: np.ndarray, time: float) -> list[str]:
        """The hands that a model must look at before `find`, of a pose (33, 3): those in the picture and not tracked.

        Of 345 hands of real videos whose wrist was out of the picture, no model found one.
        """
        height, width = image.shape[:2]
        self._tracked, wanted = {}, []
        for side, memory in self._sides.items():
            if not wrist_inside(pose, side, width, height):
                continue
            if memory.track and (square := memory.track.follow(_points(pose, side), time, TRACK_SECONDS)):
                self._tracked[side] = square
            else:
                wanted.append(side)
        return wanted

    def find(self, image: np.ndarray, body: Body | None, time: float) -> dict[str, Hand]:
        """The hands found in `image`; `body` in its pixels, `time` in seconds."""
        hands: dict[str, Hand] = {}
        if body is not None:
            hands = self._detect(image, body, time)
        self._tracked = {}
        for side in SIDES:
            memory = self._sides[side]
            if side not in hands and body is not None and (box := self._pose_box(image, body, side)):
                hands[side] = Hand(box, "pose")
            if side in hands:
                memory.last, memory.last_time = hands[side].square, time
            elif memory.last and time - memory.last_time <= HOLD_SECONDS and not self._gone(image, body, side):
                hands[side] = Hand(memory.last, "hold")
        return hands

    def _detect(self, image: np.ndarray, body: Body, time: float) -> dict[str, Hand]:
        height, width = image.shape[:2]
        scale = shoulder_width(body.pose)
        hands = [hand for hand in (body.hand_l, body.hand_r) if hand is not None]
        by_side = assign(hands, body.pose, scale)
        sources = dict.fromkeys(by_side, "holistic")
        wanted = [
            side for side in SIDES
            if side not in by_side and side not in self._tracked
            and wrist_inside(body.pose, side, width, height) and self._worth_a_search(body, side)
        ]  # fmt: skip
        if wanted:
            shoulders = body.pose[[LEFT_SHOULDER, RIGHT_SHOULDER], :2].mean(0)
            view = Square(float(shoulders[0]), float(shoulders[1] + 0.6 * scale), UPPER_BODY * scale)
            self._search(image, view, body, wanted, "hands", by_side, sources)
        for side in wanted:
            if side not in by_side:
                self._search(image, Square(*_middle(body.pose, side), RETRY * scale), body, [side], "retry", by_side,
                             sources)  # fmt: skip
            self._sides[side].failures = 0 if side in by_side else self._sides[side].failures + 1
        squares = {side: Hand(square, "tracked") for side, square in self._tracked.items()}
        for side, hand in by_side.items():
            memory, square = self._sides[side], on_own_side(Square.around(hand, HAND_SCALE), body.pose, side)
            memory.side = square.side if memory.side is None else 0.9 * memory.side + 0.1 * square.side
            memory.failures = 0
            squares[side] = Hand(square, sources[side])
        for side in SIDES:
            if side not in self._tracked:
                seen = squares.get(side)
                self._sides[side].track = Track(time, _points(body.pose, side), seen.square) if seen else None
            self._sides[side].wrist = body.pose[WRIST[side], :2] / scale
        return squares

    def _search(self, image, view: Square, body: Body, sides, source: str, by_side: dict, sources: dict) -> None:
        """Add to `by_side` those of the hands `sides` that the hand detector sees in `view`."""
        size = min(max(round(view.side), 32), DETECTOR_SIDE)
        corner, unit = np.array(view.corners()[:2], np.float32), view.side / size
        seen = [hand * unit + corner for hand in self.detector.hands(cut(image, view, size))]
        for side, hand in assign(seen, body.pose, shoulder_width(body.pose)).items():
            if side in sides and side not in by_side:
                by_side[side], sources[side] = hand, source

    def _worth_a_search(self, body: Body, side: str) -> bool:
        memory = self._sides[side]
        if memory.failures < PATIENCE or memory.wrist is None:
            return True
        wrist = body.pose[WRIST[side], :2] / shoulder_width(body.pose)
        if np.linalg.norm(wrist - memory.wrist) > RESTING or memory.failures % REST_INTERVAL == 0:
            return True
        memory.failures += 1
        return False

    def _pose_box(self, image: np.ndarray, body: Body, side: str) -> Square | None:
        height, width = image.shape[:2]
        x, y = _middle(body.pose, side)
        sure = body.pose[WRIST[side], 2] >= self.min_confidence
        if not (sure and wrist_inside(body.pose, side, width, height) and 0 <= x < width and 0 <= y < height):
            return None
        return Square(x, y, self._sides[side].side or 0.75 * shoulder_width(body.pose))

    def _gone(self, image: np.ndarray, body: Body | None, side: str) -> bool:
        """Whether the pose says that the hand has left the picture."""
        return body is not None and not wrist_inside(body.pose, side, image.shape[1], image.shape[0])


def assign(hands: list[np.ndarray], pose: np.ndarray, scale: float) -> dict[str, np.ndarray]:
    """Assign hands to sides: each hand to the nearest wrist within reach, and each wrist takes its nearest hand."""
    nearest: dict[str, tuple[float, int]] = {}
    for number, hand in enumerate(hands):
        distances = {side: float(np.linalg.norm(hand[0, :2] - pose[WRIST[side], :2])) for side in SIDES}
        side = min(distances, key=distances.__getitem__)
        if distances[side] <= REACH * scale:
            nearest[side] = min(nearest.get(side, (np.inf, -1)), (distances[side], number))
    return {side: hands[number] for side, (_, number) in nearest.items()}


def on_own_side(square: Square, pose: np.ndarray, side: str) -> Square:
    """Move a square nearer to its own wrist, so that with folded hands each crop shows its own hand best."""
    own_wrist, other_wrist = (pose[WRIST[name], :2] for name in (side, "hand_r" if side == "hand_l" else "hand_l"))
    towards = (own_wrist - other_wrist) / max(float(np.linalg.norm(own_wrist - other_wrist)), 1e-6)
    across = float(np.dot((square.x, square.y) - (own_wrist + other_wrist) / 2, towards))
    clear = 0.05 * square.side
    if across >= clear:
        return square
    x, y = np.array((square.x, square.y)) + (clear - across) * towards
    return Square(float(x), float(y), square.side)


def shoulder_width(pose: np.ndarray) -> float:
    """The shoulder width in pixels; for a signer who turns aside, judged by head and trunk."""
    width = float(np.linalg.norm(pose[LEFT_SHOULDER, :2] - pose[RIGHT_SHOULDER, :2]))
    head = float(np.linalg.norm(pose[0, :2] - pose[[LEFT_SHOULDER, RIGHT_SHOULDER], :2].mean(0)))
    return max(width, head, 1.0)


def _points(pose: np.ndarray, side: str) -> np.ndarray:
    """The wrist and the finger bases of a hand (4, 2)."""
    return pose[[WRIST[side], *FINGER_BASES[side]], :2]


def _middle(pose: np.ndarray, side: str) -> tuple[float, float]:
    """The middle of the hand according to the pose: a little beyond half way to the finger bases."""
    wrist, bases = pose[WRIST[side], :2], pose[list(FINGER_BASES[side]), :2].mean(0)
    x, y = wrist + 0.8 * (bases - wrist)
    return float(x), float(y)
