"""Frames are picked by the time at which they are shown, upright, from anything that plays."""

from fractions import Fraction

import numpy as np
import pytest

from slt_jax.media.video import BadVideo, at_rate, facts, pictures, samples
from tests.media.synthetic import write_sound, write_video


def grey(level: int, width: int = 32, height: int = 32) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def counted(frames: int) -> list[np.ndarray]:
    """Pictures whose grey tells their number."""
    return [grey(30 + 3 * n) for n in range(frames)]


def numbers(found) -> list[int]:
    return [round((float(picture.image.mean()) - 30) / 3) for picture in found]


@pytest.mark.parametrize(
    ("rate", "fps"),
    [(Fraction(30000, 1001), 25), (50, 25), (60, 25), (60, 24), (25, 25), (8, 25), (Fraction(24000, 1001), 30)],
)
def test_any_rate_comes_out_at_the_one_asked_for(tmp_path, rate, fps):
    frames = 60
    video = write_video(tmp_path / "a.mp4", counted(frames), rate=rate)
    found = list(pictures(video, fps))
    seconds = frames / rate
    assert abs(len(found) - seconds * fps) <= 1
    shown = np.array(numbers(found))
    wanted = np.arange(len(found)) / fps
    apart = np.abs(shown / float(rate) - wanted)
    before_the_last = wanted <= (frames - 1) / float(rate)
    assert (apart[before_the_last] <= 0.5 / float(rate) + 1e-3).all()
    assert [picture.fresh for picture in found] == [True, *(shown[1:] != shown[:-1])]
    assert [picture.number for picture in found] == list(range(len(found)))


def test_a_variable_rate_keeps_its_times(tmp_path):
    """A recording that stutters: half of its frames in the first fifth of the time."""
    times = [*np.arange(20) * 0.02, *(0.4 + np.arange(20) * 0.08)]
    video = write_video(tmp_path / "a.mp4", counted(40), times=times)
    found = list(pictures(video, 25))
    assert abs(len(found) - 2.0 * 25) <= 2
    for picture, shown in zip(found, numbers(found), strict=True):
        nearest = np.abs(np.array(times) - picture.number / 25).min()
        assert abs(times[shown] - picture.number / 25) <= nearest + 1e-6


def test_a_part_of_a_video(tmp_path):
    video = write_video(tmp_path / "a.mp4", counted(60))
    assert numbers(pictures(video, 25, start=0.8, end=1.2)) == list(range(20, 30))
    assert numbers(pictures(video, 25, start=2.0, end=9.0)) == list(range(50, 60))
    with pytest.raises(BadVideo, match="no picture can be read in the part"):
        list(pictures(video, 25, start=5.0, end=6.0))


def test_items_are_given_again_where_the_source_is_slower():
    slow = [(0.0, 0.5, "a"), (0.5, 0.5, "b")]
    assert list(at_rate(slow, 4)) == [(0, "a", True), (1, "b", True), (2, "b", False), (3, "b", False)]
    assert list(at_rate([], 4)) == []
    assert list(at_rate([(0.0, 0.01, "a")], 4)) == [(0, "a", True)]  # a flash is a frame


@pytest.mark.parametrize("name", ["a.mp4", "a.MP4", "a.mkv", "a.mov", "a.webm", "a.avi", "a.gif", "a.m4v"])
def test_containers(tmp_path, name):
    video = write_video(tmp_path / name, counted(20))
    found = list(pictures(video, 25))
    assert abs(len(found) - 20) <= 1
    shown = numbers(found)
    assert np.abs(np.array(shown) - np.arange(len(found))).max() <= (6 if name == "a.gif" else 1)  # 8 greys in a gif


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_in_the_metadata(tmp_path, rotation):
    upright = grey(0, 64, 48)
    upright[:16, :16] = 255  # the upper left corner
    stored = np.rot90(upright, -rotation // 90)
    video = write_video(tmp_path / "a.mp4", [stored] * 3, rotation=rotation)
    image = next(pictures(video, 25)).image
    assert image.shape == (48, 64, 3)
    assert image[4:12, 4:12].min() > 200
    assert image[24:, 24:].max() < 50


def test_pixels_that_are_not_square(tmp_path):
    video = write_video(tmp_path / "a.mp4", [grey(90)] * 3, pixel_width=2)
    assert next(pictures(video, 25)).image.shape == (32, 64, 3)


def test_mirrored(tmp_path):
    image = grey(0)
    image[:, :16] = 255
    video = write_video(tmp_path / "a.mp4", [image] * 2)
    mirrored = next(pictures(video, 25, mirrored=True)).image
    assert mirrored[:, :12].max() < 60
    assert mirrored[:, 20:].min() > 200


def test_samples_are_spread(tmp_path):
    video = write_video(tmp_path / "a.mp4", counted(60))
    shown = [round((float(image.mean()) - 30) / 3) for image in samples(video, 6)]
    assert shown == pytest.approx([5, 15, 25, 35, 45, 55], abs=2)


def test_samples_of_a_long_video_are_sought(tmp_path):
    times = [2.0 * n for n in range(40)]
    video = write_video(tmp_path / "a.mp4", counted(40), times=times)
    assert facts(video).duration > 60
    assert len(list(samples(video, 5))) == 5


def test_what_is_no_video_is_told(tmp_path):
    good = write_video(tmp_path / "good.mp4", counted(50)).read_bytes()
    files = {"empty.mp4": b"", "text.mp4": b"no video\n" * 99, "cut.mp4": good[: len(good) // 2]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    write_sound(tmp_path / "sound.m4a").rename(tmp_path / "sound.mp4")
    for name in (*files, "sound.mp4", "absent.mp4", "."):
        with pytest.raises(BadVideo) as error:
            list(pictures(tmp_path / name, 25))
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_video_that_breaks_off(tmp_path, suffix):
    """A container that says how long it is, and holds less."""
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(100)]
    whole = write_video(tmp_path / f"whole{suffix}", images).read_bytes()
    video = tmp_path / f"cut{suffix}"
    video.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadVideo, match=r"breaks off at \d\.\d s of 4\.0 s"):
        list(pictures(video, 25))
    assert numbers(pictures(video, 25, end=1.0))[:1]  # what is whole can be used


def test_damage_on_the_way_is_passed_over(tmp_path):
    video = write_video(tmp_path / "a.mkv", counted(60))
    content = bytearray(video.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    video.write_bytes(content)
    assert abs(len(list(pictures(video, 25))) - 60) <= 1
