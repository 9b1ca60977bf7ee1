"""One clip becomes arrays: which frame lands where, what is masked, which file is named when it is bad."""

import numpy as np
import pytest
from PIL import Image

from slt_jax.data.clip_files import BadClip, scan
from slt_jax.data.clips import flip_permutation, read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.metadata import ClipRow, read_metadata
from slt_jax.data.quality import check_clip, check_images, report_quality
from slt_jax.data.shown import sample
from slt_jax.errors import UserError

STREAMS = ("face", "hand_l", "hand_r")


def read(factory, video_id, length=8, size=None, rng=None, landmarks=None, **options):
    files = scan(factory.dirs, [video_id])[video_id]
    size, landmarks = size or factory.size, landmarks or factory.landmarks
    return read_clip(files, sequence_length=length, image_size=size, num_landmarks=landmarks, rng=rng, **options)


def test_shapes_types_and_padding(factory):
    factory.write("a", 5)
    clip = read(factory, "a")
    assert {name: (array.shape, array.dtype.name) for name, array in clip.items()} == {
        "face": ((8, 16, 16, 3), "uint8"),
        "hand_l": ((8, 16, 16, 3), "uint8"),
        "hand_r": ((8, 16, 16, 3), "uint8"),
        "pose": ((8, 39), "float32"),
        "pad_mask": ((8,), "bool"),
        "miss_mask_hl": ((8,), "bool"),
        "miss_mask_hr": ((8,), "bool"),
        "pose_conf_mask": ((8, 13), "bool"),
    }
    assert clip["pad_mask"].tolist() == [True] * 5 + [False] * 3
    for stream in STREAMS:
        assert factory.shown(stream, clip[stream]) == [0, 1, 2, 3, 4, 4, 4, 4]
    np.testing.assert_array_equal(clip["pose"], factory.pose(5)[[0, 1, 2, 3, 4, 4, 4, 4]])
    assert not clip["miss_mask_hl"].any()
    assert not clip["pose_conf_mask"][:, 2].any()
    assert clip["pose_conf_mask"].sum() == 8 * 12


def test_a_missing_image_moves_no_other(factory):
    """v9 matched frames by their place in the sorted listing."""
    factory.write("a", 6, without={"face": [2], "hand_l": [0, 3], "hand_r": [0, 1, 2, 3, 4, 5]})
    clip = read(factory, "a", 6)
    assert factory.shown("face", clip["face"]) == [0, 1, 1, 3, 4, 5]  # the nearest, of two the earlier
    assert factory.shown("hand_l", clip["hand_l"]) == [None, 1, 2, None, 4, 5]
    assert clip["miss_mask_hl"].tolist() == [True, False, False, True, False, False]
    assert clip["miss_mask_hr"].all()
    assert not clip["hand_r"].any()
    assert clip["pad_mask"].all()


def test_streams_without_the_first_or_last_frames(factory):
    factory.write("a", 7, without={"face": [0, 1, 5, 6], "hand_l": [6]})
    clip = read(factory, "a", 8)
    assert factory.shown("face", clip["face"]) == [2, 2, 2, 3, 4, 4, 4, 4]
    assert clip["miss_mask_hl"].tolist() == [False] * 6 + [True] * 2
    assert clip["pad_mask"].sum() == 7


