"""Random changes of clips: one for all frames of a clip, all streams together, filling left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slt_jax.config import build_section
from slt_jax.data.augment import prepare
from slt_jax.data.clip_augment import augment
from slt_jax.errors import UserError

CLIPS, FRAMES, SIDE, LANDMARKS = 64, 12, 16, 13
REAL = np.array([*range(1, FRAMES + 1)] * 6)[:CLIPS]  # frames of each clip
REAL[-1] = 0  # a filling row


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Every frame tells its number, and every picture is a ramp from left to right."""
    number = np.broadcast_to(np.arange(FRAMES), (CLIPS, FRAMES))
    ramp = np.linspace(40, 200, SIDE).round().astype(np.uint8)
    pictures = np.broadcast_to(ramp[None, None, None, :, None], (CLIPS, FRAMES, SIDE, SIDE, 3)).copy()
    pictures[..., 0, 0, 0] = number
    pose = np.broadcast_to(number[..., None], (CLIPS, FRAMES, 3 * LANDMARKS)).astype(np.float32)
    return {
        "face": pictures, "hand_l": pictures, "hand_r": pictures, "pose": pose,
        "miss_mask_hl": number % 3 == 0, "miss_mask_hr": number % 4 == 0,
        "pose_conf_mask": np.broadcast_to((number % 2 == 0)[..., None], (CLIPS, FRAMES, LANDMARKS)),
        "pad_mask": number < REAL[:, None],
    }  # fmt: skip


def changed(batch, seed: int = 0, **settings) -> dict[str, np.ndarray]:
    key = jax.random.key(seed)
    return jax.tree.map(np.asarray, jax.jit(lambda arrays: augment(arrays, key, settings))(batch))


def shown(after, row: int) -> np.ndarray:
    """The numbers of the real frames of a row, which all streams and masks must agree on."""
    real = after["pad_mask"][row]
    numbers = after["pose"][row, :, 0].astype(int)
    assert real[: real.sum()].all()
    for name in ("face", "hand_l", "hand_r"):
        np.testing.assert_array_equal(after[name][row, ..., 0, 0, 0], numbers)
    for name, every in (("miss_mask_hl", 3), ("miss_mask_hr", 4)):
        np.testing.assert_array_equal(after[name][row], numbers % every == 0)
    np.testing.assert_array_equal(after["pose_conf_mask"][row, :, 0], numbers % 2 == 0)
    return numbers[real]


def test_clips_are_played_faster_and_slower_as_a_whole(batch):
    after = changed(batch, speed=(0.5, 2.0))
    lengths = after["pad_mask"].sum(1)
    for row, count in enumerate(REAL[:-1]):
        numbers = shown(after, row)
        assert max(1, round(count / 2) - 1) <= len(numbers) <= min(FRAMES, 2 * count)
        steps = np.diff(numbers)
        assert (steps >= 0).all()
        assert steps.max(initial=0) <= np.ceil(count / len(numbers))
        assert numbers[0] <= count / len(numbers)
        assert numbers[-1] >= count - 1 - count / len(numbers)
    assert (lengths < REAL).any()
    assert (lengths > REAL).any()
    assert len({*lengths[REAL == 6].tolist()}) > 2, "one speed for all clips"


def test_some_clips_lose_their_end(batch):
    after = changed(batch, cut_end=0.5)
    left = after["pad_mask"].sum(1)
    for row, count in enumerate(REAL[:-1]):
        np.testing.assert_array_equal(shown(after, row), np.arange(max(left[row], 1)))
        assert left[row] <= count
    assert left[-1] == 0
    cut = left[:-1] < REAL[:-1]
    assert 0.25 < cut.mean() < 0.6
    assert len(set(left[:-1][cut] / REAL[:-1][cut])) > 8
    whole = changed(batch, cut_end=0.0)
    np.testing.assert_array_equal(whole["pad_mask"], batch["pad_mask"])


def test_frames_are_left_out_and_one_stays(batch):
    after = changed(batch, drop_frames=0.6)
    for row, count in enumerate(REAL[:-1]):
        numbers = shown(after, row)
        assert 1 <= len(numbers) <= count
        assert (np.diff(numbers) > 0).all()
        assert numbers[-1] < count
    assert after["pad_mask"].sum() == pytest.approx(0.45 * REAL.sum(), rel=0.2)


