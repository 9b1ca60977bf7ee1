"""Which of several people signs: chosen before the extraction, followed through it, never swapped for another.

The choice looks at a few pictures of the whole video. Faces tell who is there; if there are several people, the motion
of their hands tells who signs. The result is a region of the picture, and Holistic sees nothing else.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from slt_jax.data.landmarks import LEFT_SHOULDER, NOSE, RIGHT_SHOULDER, WRIST
from slt_jax.errors import UserError
from slt_jax.media.detect import Body, Box
from slt_jax.media.hands import SIDES, shoulder_width

SAMPLES = 6  # pictures to choose from
MOTION_SAMPLES = 5  # of these, for measuring the motion of the hands
TILED_FROM = 480  # pixels; in smaller pictures, small faces are of no use
TILE = 0.6  # overlapping quarters, as fractions of the picture
# The space a person signs in, in face heights from the middle of the face.
ASIDE, ABOVE, BELOW = 5.0, 3.5, 6.5
WHOLE = 0.8  # of the picture; a larger region becomes the whole picture
LINK = 1.5  # face widths that a face may move between samples
STILL = 0.1  # added to everyone's motion, so that size decides between people at rest
JUMP = 1.0  # shoulder widths that a nose may move between frames
LOST_SECONDS = 1.0  # seconds after which anyone in the region is taken for the signer


@dataclass
class Person:
    """The face boxes of one person in the sampled pictures, by number."""

    faces: dict[int, Box] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """The median height of the face boxes."""
        return float(np.median([bottom - top for _, top, _, bottom in self.faces.values()]))

    def limits(self) -> Box:
        """The smallest box around all face boxes."""
        boxes = np.array(list(self.faces.values()))
        (left, top), (right, bottom) = map(float, boxes[:, :2].min(0)), map(float, boxes[:, 2:].max(0))
        return left, top, right, bottom


@dataclass(frozen=True)
class Choice:
    """The chosen `region` (left, top, right, bottom, in whole pixels), and how many `people` there were."""

    region: tuple[int, int, int, int]
    people: int


def choose_signer(images: Iterable[np.ndarray], detector, box: Box | None = None) -> Choice:
    """The region of the signer in `images`, which are all of one size. If `box` is given, it decides.

    Raises UserError if `box` lies outside the pictures.
    """
    images = list(images)
    height, width = images[0].shape[:2]
    if box is not None:
        return Choice(_given_region(box, width, height), 0)
    people = find_people([find_faces(image, detector) for image in images])
    if not people:
        return Choice((0, 0, width, height), 0)
    regions = [_region(person, people, width, height) for person in people]
    best = 0
    if len(people) > 1:
        scores = [
            person.size * (STILL + hand_motion(images[:MOTION_SAMPLES], region, detector))
            for person, region in zip(people, regions, strict=True)
        ]
        best = int(np.argmax(scores))
    left, top, right, bottom = regions[best]
    if len(people) == 1 and (right - left) * (bottom - top) >= WHOLE * width * height:
        return Choice((0, 0, width, height), 1)
    return Choice(regions[best], len(people))


def find_faces(image: np.ndarray, detector) -> list[Box]:
    """The faces in a picture. The detector sees the quarters of a big one enlarged, to find small faces too."""
    faces = detector.faces(image)
    height, width = image.shape[:2]
    if max(height, width) < TILED_FROM:
        return faces
    down, across = round(TILE * height), round(TILE * width)
    for top in (0, height - down):
        for left in (0, width - across):
            tile = np.ascontiguousarray(image[top : top + down, left : left + across])
            for box in detector.faces(tile):
                box = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
                if all(_between(box, known) > 0.5 for known in faces):
                    faces.append(box)
    return faces


def find_people(faces: list[list[Box]]) -> list[Person]:
    """Link the faces of the pictures by place. A person is one who is in at least a third of the pictures."""
    people: list[Person] = []
    for number, boxes in enumerate(faces):
        free = list(people)
        for box in sorted(boxes, key=lambda box: box[1] - box[3]):  # big ones first
            known = min(free, key=lambda person: _apart(person, box), default=None)
            if known is None or _apart(known, box) > LINK:
                people.append(Person({number: box}))
            else:
                known.faces[number] = box
                free.remove(known)
    return [person for person in people if 3 * len(person.faces) >= len(faces)]


def hand_motion(images: list[np.ndarray], region: tuple[int, int, int, int], detector) -> float:
    """How far the wrists move between pictures, in shoulder widths relative to the middle of the shoulders."""
    left, top, right, bottom = region
    places = []
    for pose in detector.poses(np.ascontiguousarray(image[top:bottom, left:right]) for image in images):
        if pose is None:
            places.append(np.full((2, 2), np.nan))
            continue
        middle = pose[[LEFT_SHOULDER, RIGHT_SHOULDER], :2].mean(0)
        wrists = pose[[WRIST[side] for side in SIDES]]
        # Unseen wrists count too: hands that come up from out of sight have moved.
        places.append((wrists[:, :2] - middle) / shoulder_width(pose))
    steps = np.linalg.norm(np.diff(np.array(places), axis=0), axis=-1)
    return float(np.nan_to_num(steps).mean()) if steps.size else 0.0


@dataclass
class Follower:
    """Tells for each frame whether a body found in the region is still the signer."""

    nose: np.ndarray | None = None
    seen: float = 0.0

    def accepts(self, body: Body, time: float) -> bool:
        """Whether `body` is the signer, at `time` in seconds. The next body is compared with the last accepted one."""
        nose, scale = body.pose[NOSE, :2], shoulder_width(body.pose)
        if self.nose is not None and time - self.seen < LOST_SECONDS:
            allowed = JUMP * scale * (1 + (time - self.seen))
            if np.linalg.norm(nose - self.nose) > allowed:
                return False
        self.nose, self.seen = nose.copy(), time
        return True


def _apart(person: Person, box: Box) -> float:
    """The distance of a face from a person's last one, in widths of the bigger one; far if their sizes differ."""
    last = list(person.faces.values())[-1]
    widths = (last[2] - last[0], box[2] - box[0])
    if max(widths) > 2 * min(widths):
        return np.inf
    return _between(last, box)


