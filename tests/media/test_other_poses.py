"""Poses that others estimated become pose files by the names of their landmarks, or it is said what is missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from pose_format import Pose
from pose_format.numpy import NumPyPoseBody
from pose_format.pose_header import PoseHeader, PoseHeaderComponent, PoseHeaderDimensions

from slt_jax.cli.extract import main
from slt_jax.data.clip_files import ClipFiles, read_pose
from slt_jax.data.clips import flip_permutation
from slt_jax.data.landmarks import BLAZEPOSE, HAND_JOINTS, WITH_HANDS, names
from slt_jax.media.other_poses import BODY_25, COCO_18

SIZE, FRAMES = (640, 480), 3
HAND = [joint.upper() for joint in HAND_JOINTS]


def place(name: str, frame: int = 0) -> tuple[float, float]:
    """Where a landmark is, in pixels: every name somewhere else. The shoulders are 80 pixels apart, at (320, 200)."""
    if name in ("left_shoulder", "right_shoulder"):
        return (360.0 if name.startswith("left") else 280.0), 200.0
    value = sum(n * ord(letter) for n, letter in enumerate(name, 1))
    return 100.0 + value % 397 + frame, 50.0 + value % 251


def points(wanted) -> np.ndarray:
    """(frames, landmarks, 2) in pixels."""
    return np.array([[place(name, frame) for name in wanted] for frame in range(FRAMES)])


def every(side: str) -> list[str]:
    return [f"{side}_hand_{joint}" for joint in HAND_JOINTS]


def convert(folder: Path, *more: str, code: int = 0) -> dict:
    out = folder.parent / "out"
    assert main(["--poses", str(folder), "--output", str(out), *more]) == code
    if code:
        return {}
    with np.load(next(iter((out / "pose").glob("*.npz")))) as archive:
        return dict(archive)


def check(arrays: dict, chosen: str, lost: tuple[str, ...] = ()) -> None:
    """Each landmark is where its name says, in signing space: 320 pixels are one unit."""
    wanted = names(chosen)
    assert arrays["landmarks"].tolist() == list(wanted)
    pose = arrays["pose"].reshape(FRAMES, len(wanted), 3)
    for number, name in enumerate(wanted):
        if name in lost:
            assert not pose[:, number].any()
            continue
        x, y = place(name, 1)
        np.testing.assert_allclose(pose[1, number, :2], [(x - 160) / 320, (y - 40) / 320], atol=1e-4)
        assert pose[1, number, 2] > 0.25


def write_pose(path: Path, people: int = 1) -> None:
    """In the layout of the package's own estimation by mediapipe, hands first."""
    parts = [("LEFT_HAND_LANDMARKS", HAND, every("left")), ("RIGHT_HAND_LANDMARKS", HAND, every("right")),
             ("FACE_LANDMARKS", ["1", "2"], ["face1", "face2"]),
             ("POSE_LANDMARKS", [name.upper() for name in reversed(BLAZEPOSE)], [*reversed(BLAZEPOSE)])]  # fmt: skip
    header = PoseHeader(0.1, PoseHeaderDimensions(*SIZE), [
        PoseHeaderComponent(name, spelled, [], [(0, 0, 0)], "XYZC") for name, spelled, _ in parts
    ])  # fmt: skip
    xy = points([name for *_, own in parts for name in own])
    data = np.zeros((FRAMES, people, xy.shape[1], 3), np.float32)
    data[:, -1, :, :2] = xy
    sure = np.full(data.shape[:3], 0.1, np.float32)
    sure[:, -1] = 0.9
    sure[:, -1, 0] = 0  # the left wrist of the hand is never seen
    with open(path, "wb") as file:
        Pose(header, NumPyPoseBody(25.0, np.ma.masked_array(data, sure[..., None].repeat(3, -1) == 0), sure)).write(
            file
        )


@pytest.mark.parametrize("people", [1, 2])
def test_pose_files_are_read_by_names(tmp_path, people, capsys):
    (tmp_path / "in").mkdir()
    write_pose(tmp_path / "in/clip.pose", people)
    arrays = convert(tmp_path / "in", "--landmarks", WITH_HANDS)
    check(arrays, WITH_HANDS, lost=("left_hand_wrist",))
    assert "1 of 1 poses of 55 landmarks" in capsys.readouterr().out
    assert (float(arrays["fps"]), arrays["picture_size"].tolist()) == (25.0, [640, 480])
    read, _ = read_pose(ClipFiles("clip", {}, str(tmp_path / "out/pose/clip.npz")), 55)
    assert read.shape == (FRAMES, 165)
    check(convert(tmp_path / "in", "--landmarks", "33"), "blazepose33")


