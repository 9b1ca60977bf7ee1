"""Hands go to the nearest wrist and are sought step by step."""

import numpy as np
import pytest

from slt_jax.media.detect import Body
from slt_jax.media.hands import HOLD_SECONDS, HandFinder, assign
from tests.media.synthetic import DIM, DIMMEST, SquareDetector, picture

LEFT, RIGHT = (62, 60), (34, 60)


def signer(left=LEFT, right=RIGHT) -> np.ndarray:
    return picture(96, 96, {"face": (48, 24)} | ({"left": left} if left else {}) | ({"right": right} if right else {}))


@pytest.fixture
def look():
    """Sources and middles of the hands, picture after picture at 25 a second."""
    detector = SquareDetector()
    finder, time = HandFinder(detector, 0.5), 0.0

    def look(image: np.ndarray, body: Body | None = None, seconds: float = 0.04) -> dict[str, tuple[str, int, int]]:
        nonlocal time
        time += seconds
        found = finder.find(image, body or detector.body(image), time)
        return {side: (hand.source, round(hand.square.x), round(hand.square.y)) for side, hand in found.items()}

    look.detector = detector
    return look


def test_each_step_finds_what_the_one_before_lost(look):
    assert look(signer()) == {"hand_l": ("holistic", *LEFT), "hand_r": ("holistic", *RIGHT)}
    assert look.detector.asked["hands"] == 0
    assert look(signer(left=(*LEFT, DIM)))["hand_l"] == ("hands", *LEFT)
    assert look.detector.asked["hands"] == 1
    assert look(signer(right=(*RIGHT, DIMMEST)))["hand_r"] == ("retry", *RIGHT)
    # Dimmer than the hand detector sees, but the pose knows the wrist.
    assert look(signer(left=(*LEFT, 80)))["hand_l"] == ("pose", *LEFT)


def test_sides_are_those_of_the_wrists(look):
    """Crossed arms: the left hand is on the right of the picture's middle, and Holistic has swapped the two."""
    body = look.detector.body(signer())
    swapped = Body(body.pose, body.face, hand_l=body.hand_r, hand_r=body.hand_l)
    assert look(signer(), swapped) == {"hand_l": ("holistic", *LEFT), "hand_r": ("holistic", *RIGHT)}


def test_one_hand_seen_twice_is_one_hand(look):
    body = look.detector.body(signer(left=(*LEFT, 80)))
    double = Body(body.pose, body.face, hand_l=body.hand_r, hand_r=body.hand_r + 0.5)
    found = look(signer(left=(*LEFT, 80)), double)
    assert found == {"hand_l": ("pose", *LEFT), "hand_r": ("holistic", *RIGHT)}


def test_a_hand_of_somebody_else_is_not_taken():
    pose = SquareDetector().body(signer()).pose
    far = np.full((21, 2), 90.0)
    assert assign([far], pose, scale=20.0) == {}
    near = np.full((21, 2), 60.0)
    assert list(assign([far, near], pose, scale=20.0)) == ["hand_l"]


def test_a_hand_out_of_the_picture_is_missing_at_once(look):
    look(signer())
    assert set(look(signer(left=None))) == {"hand_r"}


def test_a_lost_signer_is_held_for_a_moment(look):
    look(signer())
    nobody = np.zeros((96, 96, 3), np.uint8)
    found = [look(nobody) for _ in range(int(HOLD_SECONDS / 0.04) + 3)]
    assert found[0] == {"hand_l": ("hold", *LEFT), "hand_r": ("hold", *RIGHT)}
    assert found[-1] == {}


def test_a_wrist_the_pose_is_not_sure_of_makes_no_crop(look):
    image = signer(left=(*LEFT, 80))
    body = look.detector.body(image)
    body.pose[15, 2] = 0.3
    assert set(look(image, body)) == {"hand_r"}


def test_hopeless_searches_become_rare(look):
    """A resting hand that nothing finds costs little; as soon as it moves it is sought again."""
    hidden = signer(left=(*LEFT, 80))
    for _ in range(4):
        look(hidden)
    before = look.detector.asked["hands"]
    for _ in range(20):
        look(hidden)
    assert look.detector.asked["hands"] - before <= 14  # of 40
    before = look.detector.asked["hands"]
    look(signer(left=(70, 66, 80)))
    assert look.detector.asked["hands"] - before == 2


def test_folded_hands_have_a_crop_each(look):
    """The fingers reach beyond the other wrist: the middle of the crop stays on the own side."""
    body = look.detector.body(signer())
    hand = body.hand_l.copy()
    hand[1:], hand[2] = (20, 60), LEFT
    found = look(signer(), Body(body.pose, body.face, hand, body.hand_r))
    assert found["hand_l"][1] >= (LEFT[0] + RIGHT[0]) / 2


@pytest.fixture
def track():
    """Sources and middles of the hands where models look at what `wanted` names only, and what that was."""
    detector = SquareDetector()
    finder = HandFinder(detector, 0.5)

    def track(image: np.ndarray, time: float) -> tuple[dict[str, tuple[str, int, int]], list[str]]:
        asked: list[str] = []
        body = detector.body(image, lambda pose: asked.extend(finder.wanted(image, pose, time)) or asked)
        found = finder.find(image, body, time)
        return {side: (hand.source, round(hand.square.x), round(hand.square.y)) for side, hand in found.items()}, asked

    return track


def test_a_hand_that_hardly_moves_is_not_looked_at_for_a_moment(track):
    both = ["hand_l", "hand_r"]
    assert track(signer(), 0.0) == ({"hand_l": ("holistic", *LEFT), "hand_r": ("holistic", *RIGHT)}, both)
    # One pixel is less than a tenth of the crop, four are more: the box goes along, or a model looks again.
    moved = signer(left=(63, 60), right=(30, 60))
    assert track(moved, 0.04) == ({"hand_l": ("tracked", 63, 60), "hand_r": ("holistic", 30, 60)}, ["hand_r"])
    assert track(moved, 0.08) == ({"hand_l": ("tracked", 63, 60), "hand_r": ("tracked", 30, 60)}, [])
    # Not for longer than a tenth of a second, however still it is.
    assert track(moved, 0.12) == ({"hand_l": ("holistic", 63, 60), "hand_r": ("tracked", 30, 60)}, ["hand_l"])
    assert track(moved, 0.32) == ({"hand_l": ("holistic", 63, 60), "hand_r": ("holistic", 30, 60)}, both)


def test_a_slow_video_is_looked_at_frame_by_frame(track):
    for frame in range(4):
        assert track(signer(), frame / 10)[1] == ["hand_l", "hand_r"]


def test_a_hand_that_no_model_saw_is_not_tracked(track):
    hidden = signer(left=(*LEFT, 80))
    for frame in range(3):
        found, asked = track(hidden, frame / 25)
        assert found["hand_l"] == ("pose", *LEFT)
        assert "hand_l" in asked
