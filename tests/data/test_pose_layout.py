"""Pose files of other layouts are read right or refused by name, and values that cannot be meant never train."""

import numpy as np
import pytest

from slt_jax.data.clip_files import BadClip, ClipFiles, read_pose, scan
from slt_jax.data.clips import read_clip
from slt_jax.data.contract import check_data_set
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packing import write_pack
from slt_jax.data.packs import open_pack
from slt_jax.data.quality import look_at_pose
from slt_jax.data.splits import usable
from slt_jax.data.spot_check import check_kinds, spot_check
from slt_jax.errors import UserError
from tests.data.conftest import ClipFactory

FRAMES = 6


def body(landmarks: int, *, z=(-1.5, 0.1)) -> np.ndarray:
    """x, y, z, visibility (FRAMES, landmarks, 4) as a detector gives them: z is 0 at the hips and -1.5 at the hands."""
    rng = np.random.default_rng(landmarks)
    low, high = zip((0.2, 0.8), (0.2, 0.8), z, (0.9, 1.0), strict=True)
    return rng.uniform(low, high, (FRAMES, landmarks, 4)).astype(np.float32)


def written(factory: ClipFactory, pose: np.ndarray, name: str = "a") -> ClipFiles:
    factory.write(name, FRAMES)
    np.savez(factory.root / "pose" / f"{name}.npz", pose=pose)
    return scan(factory.dirs, [name])[name]


@pytest.mark.parametrize("landmarks", [13, 17, 33, 44, 543])
@pytest.mark.parametrize("z", [(-1.5, 0.1), (0.0, 1e-6), (0.1, 0.9)])
@pytest.mark.parametrize("flat", [True, False])
def test_z_is_left_out_and_visibility_is_the_confidence(factory, landmarks, z, flat):
    pose = body(landmarks, z=z)
    files = written(factory, pose.reshape(FRAMES, -1) if flat else pose)
    assert look_at_pose(files, landmarks)[0] == FRAMES
    clip = read_clip(files, sequence_length=FRAMES, image_size=16, num_landmarks=landmarks)
    np.testing.assert_array_equal(clip["pose"].reshape(FRAMES, landmarks, 3), pose[..., [0, 1, 3]])
    assert clip["pose_conf_mask"].all()


@pytest.mark.parametrize("flat", [True, False])
def test_x_and_y_alone_count_as_sure_where_they_are_there(factory, flat):
    pose = body(13)[..., :2]
    pose[1, 4] = 0
    pose[2, 5] = np.nan
    files = written(factory, pose.reshape(FRAMES, -1) if flat else pose)
    look_at_pose(files, 13)
    clip = read_clip(files, sequence_length=FRAMES, image_size=16, num_landmarks=13)
    hidden = np.argwhere(~clip["pose_conf_mask"]).tolist()
    assert hidden == [[1, 4], [2, 5]]
    np.testing.assert_array_equal(clip["pose"].reshape(FRAMES, 13, 3)[0], np.c_[pose[0], np.ones(13)].astype("f4"))


def test_three_numbers_in_three_dimensions(factory):
    pose = body(13)[..., [0, 1, 3]]
    np.testing.assert_array_equal(read_pose(written(factory, pose), 13)[0], pose.reshape(FRAMES, 39))