@pytest.mark.parametrize("total", [9, 16, 17, 30, 31])
def test_one_offset_for_all_streams(factory, total):
    factory.write("a", total)
    offsets = set()
    for seed in range(20):
        clip = read(factory, "a", 8, rng=np.random.default_rng(seed))
        stride = -(-total // 8)
        shown = factory.shown("face", clip["face"])
        assert shown == factory.shown("hand_l", clip["hand_l"]) == factory.shown("hand_r", clip["hand_r"])
        np.testing.assert_allclose(clip["pose"][:, 0], np.array(shown) / 100, rtol=1e-6)
        real = clip["pad_mask"].sum()
        assert shown[:real] == list(range(shown[0], total, stride))
        assert shown[real:] == [shown[real - 1]] * (8 - real)
        offsets.add(shown[0])
    assert offsets == set(range(stride))


def test_evaluation_samples_the_centre():
    assert sample(8, 8, None).tolist() == list(range(8))
    assert sample(16, 8, None).tolist() == list(range(0, 16, 2))
    assert sample(17, 8, None).tolist() == [0, 3, 6, 9, 12, 15]
    assert sample(18, 8, None).tolist() == [1, 4, 7, 10, 13, 16]
    assert sample(30, 8, None).tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert sample(31, 8, None).tolist() == [1, 5, 9, 13, 17, 21, 25, 29]
    for total in range(1, 200):
        shown = sample(total, 16, None)
        before, after = shown[0], total - 1 - shown[-1]
        assert 0 <= after - before <= 1
        assert len(shown) <= 16


def test_pose_may_be_shorter_longer_or_absent(factory):
    factory.write("short", 4)
    np.savez(factory.root / "pose" / "short.npz", pose=factory.pose(2))
    clip = read(factory, "short", 4)
    assert clip["pad_mask"].all()
    assert clip["pose_conf_mask"].any(1).tolist() == [True, True, False, False]
    assert not clip["pose"][2:].any()

    factory.write("long", 2)
    np.savez(factory.root / "pose" / "long.npz", pose=factory.pose(4))
    clip = read(factory, "long", 4)
    assert clip["pad_mask"].all()
    assert clip["miss_mask_hl"].tolist() == [False, False, True, True]
    assert factory.shown("face", clip["face"]) == [0, 1, 1, 1]

    factory.write("none", 3, pose=False)
    clip = read(factory, "none", 4)
    assert not clip["pose"].any()
    assert not clip["pose_conf_mask"].any()


def test_missing_hands_named_by_the_pose_file_count_too(factory):
    factory.write(
        "a",
        4,
        without={"hand_l": [1]},
        miss_hand_l=np.array([True, False, False, False]),
        miss_hand_r=np.array([False, True]),
    )
    clip = read(factory, "a", 5)
    assert clip["miss_mask_hl"].tolist() == [True, True, False, False, False]
    assert clip["miss_mask_hr"].tolist() == [False, True, False, False, False]
    assert factory.shown("hand_l", clip["hand_l"]) == [None, None, 2, 3, 3]


def test_values_that_are_no_numbers_are_masked(factory):
    factory.write("a", 2)
    pose = factory.pose(2)
    pose[0, 0] = np.nan
    pose[1, 5] = np.inf
    np.savez(factory.root / "pose" / "a.npz", pose=pose)
    clip = read(factory, "a", 2)
    assert np.isfinite(clip["pose"]).all()
    assert clip["pose_conf_mask"][:, :2].tolist() == [[False, True], [True, False]]


def test_confidence_threshold_is_inclusive(factory):
    factory.write("a", 1)
    pose = factory.pose(1)
    pose[0, 2::3] = np.linspace(0, 0.5, 13)  # landmark 6 has 0.25
    np.savez(factory.root / "pose" / "a.npz", pose=pose)
    assert read(factory, "a", 1)["pose_conf_mask"][0].tolist() == [False] * 6 + [True] * 7
    assert read(factory, "a", 1, min_confidence=0.4)["pose_conf_mask"].sum() == 3


def test_names_with_other_endings_and_ids_with_underscores(factory):
    for suffix, frame in ((".JPG", 0), (".jpeg", 1), (".PNG", 2), (".jpg", 3)):
        for stream in STREAMS:
            factory.image(factory.root / stream / f"a_f2_f{frame:06d}{suffix}", factory.level(stream, frame))
    (factory.root / "face" / "notes.txt").write_text("no frame")
    factory.image(factory.root / "face" / "a_f000000.jpg", 250)  # another clip, not asked for
    factory.image(factory.root / "face" / "a_f2_f12.jpg", factory.level("face", 4))
    (factory.root / "face" / "a_f2_f12.jpg").rename(factory.root / "face" / "a_f2_f4.jpg")
    clip = read(factory, "a_f2", 5)
    assert factory.shown("face", clip["face"]) == [0, 1, 2, 3, 4]
    assert factory.shown("hand_l", clip["hand_l"])[:4] == [0, 1, 2, 3]


def test_other_sizes_and_colour_modes(factory):
    factory.write("a", 4)
    grey = factory.level("face", 1)
    Image.new("RGB", (40, 20), (grey, grey, grey)).save(factory.root / "face" / "a_f000000.jpg", quality=100)
    Image.new("L", (16, 16), grey).save(factory.root / "face" / "a_f000001.jpg", quality=100)
    Image.new("CMYK", (16, 16), (0, 0, 0, 255 - grey)).save(factory.root / "face" / "a_f000002.jpg", quality=100)
    clip = read(factory, "a", 4)
    assert factory.shown("face", clip["face"]) == [1, 1, 1, 3]
    np.testing.assert_allclose(clip["face"][:3], grey, atol=1)
    assert read(factory, "a", 4, size=32)["hand_l"].shape == (4, 32, 32, 3)


def test_a_resized_image_is_pillows_bicubic(factory):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(factory.root / "face" / "a_f000000.png")
    expected = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read(factory, "a", 1)["face"][0], expected)


