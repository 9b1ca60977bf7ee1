"""Contact sheets: what a person reads from them is what the files hold."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from slt_jax.data.landmarks import SETS, names
from slt_jax.errors import UserError
from slt_jax.pictures.clip import open_clip
from slt_jax.pictures.sheet import clip_sheet
from slt_jax.pictures.skeleton import PAPER, Figure, draw_skeleton, usual_names
from slt_jax.pictures.tiles import MISSING, SOURCES
from tests.pictures.conftest import COLOURS, upright

CELL = 40


def cells(sheet: Image.Image, columns: int) -> np.ndarray:
    """uint8 (4, columns, CELL, CELL, 3): rows face, left, right, pose. The grid is found by its first face."""
    pixels = np.asarray(sheet)
    top, left = np.argwhere(abs(pixels.astype(int) - COLOURS["face"]).max(-1) < 30)[0]
    grid = pixels[top : top + 4 * CELL, left : left + columns * CELL]
    return grid.reshape(4, CELL, columns, CELL, 3).swapaxes(1, 2)


def middle(cell: np.ndarray) -> tuple[int, ...]:
    return tuple(cell[CELL // 2 - 4 : CELL // 2 + 4, CELL // 2 - 12 : CELL // 2 - 4].mean((0, 1)).round().astype(int))


def near(colour, wanted) -> bool:
    return all(abs(int(a) - int(b)) < 12 for a, b in zip(colour, wanted, strict=True))


def test_rows_are_streams_and_gaps_are_grey(corpus):
    files = corpus.write("clip", 5, without={"hand_l": [1, 2], "hand_r": [4]})
    grid = cells(clip_sheet(files, columns=5, cell=CELL), 5)
    for column in range(5):
        assert near(middle(grid[0, column]), COLOURS["face"])
        assert near(middle(grid[1, column]), MISSING if column in (1, 2) else COLOURS["hand_l"])
        assert near(middle(grid[2, column]), MISSING if column == 4 else COLOURS["hand_r"])
        assert (grid[3, column] < 120).any(), "the pose has lines"


def test_frames_are_spread_over_the_clip(corpus):
    """Every second left hand of 9 frames is missing; 5 columns show the frames 0, 2, 4, 6 and 8."""
    files = corpus.write("clip", 9, without={"hand_l": [1, 3, 5, 7], "hand_r": [8]})
    grid = cells(clip_sheet(files, columns=5, cell=CELL), 5)
    assert all(near(middle(grid[1, column]), COLOURS["hand_l"]) for column in range(5))
    assert [near(middle(grid[2, column]), MISSING) for column in range(5)] == [False] * 4 + [True]


def test_a_crop_that_is_called_missing_does_not_look_like_a_hand(corpus):
    hidden = np.array([False, True])
    files = corpus.write("clip", 2, miss_hand_l=hidden, miss_hand_r=np.zeros(2, bool))
    grid = cells(clip_sheet(files, columns=2, cell=CELL), 2)
    assert near(middle(grid[1, 0]), COLOURS["hand_l"])
    red, green, blue = middle(grid[1, 1])
    assert max(red, green, blue) - min(red, green, blue) < 10
    assert open_clip(files).seen("hand_l") == 0.5


def test_sources_have_their_colours(corpus):
    said = np.array(["holistic", "hold", ""])
    files = corpus.write("clip", 3, source_hand_l=said, source_hand_r=np.array([7, 7, 8], np.uint8))
    grid = cells(clip_sheet(files, columns=3, cell=CELL), 3)
    corner = grid[:, :, 2, 2]
    assert near(corner[1, 0], SOURCES["holistic"])
    assert near(corner[1, 1], SOURCES["hold"])
    assert near(corner[1, 2], COLOURS["hand_l"])
    assert near(corner[2, 0], corner[2, 1])
    assert not near(corner[2, 0], corner[2, 2])
    with_key, without = clip_sheet(files, cell=CELL), clip_sheet(corpus.write("plain", 3), cell=CELL)
    assert with_key.height > without.height


@pytest.mark.parametrize("landmarks", [1, 13, 14, 17, 25, 33, 75])
def test_any_number_of_landmarks_is_drawn(corpus, landmarks):
    files = corpus.write("clip", 2, landmarks=landmarks)
    grid = cells(clip_sheet(files, columns=2, cell=CELL), 2)
    assert (grid[3] < 180).any()


def ink(image: Image.Image) -> int:
    return int((np.asarray(image).min(-1) < 200).sum())


@pytest.mark.parametrize("landmarks", list(SETS))
def test_a_set_is_joined_by_bones_and_an_unknown_one_is_dots(landmarks):
    """Half-way between the left elbow and wrist there is a left arm, where the names tell which points these are."""
    words = names(landmarks)
    points = upright(1, len(words)).reshape(-1, 3)
    points[words.index("left_elbow"), :2] = 0.1, 0.9
    points[words.index("left_wrist"), :2] = 0.9, 0.9
    there = (int(0.5 * 94), int(0.9 * 94))
    red, _, blue = draw_skeleton(points, 94, Figure(words)).getpixel(there)
    assert blue - red > 100
    assert near(draw_skeleton(points, 94, Figure(())).getpixel(there), PAPER)


def test_names_of_the_file_win_over_the_number(corpus):
    """17 landmarks may be COCO's: only the names tell."""
    files = corpus.write("clip", 1, landmarks=17, landmarks_are=0)
    assert open_clip(files).figure.names == usual_names(17)
    pose = upright(1, 17)
    np.savez(files.pose, pose=pose, landmarks=np.array(names("coco17")))
    assert open_clip(files).figure.names == names("coco17")