def test_filling_stays(batch):
    after = changed(batch, speed=(0.5, 2.0), drop_frames=0.5)
    assert not after["pad_mask"][-1].any()
    np.testing.assert_array_equal(after["face"][-1], batch["face"][-1])


def test_a_clip_is_cut_to_one_box(batch):
    """A box of a ramp is a ramp, flatter by the box's share of the width; a quarter of the area is half of a side."""
    after = changed(batch, crop_scale=(0.25, 0.25))["face"][..., 4, :, 1].astype(float)
    np.testing.assert_array_equal(after, np.broadcast_to(after[:, :1], after.shape))
    slopes = np.diff(after[:, 0, 2:-2]).mean(1) / np.diff(batch["face"][0, 0, 4, :, 1].astype(float)).mean()
    assert slopes.min() > np.sqrt(0.25 * 3 / 4) - 0.03
    assert slopes.max() < np.sqrt(0.25 * 4 / 3) + 0.03
    assert np.ptp(slopes) > 0.05
    assert np.ptp(after[:, 0, 0]) > 30, "all boxes lie at one place"
    whole = changed(batch, crop_scale=(1.0, 1.0))["face"]
    assert np.abs(whole.astype(int) - batch["face"]).max() <= 1


def test_a_clip_is_in_one_light(batch):
    grey = {name: np.full_like(array, 100) if array.dtype == np.uint8 else array for name, array in batch.items()}
    after = changed(grey, color=0.3)["hand_l"]
    levels = after[:, 0, 0, 0, 0].astype(int)  # of grey pictures only the brightness changes
    np.testing.assert_array_equal(after, np.broadcast_to(levels[:, None, None, None, None], after.shape))
    assert 69 <= levels.min() < 85
    assert 115 < levels.max() <= 131
    assert not np.array_equal(after, changed(grey, color=0.3)["hand_r"])


def test_one_hand_is_hidden_in_some_clips(batch):
    after = changed(batch, drop_hands=0.5)
    left, right = (after[name].all(1) for name in ("miss_mask_hl", "miss_mask_hr"))
    assert not (left & right).any()
    assert 20 <= (left | right).sum() <= 44
    assert left.any()
    assert right.any()
    for name, hidden in (("miss_mask_hl", left), ("miss_mask_hr", right)):
        np.testing.assert_array_equal(after[name][~hidden], batch[name][~hidden])


def test_poses_shake_and_their_confidences_stay(batch):
    after = changed(batch, jitter_pose=0.02)["pose"].reshape(-1, LANDMARKS, 3)
    moved = after - batch["pose"].reshape(after.shape)
    assert moved[..., :2].std() == pytest.approx(0.02, rel=0.05)
    np.testing.assert_array_equal(moved[..., 2], 0)


def test_without_a_key_nothing_changes(batch):
    settings = {"speed": (0.5, 2.0), "color": 0.5, "drop_hands": 1.0}
    after = prepare({name: jnp.asarray(array) for name, array in batch.items()}, None, augmentation=settings, raw=True)
    for name, array in batch.items():
        np.testing.assert_array_equal(after[name], array)
    changed_too = prepare(batch, jax.random.key(0), augmentation=settings, raw=True)
    assert not np.array_equal(changed_too["face"], batch["face"])


def test_parts_of_the_streams_are_enough(batch):
    pose = {name: batch[name] for name in ("pose", "pose_conf_mask", "pad_mask")}
    everything = {"crop_scale": (0.5, 1.0), "color": 0.3, "speed": (0.8, 1.2), "drop_hands": 0.5, "jitter_pose": 0.1}
    assert changed(pose, **everything).keys() == pose.keys()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sped": [0.5, 1]}, "unknown key 'sped'; did you mean 'speed'"),
        ({"speed": 2}, r"speed must be \[least, most\] between 0.25 and 4, not 2"),
        ({"speed": [1.5, 0.5]}, "speed must be"),
        ({"crop_scale": [0.5, 1.5]}, "crop_scale must be"),
        ({"color": [0.1, 0.2]}, "color must be between 0 and 1"),
        ({"drop_frames": 0.95}, "drop_frames must be between 0 and 0.9"),
        ({"jitter_pose": "a little"}, "jitter_pose must be"),
    ],
)
def test_wrong_settings_are_one_line(given, said):
    with pytest.raises(UserError, match=said):
        build_section("data", {"augmentation": given})