def test_decoding_equals_pillow(real_clips):
    files = scan(folders_under(real_clips / "processed"), ["lsat_100"])["lsat_100"]
    clip = read_clip(files, sequence_length=16, image_size=224, num_landmarks=13)
    frames = sample(71, 16, None)
    for stream in STREAMS:
        for t, frame in enumerate(frames):
            path = real_clips / "processed" / stream / f"lsat_100_f{frame:06d}.jpg"
            if path.exists():
                np.testing.assert_array_equal(clip[stream][t], np.asarray(Image.open(path).convert("RGB")))
            else:
                assert not clip[stream][t].any()
    assert clip["pad_mask"].sum() == len(frames) == 15


def test_real_clips_are_read_whole(real_clips):
    metadata = read_metadata(real_clips / "meta.csv")
    files = scan(folders_under(real_clips / "processed"), metadata)
    counts = {"lsat_100": (71, 4, 8), "slp_asl_wrong_what": (97, 97, 55), "lsat_clip2": (24, 11, 13)}
    for video_id, (frames, left, right) in counts.items():
        clip = read_clip(files[video_id], sequence_length=100, image_size=32, num_landmarks=13)
        real = clip["pad_mask"]
        assert real.sum() == frames
        assert clip["miss_mask_hl"][real].sum() == left
        assert clip["miss_mask_hr"][real].sum() == right
    assert report_quality(list(metadata.values()), files) == {}


def break_jpg(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda root: break_jpg(root / "face" / "a_f000001.jpg"), "a_f000001.jpg: cannot be read as an image"),
        (lambda root: (root / "hand_l" / "a_f000000.jpg").write_bytes(b""), "a_f000000.jpg: cannot be read as"),
        (lambda root: (root / "hand_r" / "a_f000002.jpg").unlink(), "a_f000002.jpg: .*No such file"),
        (lambda root: (root / "pose" / "a.npz").write_bytes(b"PK"), "a.npz: cannot be read as an npz"),
        (lambda root: np.savez(root / "pose" / "a.npz", points=np.zeros(3)), "a.npz: cannot be read .*pose"),
        (lambda root: np.savez(root / "pose" / "a.npz", pose=np.array([{}])), "a.npz: cannot be read .*allow_pickle"),
        (lambda root: np.savez(root / "pose" / "a.npz", pose=np.zeros((3, 1, 13, 3))), "a.npz: pose has the shape"),
    ],
)
def test_bad_files_are_named(factory, damage, named):
    factory.write("a", 3)
    files = scan(factory.dirs, ["a"])["a"]
    damage(factory.root)
    with pytest.raises(BadClip, match=named) as error:
        read_clip(files, sequence_length=4, image_size=16, num_landmarks=13)
    assert "\n" not in str(error.value)


