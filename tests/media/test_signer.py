"""Of several people the one whose hands move, and nobody else until the end."""

import numpy as np
import pytest

from slt_jax.errors import UserError
from slt_jax.media.signer import LOST_SECONDS, Follower, choose_signer, find_people
from tests.media.synthetic import SquareDetector, picture

WIDTH, HEIGHT = 320, 120


def person(x: int, step: int, moves: bool) -> dict:
    shift = 6 * (step % 2) if moves else 0
    return {"face": (x, 30), "left": (x + 14 + shift, 66 - shift), "right": (x - 14 - shift, 66)}


def scene(left_moves: bool, right_moves: bool) -> list[np.ndarray]:
    return [picture(WIDTH, HEIGHT, person(80, step, left_moves), person(230, step, right_moves)) for step in range(6)]


@pytest.mark.parametrize("signer", ["left", "right"])
def test_the_one_whose_hands_move(signer):
    choice = choose_signer(scene(signer == "left", signer == "right"), SquareDetector())
    left, top, right, bottom = choice.region
    assert choice.people == 2
    own, other = (80, 230) if signer == "left" else (230, 80)
    assert left < own - 30
    assert own + 30 < right
    assert not left < other < right
    assert (top, bottom) == (0, HEIGHT - 0) or (0 <= top < 20 and bottom > 100)


def test_alone_in_the_picture_is_the_whole_picture():
    images = [picture(96, 96, person(48, step, True)) for step in range(6)]
    assert choose_signer(images, SquareDetector()).region == (0, 0, 96, 96)
    nobody = [np.zeros((96, 96, 3), np.uint8)] * 3
    assert choose_signer(nobody, SquareDetector()).region == (0, 0, 96, 96)


def test_a_small_signer_in_a_corner_gets_a_region():
    images = [picture(470, 400, person(420, step, True)) for step in range(6)]
    left, _, right, _ = choose_signer(images, SquareDetector()).region
    assert left > 300
    assert right == 470


def test_small_faces_of_big_pictures_are_found():
    class ShortSighted(SquareDetector):
        def faces(self, image):
            return super().faces(image) if image.shape[1] < 400 else []

    images = [picture(640, 480, person(500, step, True)) for step in range(6)]
    assert choose_signer(images, ShortSighted()).people == 1


def test_a_given_box_decides():
    images = scene(True, False)
    assert choose_signer(images, SquareDetector(), (160, 0, 320, 120)).region == (160, 0, 320, 120)
    assert choose_signer(images, SquareDetector(), (0.5, 0.0, 1.0, 1.0)).region == (160, 0, 320, 120)
    with pytest.raises(UserError, match=r"--signer-box 400,0,500,120: leaves less than 16 pixels"):
        choose_signer(images, SquareDetector(), (400, 0, 500, 120))


def test_a_face_that_flickers_is_nobody():
    steady, flicker = (10.0, 10.0, 30.0, 30.0), (100.0, 10.0, 120.0, 30.0)
    people = find_people([[steady], [steady, flicker], [steady], [steady], [steady], [steady]])
    assert len(people) == 1
    walking = [[(10.0 + 15 * n, 10.0, 30.0 + 15 * n, 30.0)] for n in range(6)]
    assert len(find_people(walking)) == 1


def test_a_jump_to_another_person_is_refused():
    here = SquareDetector().body(picture(WIDTH, HEIGHT, person(80, 0, True)))
    there = SquareDetector().body(picture(WIDTH, HEIGHT, person(230, 0, True)))
    follower = Follower()
    assert follower.accepts(here, 0.0)
    assert not follower.accepts(there, 0.04)
    assert follower.accepts(here, 0.08)
    assert follower.accepts(there, 0.08 + LOST_SECONDS)  # a new scene