def test_low_confidence_is_pale():
    points = upright(1, 13).reshape(-1, 3)
    figure = Figure(usual_names(13))
    sure = ink(draw_skeleton(points, 94, figure))
    points[:, 2] = 0.1
    assert ink(draw_skeleton(points, 94, figure)) < 0.05 * sure


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_numbers_that_cannot_be_drawn_are_left_out(value):
    points = upright(1, 13).reshape(-1, 3)
    points[5, 0] = value
    assert ink(draw_skeleton(points, 94, Figure(usual_names(13)))) > 50


def test_arms_outside_the_picture_are_shown():
    pose = upright(4, 13).reshape(4, 13, 3)
    assert Figure.of(pose, usual_names(13)).side == 1
    pose[:, 5, 1] = 1.6
    figure = Figure.of(pose, usual_names(13))
    assert figure.top <= 0
    assert figure.top + figure.side >= 1.6


def test_a_clip_without_pose_or_with_a_short_one(corpus):
    files = corpus.write("clip", 4, pose=upright(2, 13))
    grid = cells(clip_sheet(files, columns=4, cell=CELL), 4)
    assert [near(middle(grid[3, column]), MISSING) for column in range(4)] == [False, False, True, True]
    bare = dataclasses.replace(files, pose=None)
    assert near(middle(cells(clip_sheet(bare, columns=4, cell=CELL), 4)[3, 0]), MISSING)


def test_long_titles_are_not_cut(corpus):
    short, long = (clip_sheet(corpus.write(name, 1), cell=CELL) for name in ("a", "señas_" + 40 * "ñ"))
    assert long.width > short.width


@pytest.mark.parametrize("damage", ["image", "npz", "shape", "nothing"])
def test_damage_is_one_line(corpus, damage):
    files = corpus.write("clip", 2)
    if damage == "image":
        (corpus.root / "face" / "clip_f000000.jpg").write_bytes(b"\xff\xd8 no picture")
    elif damage == "npz":
        (corpus.root / "pose" / "clip.npz").write_bytes(b"PK no archive")
    elif damage == "shape":
        np.savez(files.pose, pose=np.zeros((2, 1, 13, 3)))
    else:
        files = corpus.files("nobody")
    with pytest.raises(UserError) as error:
        clip_sheet(files)
    assert "\n" not in str(error.value)
    assert ("clip" if damage != "nothing" else "nobody") in str(error.value)


def test_extras_that_only_their_writer_reads_are_left_aside(corpus):
    files = corpus.write("clip", 2, source_hand_l=np.array(["hands", None], object), landmarks=13, fps=np.array("fast"))
    clip = open_clip(files)
    assert (clip.sources["hand_l"], clip.fps, clip.total) == ((), None, 2)


@pytest.mark.parametrize("flat", [True, False])
def test_poses_with_depth_are_drawn_without_it(corpus, flat):
    files = corpus.write("clip", 2)
    points = np.random.default_rng(0).uniform((0.2, 0.2, -1.5, 0.9), (0.8, 0.8, -0.1, 1.0), (2, 33, 4))
    np.savez(files.pose, pose=points.reshape(2, -1) if flat else points)
    clip = open_clip(files)
    np.testing.assert_array_equal(clip.pose, points[..., [0, 1, 3]].astype("f4"))
    assert clip.figure.names == usual_names(33)
