"""A live camera gives what an extraction gives, a few frames later, and keeps nothing but these few."""

from itertools import pairwise

import numpy as np
import pytest

from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.media.crops import LOOKAHEAD
from slt_jax.media.extract import extract
from slt_jax.media.live import LiveExtractor, LiveFrame, joined
from slt_jax.media.settings import ExtractionSettings
from slt_jax.media.video import pictures
from tests.media.synthetic import SquareDetector, picture, signing, write_video

SETTINGS = ExtractionSettings(crop_size=64, pose="raw", image_format="png")


def live(images, settings=SETTINGS, *, step: float = 1 / 25, detector=SquareDetector, **more) -> list[LiveFrame]:
    with LiveExtractor(settings, image_size=28, make_detector=detector, **more) as extractor:
        frames = [frame for n, image in enumerate(images) for frame in extractor.frame(image, step * n)]
        return frames + extractor.flush()


def offline(tmp_path, video, settings, frames: int) -> dict[str, np.ndarray]:
    extract(video, "a", tmp_path / "streams", settings, SquareDetector())
    files = scan(folders_under(tmp_path / "streams"), ["a"])["a"]
    return read_clip(files, sequence_length=frames, image_size=28, num_landmarks=13)


def moving_away(frames: int) -> list[np.ndarray]:
    """One hand leaves the picture on the way, and the face is hidden now and then."""
    parts = [{"face": (48, 24), "left": (60 + n, 60), "right": (36 - n % 5, 60)} for n in range(frames)]
    for n in (9, 10, 20):
        del parts[n]["face"]
    return [picture(96, 96, person) for person in parts]


@pytest.mark.parametrize("scene", [signing, moving_away])
@pytest.mark.parametrize("settings", [SETTINGS, ExtractionSettings(crop_size=64, face_blur=True, image_format="png")])
def test_it_is_what_an_extraction_gives(tmp_path, scene, settings):
    video = write_video(tmp_path / "a.mp4", scene(50))
    clip = offline(tmp_path, video, settings, 50)
    found = joined(live((shown.image for shown in pictures(video, 25)), settings))
    for name, array in found.items():
        if name == "pose" and settings.pose == "signing":  # medians over what has come
            np.testing.assert_allclose(array, clip[name], atol=0.02)
        else:
            np.testing.assert_array_equal(array, clip[name], err_msg=name)
    assert found.keys() == clip.keys() - {"pad_mask"}


def test_another_rate_is_brought_to_the_models(tmp_path):
    """A camera of 50 pictures a second, and one of 10."""
    video = write_video(tmp_path / "a.mp4", signing(60), rate=50)
    found = joined(live([shown.image for shown in pictures(video, 50)], step=1 / 50))
    clip = offline(tmp_path, video, SETTINGS, len(found["face"]))
    for name, array in found.items():
        np.testing.assert_array_equal(array, clip[name], err_msg=name)
    slow = live(signing(10), step=0.1)
    assert [round(frame.time, 3) for frame in slow] == [round(0.04 * n, 3) for n in range(len(slow))]
    assert 23 <= len(slow) <= 25
    assert sum(a.arrays["face"] is not b.arrays["face"] for a, b in pairwise(slow)) == 9  # a repeated one costs nothing


def test_it_never_waits_for_more_than_a_few_frames():
    with LiveExtractor(SETTINGS, make_detector=SquareDetector) as extractor:
        behind = [len(extractor.frame(image, n / 25)) for n, image in enumerate(signing(30))]
        assert behind == [0] * (LOOKAHEAD + 1) + [1] * (30 - LOOKAHEAD - 1)
        assert len(extractor.flush()) == LOOKAHEAD + 1


class Counting(SquareDetector):
    """Counts how often models look at a picture."""

    bodies = faces_asked = 0

    def body(self, image, *wanted):
        Counting.bodies += 1
        return super().body(image, *wanted)


@pytest.mark.parametrize("every", [2, 3, 4, 9])
def test_models_need_not_look_at_every_picture(every):
    """Places between are interpolated: the hands move evenly here, but for where they turn."""
    Counting.bodies = 0
    sparse = live(signing(40), every=every, detector=Counting)
    assert Counting.bodies <= 40 / min(every, LOOKAHEAD + 1) + 2
    full = live(signing(40))
    assert len(sparse) == len(full)
    for stream in ("hand_l", "hand_r", "face"):
        apart = np.array([np.abs(np.subtract(a.boxes[stream], b.boxes[stream])).max()
                          for a, b in zip(sparse, full, strict=True)])  # fmt: skip
        assert np.median(apart) < 1
        assert apart.max() < 4


