"""The pose stream begins with columns of mean 0 and variance 1."""

import numpy as np
import pytest

from slt_jax.data.clip_files import read_pose, scan
from slt_jax.data.clips import MIN_CONFIDENCE
from slt_jax.data.corpus_folder import folders_under
from slt_jax.synthetic.generator import generate
from slt_jax.training.poses import LEAST, NORM, knows_poses, standardised_poses


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "signs"
    generate(root, num_train=12, num_val=1, num_test=1, image_size=24, workers=0, progress=False)
    found = scan(folders_under(root), [f"train_{i:06d}" for i in range(12)])
    return list(found.values())


def normed(poses, start):
    """What the projector's LayerNorm makes of poses (frames, 3L)."""
    rows = poses.astype(np.float64)
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-6)
    return rows * start[f"{NORM}.scale"] + start[f"{NORM}.bias"], rows


def test_columns_are_standardised(files):
    poses = np.concatenate([read_pose(clip, 13)[0] for clip in files])
    poses = np.where(np.repeat(poses[:, 2::3] >= MIN_CONFIDENCE, 3, axis=1), poses, 0)
    after, before = normed(poses, standardised_poses(files, 13))
    np.testing.assert_allclose(after.mean(0), 0, atol=1e-4)
    moves = before.std(0) > LEAST
    assert moves.sum() > 10
    np.testing.assert_allclose(after.std(0)[moves], 1, rtol=1e-4)
    assert (after.std(0) <= 1 + 1e-4).all(), "columns that hardly change are not blown up"


def test_a_clip_that_cannot_be_read_is_left_out(files, tmp_path):
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"nothing")
    bad = type(files[0])(**{**vars(files[0]), "pose": str(broken)})
    start, whole = standardised_poses([bad, *files[1:]], 13), standardised_poses(files[1:], 13)
    np.testing.assert_array_equal(start[f"{NORM}.scale"], whole[f"{NORM}.scale"])
    assert standardised_poses([bad], 13) == {}


def test_given_weights_stay():
    assert knows_poses({"encoder.pose_projector.layers.0.weight", "decoder.model.shared.weight"})
    assert not knows_poses({"encoder.face_backbone.norm.weight"})