@pytest.mark.parametrize("body", [BODY_25, COCO_18])
def test_openposes_json_is_a_folder_a_clip(tmp_path, body):
    folder = tmp_path / "in" / "clip"
    folder.mkdir(parents=True)
    for frame in range(FRAMES):

        def numbers(wanted, frame=frame):
            return [value for name in wanted for value in (*place(name, frame), 0.8)]

        person = {"pose_keypoints_2d": numbers(body), "hand_left_keypoints_2d": numbers(every("left")),
                  "hand_right_keypoints_2d": numbers(every("right"))}  # fmt: skip
        stranger = {"pose_keypoints_2d": [1.0, 1.0, 0.1] * len(body)}
        text = json.dumps({"version": 1.3, "people": [stranger, person] if frame < 2 else []})
        (folder / f"clip_{frame:012d}_keypoints.json").write_text(text)
    arrays = convert(tmp_path / "in", "--landmarks", WITH_HANDS, "--fps", "30")
    pose = arrays["pose"].reshape(FRAMES, 55, 3)
    assert float(arrays["fps"]) == 30
    assert not pose[2].any()  # nobody is there
    order = names(WITH_HANDS)
    joints = {"left_pinky": "left_hand_pinky_mcp", "right_index": "right_hand_index_finger_mcp"}
    for name in ("right_wrist", "left_hand_pinky_tip", "left_pinky", "right_index"):
        source = joints.get(name, name)
        x, y = place(source, 1)
        np.testing.assert_allclose(pose[1, order.index(name), :2], [(x - 160) / 320, (y - 40) / 320], atol=1e-4)


@pytest.mark.parametrize(
    ("parts", "numbers", "more"),
    [
        (["pose"], 4, []), (["pose", "left_hand", "right_hand"], 3, ["--numbers", "xyz"]),
        (["face", "left_hand", "pose", "right_hand"], 4, []),
    ],
)  # fmt: skip
def test_arrays_are_read_as_the_flags_say(tmp_path, parts, numbers, more):
    own = {"pose": BLAZEPOSE, "left_hand": every("left"), "right_hand": every("right"),
           "face": [f"f{n}" for n in range(468)]}  # fmt: skip
    xy = points([name for part in parts for name in own[part]]) / SIZE
    array = np.concatenate([xy, np.full((*xy.shape[:2], 1), -0.3)], axis=-1)
    if numbers == 4:
        array = np.concatenate([array, np.full((*xy.shape[:2], 1), 0.9)], axis=-1)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/clip.npy", array)
    flags = ["--picture-size", "640x480", *more, *(["--parts", *parts] if len(parts) > 1 else [])]
    chosen = "upper13" if len(parts) == 1 else WITH_HANDS
    check(convert(tmp_path / "in", "--landmarks", chosen, *flags), chosen)
    raw = convert(tmp_path / "in", "--pose", "raw", *flags[2:])["pose"].reshape(FRAMES, 13, 3)
    np.testing.assert_allclose(raw[0, 0, :2], np.array(place("nose")) / SIZE, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "flags", "message"),
    [
        ((3, 75, 4), [], "of its 75 landmarks nothing says which they are; give --parts"),
        ((3, 44, 3), [], "of its 44 landmarks nothing says"), ((3, 132), [], r"has the shape (3, 132); write"),
        ((3, 33, 3), [], "has 3 numbers a landmark; --numbers says which"),
        ((3, 33, 4), [], "--picture-size is not given"),
        ((3, 33, 4), ["--parts", "pose", "left_hand"], "--parts pose left_hand are 54 landmarks, the file has 33"),
        ((3, 33, 4), ["--landmarks", WITH_HANDS, "--picture-size", "9x9"],
         "--landmarks upper13+hands: the source has no left_hand_wrist"),
    ],
)  # fmt: skip
def test_nothing_is_guessed(tmp_path, shape, flags, message, capsys):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/clip.npy", np.random.default_rng(0).uniform(0.2, 0.8, shape))
    convert(tmp_path / "in", *flags, code=1)
    said = capsys.readouterr().err
    assert message in said
    assert str(tmp_path / "in/clip.npy") in said


def test_damaged_files_fail_alone(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    write_pose(folder / "good.pose")
    (folder / "bad.pose").write_bytes(b"\0\1\2")
    (folder / "broken").mkdir()
    (folder / "broken/a_keypoints.json").write_text("{")
    convert(folder, code=1)
    said = capsys.readouterr()
    assert "1 of 3 poses" in said.out
    assert "bad.pose: cannot be read as a .pose file" in said.err
    assert "a_keypoints.json: is not JSON" in said.err
    assert [path.name for path in (tmp_path / "out/pose").iterdir()] == ["good.npz"]


def test_a_mirror_swaps_the_hands():
    order, wanted = flip_permutation(55), names(WITH_HANDS)
    for number, name in enumerate(wanted):
        side, _, rest = name.partition("_")
        other = {"left": "right", "right": "left"}.get(side)
        assert wanted[order[number]] == (f"{other}_{rest}" if other else name)