def test_a_pause_of_the_camera_is_no_motion():
    """Frames of before it are handed out, and the first after it has its own time; none is made up for the pause."""
    with LiveExtractor(SETTINGS, make_detector=SquareDetector) as extractor:
        for n, image in enumerate(signing(10)):
            extractor.frame(image, n / 25)
        frames = extractor.frame(signing(1)[0], 3600.0)
        assert len(frames) == LOOKAHEAD + 1
        assert frames[-1].time < 0.4
        (after,) = extractor.flush()
        assert (after.time, after.begins) == (3600.0, True)
        assert [frame.begins for frame in frames] == [False] * len(frames)


def test_a_clock_that_goes_back_stands_still():
    with LiveExtractor(SETTINGS, make_detector=SquareDetector) as extractor:
        times = [0.0, 0.04, 0.08, 0.02, 0.12, 0.16]
        frames = [
            frame for image, time in zip(signing(6), times, strict=True) for frame in extractor.frame(image, time)
        ]
        found = [frame.time for frame in frames + extractor.flush()]
        assert found == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_pictures_of_another_size_begin_anew():
    with LiveExtractor(SETTINGS, make_detector=SquareDetector) as extractor:
        frames = []
        for n, image in enumerate([*signing(8), *signing(8, 160, 120), *signing(8)]):
            frames += extractor.frame(image, n / 25)
        frames += extractor.flush()
        assert 23 <= len(frames) <= 26
        assert all(frame.anybody for frame in frames)


def two(x: int, step: int, moves: bool) -> dict:
    shift = 6 * (step % 2) if moves else 0
    return {"face": (x, 30), "left": (x + 14 + shift, 66 - shift), "right": (x - 14 - shift, 66)}


@pytest.mark.parametrize("signer", [80, 230])
def test_of_two_people_the_one_whose_hands_move(signer):
    """That takes a second, of which nothing is lost."""
    images = [picture(320, 120, *(two(x, n // 4, x == signer) for x in (80, 230))) for n in range(50)]
    frames = live(images)
    assert len(frames) == 50
    assert all(abs(frame.landmarks[0, 0] - signer) < 10 for frame in frames)


def test_who_comes_later_is_found_and_nobody_is_told():
    nobody = [np.zeros((120, 320, 3), np.uint8)] * 30
    someone = [picture(320, 120, two(230, n, True)) for n in range(40)]
    another = [picture(320, 120, two(80, n, True)) for n in range(60)]
    frames = live([*nobody, *someone, *nobody, *another])
    seen = [frame.anybody for frame in frames]
    assert not any(seen[:30])
    assert all(seen[32:68])
    assert not any(seen[72:96])
    assert all(seen[135:])
    assert frames[0].boxes == {"face": None, "hand_l": None, "hand_r": None}
    assert not frames[0].arrays["face"].any()
    assert frames[0].arrays["miss_mask_hl"].all()
    assert all(frame.landmarks[0, 0] < 100 for frame in frames[135:])


def test_memory_does_not_grow():
    def kept(extractor: LiveExtractor) -> int:
        return sum(len(value) for value in vars(extractor).values() if hasattr(value, "__len__"))

    with LiveExtractor(SETTINGS, every=2, make_detector=SquareDetector) as extractor:
        sizes = []
        for n, image in enumerate(signing(8) * 60):
            extractor.frame(image, n / 25)
            sizes.append(kept(extractor))
    assert max(sizes[400:]) <= max(sizes[260:400])


def test_only_the_models_streams_are_given():
    (frame, *_) = live(signing(3), streams=("face",))
    assert set(frame.arrays) == {"face", "pose", "pose_conf_mask"}  # the pose tells where sentences end
    assert frame.space_unit == (96, 96)
    mirrored = live([image[:, ::-1] for image in signing(3)], ExtractionSettings(crop_size=64, mirrored=True))
    assert mirrored[0].boxes["hand_l"] is not None
