"""Poses by name, in a space in which mirroring is x -> 1 - x."""

import jax
import numpy as np
import pytest

from slt_jax.data.augment import flip
from slt_jax.data.clips import flip_permutation
from slt_jax.data.landmarks import BLAZEPOSE, BY_NUMBER, SETS, Space, choose, names, raw_space, signing_space

FRAMES = 6


@pytest.fixture
def poses() -> np.ndarray:
    """A signer left of the middle of a picture of 320 x 240."""
    rng = np.random.default_rng(0)
    poses = np.concatenate([rng.uniform(20, 220, (FRAMES, 33, 2)), rng.uniform(0.5, 1, (FRAMES, 33, 1))], axis=-1)
    poses[:, 11, :2], poses[:, 12, :2] = (150, 100), (90, 100)
    return poses.astype(np.float32)


def mirrored(poses: np.ndarray, width: int) -> np.ndarray:
    """The poses of the mirrored video."""
    poses = poses[:, flip_permutation(33)].copy()
    poses[..., 0] = width - poses[..., 0]
    return poses


def test_the_default_is_the_contracts():
    assert names("upper13") == tuple(BLAZEPOSE[n] for n in (0, *range(11, 23)))
    assert {number: len(SETS[name]) for number, name in BY_NUMBER.items()} == {str(n): n for n in (13, 14, 17, 33)}


@pytest.mark.parametrize("name", SETS)
def test_sides_are_where_flips_expect_them(name):
    order = flip_permutation(len(SETS[name]))
    swapped = [point.replace("left", "?").replace("right", "left").replace("?", "right") for point in names(name)]
    assert [names(name)[n] for n in order] == swapped


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", ["signing", "raw"])
def test_a_flip_in_training_is_the_mirrored_video(poses, name, kind):
    def rows(poses):
        space = raw_space(320, 240) if kind == "raw" else signing_space(poses, 0.5)
        return choose(poses, name, space)

    count = len(SETS[name])
    empty = np.zeros((1, FRAMES, 2, 2, 3), np.uint8)
    batch = {
        "face": empty, "hand_l": empty, "hand_r": empty, "pose": rows(poses)[None],
        "miss_mask_hl": np.zeros((1, FRAMES), bool), "miss_mask_hr": np.zeros((1, FRAMES), bool),
        "pose_conf_mask": np.ones((1, FRAMES, count), bool), "flip": np.array([True]),
    }  # fmt: skip
    flipped = np.asarray(jax.jit(flip)(batch)["pose"])[0]
    np.testing.assert_allclose(flipped, rows(mirrored(poses, 320)), atol=1e-5)


def test_signing_space_keeps_the_shape_and_forgets_the_camera(poses):
    space = signing_space(poses, 0.5)
    assert space.unit[0] == space.unit[1] == pytest.approx(4 * 60)
    first = choose(poses, "upper13", space).reshape(FRAMES, 13, 3)
    np.testing.assert_allclose(first[:, 1:3, :2].mean(1), 0.5, atol=1e-6)  # between the shoulders
    nearer = poses.copy()
    nearer[..., :2] = 2.5 * poses[..., :2] + (70, -30)
    moved = choose(nearer, "upper13", signing_space(nearer, 0.5)).reshape(FRAMES, 13, 3)
    np.testing.assert_allclose(moved, first, atol=1e-5)


def test_movement_of_the_body_is_kept(poses):
    poses[3:, :, 0] += 12
    rows = choose(poses, "upper13", signing_space(poses, 0.5)).reshape(FRAMES, 13, 3)
    assert rows[5, 1, 0] - rows[0, 1, 0] == pytest.approx(12 / 240)


def test_frames_without_a_pose_are_zero(poses):
    poses[2] = 0
    rows = choose(poses, "upper14", signing_space(poses, 0.5))
    assert not rows[2].any()
    assert np.isfinite(rows).all()
    assert rows[3].any()
    assert signing_space(np.zeros((3, 33, 3), np.float32), 0.5) is None
    assert not choose(poses, "upper14", None).any()


def test_the_neck_is_as_sure_as_the_less_sure_shoulder(poses):
    poses[:, 11, 2], poses[:, 12, 2] = 0.9, 0.6
    neck = choose(poses, "upper14", Space((0, 0), (1, 1))).reshape(FRAMES, 14, 3)[:, 13]
    np.testing.assert_allclose(neck, np.tile((120, 100, 0.6), (FRAMES, 1)), atol=1e-5)
