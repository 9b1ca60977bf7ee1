"""Long videos are cut where the hands rest."""

import numpy as np
import pytest

from slt_jax.data.windows import STILL, at_pauses, even, hand_motion


def covers(windows: list[tuple[int, int]], frames: int, longest: int) -> bool:
    ends = [0, *(end for _, end in windows)]
    whole = [first for first, _ in windows] == ends[:-1] and ends[-1] == frames
    return whole and all(0 < end - first <= longest for first, end in windows)


def test_cuts_lie_in_pauses():
    motion = np.full(300, 3.0)
    pauses = [range(60, 75), range(110, 130), range(200, 210)]
    for pause in pauses:
        motion[list(pause)] = 0.05
    windows = at_pauses(motion, 25.0, 100)
    assert covers(windows, 300, 100)
    assert [any(end in pause for pause in pauses) for _, end in windows[:3]] == [True] * 3


@pytest.mark.parametrize("frames", [1, 99, 100, 101, 1000])
def test_all_frames_are_in_one_window(frames):
    motion = np.random.default_rng(0).uniform(0, 5, frames)
    assert covers(at_pauses(motion, 25.0, 100), frames, 100)
    assert covers(even(frames, 100), frames, 100)
    assert (len(at_pauses(motion, 25.0, 100)) == 1) == (frames <= 100)


def archive(left: np.ndarray, unit: float, confidence: float = 0.9) -> dict[str, np.ndarray]:
    """A pose of two shoulders 60 pixels apart and two wrists, the left one at `left` (T,) pixels."""
    names = ["left_shoulder", "right_shoulder", "left_wrist", "right_wrist"]
    pose = np.full((len(left), 4, 3), confidence, np.float32)
    pose[:, :, :2] = np.array([(130, 100), (70, 100), (0, 150), (70, 150)]) / unit
    pose[:, 2, 0] = left / unit
    return {"landmarks": np.array(names), "pose": pose.reshape(len(left), -1), "fps": np.array(25.0),
            "space_unit": np.array([unit, unit])}  # fmt: skip


def test_motion_is_in_shoulder_widths_a_second():
    left = np.array([100.0, 100.0, 112.0, 112.0])
    for unit in (1.0, 240.0):  # in any space
        np.testing.assert_allclose(hand_motion(archive(left, unit)), [0, 0, 12 / 60 * 25, 0], atol=1e-4)
    assert hand_motion(archive(left, 1.0, confidence=0.1)).max() < STILL  # a hand out of sight rests