@pytest.mark.parametrize(
    ("pose", "landmarks", "says"),
    [
        # MediaPipe's 33 x 4: the default of 13 is wrong, and 44 is what the columns divide to.
        (body(33).reshape(FRAMES, -1), 13, r"33 landmarks of x, y, z, visibility \(132 columns\), expected 13; set"),
        (body(33).reshape(FRAMES, -1), 44, r"pose confidence: -1\.\d+ to 0\..*33 landmarks of x, y, z, visib"),
        (body(543).reshape(FRAMES, -1), 724, r"pose confidence: .*set --pose-landmarks 543"),
        (body(44)[..., [0, 1, 3]].reshape(FRAMES, -1), 13, r"44 landmarks \(132 columns\), expected 13; set"),
        (body(33), 13, r"33 landmarks of x, y, z, visibility \(33 x 4\), expected 13; set"),
        (body(13)[..., :2], 33, r"13 landmarks of x, y \(13 x 2\), expected 33; set"),
        # Nothing says what these are, though 3 or 4 divides them.
        (np.random.default_rng(0).random((FRAMES, 45)), 13, r"45 columns, but 13 landmarks have 39 \(x, y, conf"),
        (body(14)[..., :2].reshape(FRAMES, -1), 13, r"28 columns, but 13 landmarks have 39"),
        (body(13)[..., :3].reshape(FRAMES, -1), 13, r"pose confidence: .*; write each landmark's confidence as 0 to 1"),
        (body(13)[..., :3], 13, r"pose confidence"),
        (body(13).transpose(0, 2, 1), 13, r"pose has the shape \(6, 4, 13\), expected \(frames, 3 x landmarks\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(factory, pose, landmarks, says):
    files = written(factory, pose)
    with pytest.raises(UserError, match=rf"pose/a\.npz: {says}") as error:
        usable([ClipRow("a", "x")], {"a": files}, landmarks, "--train-index", skip_bad_clips=False)
    assert "\n" not in str(error.value)


def spoilt(change) -> np.ndarray:
    pose = body(13)[..., [0, 1, 3]]
    change(pose)
    return pose.reshape(FRAMES, 39)


def scale(part, factor):
    def change(pose):
        pose[part] *= factor

    return change


SURE = {
    "pixels": (scale((..., [0, 1]), 640), "pose out of range: x or y up to .*pixels, it seems; divide x by the width"),
    "x in pixels": (scale((..., 0), 640), "pose out of range"),
    "percent": (scale((..., 2), 100), "pose confidence: .*expected 0 to 1; write each landmark's confidence"),
    "logits": (scale((..., 2), -3), "pose confidence"),
}
LEGAL = {
    "outside of the picture": scale((..., [0, 1]), 3),
    "-1 where nothing was seen": lambda pose: pose.__setitem__((slice(2), slice(9), 2), -1),
    "a frame without a pose": lambda pose: pose.__setitem__(1, 0),
    "nobody": lambda pose: pose.__setitem__(..., 0),
}


@pytest.mark.parametrize("name", SURE)
def test_values_that_cannot_be_meant_train_nothing(factory, name):
    change, says = SURE[name]
    files = written(factory, spoilt(change))
    clips, by_id = [ClipRow("a", "x")], {"a": files}
    with pytest.raises(BadClip, match=rf"pose/a\.npz: {says}"):
        usable(clips, by_id, 13, "--train-index", skip_bad_clips=False)
    with pytest.raises(UserError, match=r"no clip can be read; the first: .*a\.npz"):
        write_pack(factory.root.parent / "pack", clips, by_id, shard_bytes=10**6)


@pytest.mark.parametrize("name", LEGAL)
def test_legal_values_are_no_errors(factory, name, caplog):
    files = written(factory, spoilt(LEGAL[name]))
    found = usable([ClipRow("a", "x")], {"a": files}, 13, "--train-index", skip_bad_clips=False)
    spot_check(found.clips, {"a": files}, 13)
    assert [r.getMessage() for r in caplog.records if "-1" not in name] == []


def test_a_pack_that_was_written_without_this_look_is_looked_at(factory, monkeypatch):
    """Its index says only how many columns there are, and packs of earlier versions hold what nobody looked at."""
    files = written(factory, spoilt(lambda pose: None))
    folder = factory.root.parent / "pack"
    write_pack(folder, [ClipRow("a", "x")], {"a": files}, shard_bytes=10**6)
    packed = open_pack(str(folder)).files(["a"])
    pixels = written(factory, spoilt(SURE["pixels"][0]), "b")
    fake = ClipFiles("a", files.frames, pixels.pose, record=type("Record", (), {"load": lambda self, _: pixels})())
    clips = [ClipRow("a", "x")]
    spot_check(clips, packed, 13)
    with pytest.raises(BadClip, match="pose out of range"):
        spot_check(clips, {"a": fake}, 13)


@pytest.mark.parametrize("landmarks", [13, 33])
def test_packs_hold_other_layouts_too(factory, landmarks):
    pose = body(landmarks)
    files = written(factory, pose.reshape(FRAMES, -1))
    folder = factory.root.parent / "pack"
    index = write_pack(folder, [ClipRow("a", "x")], {"a": files}, shard_bytes=10**6)
    pack = open_pack(str(folder))
    assert [{"id": video_id} | entry for video_id, entry in pack.clips.items()] == index["clips"]
    packed = pack.files(["a"])
    usable([ClipRow("a", "x")], packed, landmarks, "--train-index", skip_bad_clips=False)
    np.testing.assert_array_equal(
        read_pose(packed["a"].loaded(), landmarks)[0], pose[..., [0, 1, 3]].reshape(FRAMES, -1)
    )
    with pytest.raises(UserError, match=rf"{landmarks} landmarks of x, y, z, visibility .*expected 21"):
        usable([ClipRow("a", "x")], packed, 21, "--train-index", skip_bad_clips=False)


def test_what_is_doubtful_in_some_clips_is_a_line_before_training(factory, caplog):
    clips = [ClipRow(factory.write(f"c{n}", 3), "x") for n in range(4)]
    pose = factory.pose(3)
    pose[:, 0] = 11.0  # one landmark far away
    np.savez(factory.root / "pose" / "c1.npz", pose=pose)
    np.savez(factory.root / "pose" / "c2.npz", pose=factory.pose(3).reshape(3, 13, 3)[..., :2])
    factory.image(factory.root / "face" / "c3_f000001.jpg", 90)
    files = scan(factory.dirs, [clip.video_id for clip in clips])
    spot_check(clips, files, 13)
    assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [
        "pose out of range in 1 of 4 clips looked at: c1", "pose columns in 1 of 4 clips looked at: c2"
    ]  # fmt: skip
    with pytest.raises(UserError, match="pose out of range in 1 of 4"):
        spot_check(clips, files, 13, strict=True)


def test_the_data_check_reads_layouts_alike(factory):
    for name in "ab":
        factory.write(name, FRAMES)
        np.savez(factory.root / "pose" / f"{name}.npz", pose=body(33).reshape(FRAMES, -1))
    (factory.root / "meta.csv").write_text("id;text\na;uno\nb;dos\n")
    report = check_data_set(factory.dirs, factory.root / "meta.csv", {})
    assert {(f.kind, f.severity) for f in report.findings} == {("pose columns", "warning")}
    assert report.clips["a"].landmarks == 33
    report = check_data_set(factory.dirs, factory.root / "meta.csv", {}, landmarks=44)
    assert "pose confidence" in {f.kind for f in report.findings if f.severity == "error"}


def test_poses_of_several_kinds_are_told_apart(factory, caplog):
    kinds = [("upper17", "raw"), ("coco17", "raw"), ("coco17", "raw"), (None, None)]
    clips = [ClipRow(f"c{n}", "x") for n in range(len(kinds))]
    for clip, (points, space) in zip(clips, kinds, strict=True):
        factory.write(clip.video_id, 2, **({"landmark_set": points, "pose_space": space} if points else {}))
    files = scan(factory.dirs, [clip.video_id for clip in clips])
    check_kinds(clips[1:], files)
    assert not caplog.records
    check_kinds(clips, files)
    assert [r.getMessage() for r in caplog.records] == [
        "landmark_set: poses of several kinds are mixed, upper17 (c0) and coco17 (c1); extract all with the same "
        "--landmarks"
    ]
    with pytest.raises(UserError, match="landmark_set: poses of several kinds"):
        check_kinds(clips, files, strict=True)
