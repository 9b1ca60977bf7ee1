"""`data.v9_hand_masks` hands over what v9's data set did: frames, masks, padding. goldens/v9_inputs.npz is v9's own."""

import numpy as np
import pytest

from slt_jax.data.clip_files import scan
from slt_jax.data.clips import padded_lengths, read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.models.images import normalise
from tests.parity.goldens import GOLDENS, needs_goldens


@needs_goldens
@pytest.mark.parametrize("length", [8, 16, 64])
def test_real_clips_as_v9_read_them(length, real_clips):
    v9 = np.load(GOLDENS / "v9_inputs.npz")
    ids = v9["video_ids"].tolist()
    files = scan(folders_under(real_clips / "processed"), ids)
    for row, video_id in enumerate(ids):
        clip = read_clip(files[video_id], sequence_length=length, image_size=56, num_landmarks=13, v9_inputs=True)
        for name in ("pad_mask", "miss_mask_hl", "miss_mask_hr", "pose_conf_mask"):
            np.testing.assert_array_equal(clip[name], v9[f"T{length}_{name}"][row], err_msg=f"{video_id} {name}")
        pose = clip["pose"].reshape(length, 13, 3)
        pose[..., :2] *= clip["pose_conf_mask"][..., None]  # v9 hides them here, the model there
        np.testing.assert_allclose(pose.reshape(length, 39), v9[f"T{length}_pose"][row], atol=1e-7)
        for stream in ("face", "hand_l", "hand_r"):
            means = np.asarray(normalise(clip[stream], np.float32)).mean(axis=(1, 2, 3))
            np.testing.assert_allclose(means, v9[f"T{length}_{stream}_mean"][row], atol=2e-4, err_msg=video_id)


def read(factory, video_id, length=8, **options):
    files = scan(factory.dirs, [video_id])[video_id]
    return read_clip(files, sequence_length=length, image_size=16, num_landmarks=13, v9_inputs=True, **options)


def remove(factory, stream: str, video_id: str, frames) -> None:
    for frame in frames:
        (factory.root / stream / f"{video_id}_f{frame:06d}.jpg").unlink()


def test_crops_are_taken_by_their_place(factory):
    """Six frames, of which the left hand has crops 2, 4 and 5: they are shown first, and the last is repeated."""
    factory.write("a", 6)
    remove(factory, "hand_l", "a", (0, 1, 3))
    clip = read(factory, "a")
    assert factory.shown("hand_l", clip["hand_l"]) == [2, 4, 5, 5, 5, 5, 5, 5]
    assert factory.shown("face", clip["face"]) == [0, 1, 2, 3, 4, 5, 5, 5]
    assert clip["pad_mask"].tolist() == [True] * 3 + [False] * 5
    assert clip["miss_mask_hl"].all()
    assert clip["miss_mask_hr"].all()


def test_a_hand_that_is_never_there(factory):
    factory.write("a", 6)
    remove(factory, "hand_r", "a", range(6))
    clip = read(factory, "a")
    assert not clip["miss_mask_hr"].any()
    assert clip["miss_mask_hl"].all()
    assert not clip["hand_r"].any()
    assert clip["pad_mask"].sum() == 6  # the face's


def test_more_frames_are_real_than_are_shown(factory):
    """Eleven frames in eight: six are shown, but v9 counts the shortest stream."""
    factory.write("a", 11)
    remove(factory, "hand_l", "a", range(4))
    clip = read(factory, "a")
    assert factory.shown("face", clip["face"]) == [0, 2, 4, 6, 8, 10, 10, 10]
    assert clip["pad_mask"].sum() == 7
    assert padded_lengths([11], 8, (6,)).tolist() == [6]
    assert padded_lengths([11], 8, (6,), v9_inputs=True).tolist() == [8]


def test_a_clip_without_pose_has_one_frame(factory):
    factory.write("a", 6)
    (factory.root / "pose" / "a.npz").unlink()
    clip = read(factory, "a")
    assert clip["pad_mask"].sum() == 1
    assert not clip["pose_conf_mask"].any()


def test_a_shorter_array_shows_the_same(factory):
    factory.write("a", 5)
    whole, short = read(factory, "a", 8), read(factory, "a", 8)
    out = {name: np.empty_like(array[:6]) for name, array in whole.items()}
    short = read(factory, "a", 8, out=out)
    for name, array in short.items():
        np.testing.assert_array_equal(array, whole[name][:6], err_msg=name)


def test_training_draws_one_offset_for_images_and_pose(factory):
    factory.write("a", 30)
    offsets = set()
    for seed in range(20):
        clip = read(factory, "a", rng=np.random.default_rng(seed))
        shown = factory.shown("face", clip["face"])
        np.testing.assert_allclose(clip["pose"][:, 0], np.array(shown) / 100, rtol=1e-6)
        assert np.diff(shown)[:-1].tolist() == [4] * 6
        offsets.add(shown[0])
    assert offsets == {0, 1, 2, 3}