def _between(one: Box, other: Box) -> float:
    """The distance of the middles of two boxes, in widths of the wider one."""
    x, y = (abs((one[n] + one[n + 2]) - (other[n] + other[n + 2])) / 2 for n in (0, 1))
    return math.hypot(x, y) / max(one[2] - one[0], other[2] - other[0], 1.0)


def _region(person: Person, people: list[Person], width: int, height: int) -> tuple[int, int, int, int]:
    """The signing space around a person's faces, up to the faces of the others."""
    faces, size = person.limits(), person.size
    x, y = (faces[0] + faces[2]) / 2, (faces[1] + faces[3]) / 2
    left, right = faces[0] - ASIDE * size, faces[2] + ASIDE * size
    for other in people:
        if other is person:
            continue
        theirs = other.limits()
        if (theirs[0] + theirs[2]) / 2 < x:
            left = max(left, min(theirs[2] + 0.5 * other.size, faces[0] - 0.5 * size))
        else:
            right = min(right, max(theirs[0] - 0.5 * other.size, faces[2] + 0.5 * size))
    box = (left, y - ABOVE * size, right, y + BELOW * size)
    return _whole_pixels(box, width, height)


def _given_region(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    if max(box) <= 1:
        box = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    left, top, right, bottom = region = _whole_pixels(box, width, height)
    if right - left < 16 or bottom - top < 16:
        given = ",".join(f"{side:g}" for side in box)
        raise UserError(f"--signer-box {given}: leaves less than 16 pixels of a picture of {width} x {height}")
    return region


def _whole_pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(side) for side in box)
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)
