"""Holistic taken apart gives what mediapipe's own gives, and looks at no more than it is asked for."""

import numpy as np
import pytest

from slt_jax.media.video import pictures

pytest.importorskip("mediapipe")


@pytest.fixture
def images(real_clips) -> list[np.ndarray]:
    return [next(pictures(real_clips / "videos" / "slp_asl_house.mp4", 25, start=at)).image for at in (1.52, 1.56)]


def numbers(landmarks) -> list[tuple[float, ...]]:
    return [(p.x, p.y, p.z, p.visibility) for p in landmarks.landmark]


@pytest.mark.filterwarnings("ignore:SymbolDatabase.GetPrototype")
def test_it_is_mediapipes_own_to_the_bit(images):
    """Also without the part of the pose model that draws the body's outline."""
    from mediapipe.python.solutions.holistic import Holistic as Whole

    from slt_jax.media.holistic import Holistic

    ours = Holistic(0.5, 0.5)
    with Whole(model_complexity=1) as whole:
        for image in images:
            theirs = whole.process(image)
            assert numbers(ours.pose(image)) == numbers(theirs.pose_landmarks)
            found = ours.parts(("face", "hand_l", "hand_r"))
            for name, landmarks in (
                ("face", theirs.face_landmarks), ("hand_l", theirs.left_hand_landmarks),
                ("hand_r", theirs.right_hand_landmarks),
            ):  # fmt: skip
                assert numbers(found[name]) == numbers(landmarks)
    ours.pose(images[0])
    assert list(ours.parts(("hand_r",))) == ["hand_r"]
    ours.reset()
    assert ours.pose(np.zeros_like(images[0])) is None
    assert ours.parts(()) == {}
    ours.close()