def test_wrong_landmark_count_is_not_a_bad_clip(factory):
    factory.write("a", 3)
    with pytest.raises(UserError, match=r"a\.npz: 13 landmarks .39 columns., expected 33; .*--pose-landm") as error:
        read(factory, "a", landmarks=33)
    assert not isinstance(error.value, BadClip)


def test_a_clip_without_any_file(factory):
    with pytest.raises(BadClip, match="ghost: no frame in any stream and no pose"):
        read(factory, "ghost")


def test_absent_directories_are_named_by_their_flag(factory):
    flags = {"face": "--face-dir", "hand_l": "--hand-left-dir", "hand_r": "--hand-right-dir", "pose": "--pose-dir"}
    for stream, flag in flags.items():
        with pytest.raises(UserError, match=f"{flag} .*absent: no such directory"):
            scan(factory.dirs | {stream: factory.root / "absent"}, ["a"])
        with pytest.raises(UserError, match=f"{flag} is not given"):
            scan(factory.dirs | {stream: ""}, ["a"])


def test_flip_permutations_are_involutions():
    for landmarks in (13, 33):
        permutation = flip_permutation(landmarks)
        assert sorted(permutation) == list(range(landmarks))
        assert [permutation[permutation[n]] for n in range(landmarks)] == list(range(landmarks))
    body = [0, *range(11, 23)]
    assert [body[n] for n in flip_permutation(13)] == [flip_permutation(33)[n] for n in body]
    assert flip_permutation(20) is None


def test_check_clip(factory):
    factory.write("a", 10, without={"face": [3, 4], "hand_l": [0, 1, 2]})
    factory.write("b", 4, pose=False)
    files = scan(factory.dirs, ["a", "b"])
    assert check_clip(files["a"], ClipRow("a", "x", fps=10.0, duration=1.05, frame_count=11)) == [
        "face frames missing: 2 of 10, first 3"
    ]
    assert check_clip(files["a"], ClipRow("a", "x", fps=25.0, duration=1.0, frame_count=25))[1:] == [
        "fps differs from the metadata: 10 frames in 1 s are 10.00 fps, the metadata says 25",
        "frame_count differs from the metadata: 10 frames, not 25",
    ]
    assert check_clip(files["a"], ClipRow("a", "x", fps=25.0, duration=1.0), fps_tolerance=20)[1:] == []
    assert check_clip(files["b"], ClipRow("b", "x")) == ["pose missing: no npz file"]
    (factory.root / "pose" / "a.npz").write_bytes(b"")
    assert check_clip(files["a"], ClipRow("a", "x"))[0].startswith("pose unreadable: ")


def test_report_summarises_or_raises(factory, caplog):
    clips = [ClipRow(factory.write(f"c{n}", 3, pose=False), "x") for n in range(7)]
    files = scan(factory.dirs, [clip.video_id for clip in clips])
    with caplog.at_level("INFO"):
        assert report_quality(clips, files) == {"pose missing": [f"c{n}" for n in range(7)]}
    assert [record.getMessage() for record in caplog.records] == [
        "pose missing in 7 of 7 clips: c0 (no npz file), c1, c2, c3, c4, ...",
        "hands seen in 100 % (left) and 100 % (right) of the frames",
    ]
    with pytest.raises(UserError, match="pose missing in 7 of 7 clips"):
        report_quality(clips, files, strict=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_quick_look_finds_damaged_images(factory, damage):
    factory.write("uno", 3)
    path = factory.root / "hand_l" / "uno_f000001.jpg"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not an image"}[damage])
    with pytest.raises(BadClip, match=r"uno_f000001\.jpg: cannot be read"):
        check_images(scan(factory.dirs, ["uno"])["uno"])


def test_bytes_after_the_end_of_an_image_are_harmless(factory):
    factory.write("uno", 2)
    path = factory.root / "face" / "uno_f000000.jpg"
    path.write_bytes(path.read_bytes() + b"\0" * 7)
    assert check_images(scan(factory.dirs, ["uno"])["uno"]) == 6
