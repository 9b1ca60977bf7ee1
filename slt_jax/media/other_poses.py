"""Poses that others estimated, as the pose files that training reads: always by the names of landmarks.

Read are `.pose` files (package pose-format), OpenPose's JSON (a folder of `*_keypoints.json` a clip), and arrays of
mediapipe's (.npy, or the only array of a .npz) of shape (frames, landmarks, numbers).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.files import replacing
from slt_jax.base.json_text import read_json
from slt_jax.data import landmarks
from slt_jax.data.npz import NPZ_ERRORS, read_arrays
from slt_jax.data.pose_layout import MIN_CONFIDENCE
from slt_jax.errors import UserError
from slt_jax.media.frames import numbered

# OpenPose's output formats, in its own order; the names are BlazePose's where both have the point.
COCO_18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
BODY_25 = (
    *COCO_18[:8], "mid_hip", *COCO_18[8:], "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
)  # fmt: skip
BODIES = {len(names): names for names in (COCO_18, BODY_25)}
HANDS = {side: tuple(f"{side}_hand_{joint}" for joint in landmarks.HAND_JOINTS) for side in ("left", "right")}
PARTS = {"pose": landmarks.BLAZEPOSE, "left_hand": HANDS["left"], "right_hand": HANDS["right"], "face": (None,) * 468}
NUMBERS = "xyzvc"  # x, y, depth, and how sure it is: visibility or confidence
# What a body without fingers takes from a hand's joints: BlazePose's points there are these knuckles.
FROM_HANDS = {
    f"{side}_{finger}": f"{side}_hand_{joint}"
    for side in ("left", "right")
    for finger, joint in (("pinky", "pinky_mcp"), ("index", "index_finger_mcp"), ("thumb", "thumb_ip"))
}
SUFFIXES = (".pose", ".npy", ".npz")


@dataclass(frozen=True)
class Layout:
    """What arrays of mediapipe do not say themselves: their parts, the numbers of a landmark, the picture's size."""

    parts: tuple[str, ...] | None = None
    numbers: str | None = None
    picture: tuple[int, int] | None = None

    def __post_init__(self):
        if self.parts and (unknown := [part for part in self.parts if part not in PARTS]):
            raise UserError(f"--parts: unknown part {unknown[0]}; choose {', '.join(PARTS)}")
        if self.numbers is not None and not re.fullmatch("xyz?[vc]?", self.numbers):
            raise UserError(
                f"--numbers {self.numbers}: must be x, y, then z, and v or c if they are there, such as xyzv"
            )


@dataclass(frozen=True)
class NamedPoses:
    """Landmarks by name, (T, 3) each: x, y, confidence, in pixels, or in fractions of the picture."""

    points: Mapping[str, np.ndarray]
    frames: int
    picture: tuple[int, int] | None
    fps: float | None = None
    fractions: bool = False


def sources(folder: Path) -> dict[str, Path]:
    """The clips of a folder by id: files, and folders with OpenPose's JSON. Raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(f"--poses {folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in SUFFIXES:
            clip = path.stem
        elif path.is_dir() and any(path.glob("*_keypoints.json")):
            clip = path.name
        else:
            continue
        if clip in found:
            raise UserError(f"--poses {folder}: {found[clip]} and {path} would both be clip {clip}; rename one")
        found[clip] = path
    if not found:
        raise UserError(f"--poses {folder}: holds no {', '.join(SUFFIXES)} and no folder of *_keypoints.json")
    return found


def read_poses(path: Path, layout: Layout) -> NamedPoses:
    """The landmarks of a clip. Raises UserError that names the file, and the flag that it needs."""
    if path.is_dir():
        return _openpose(path, layout)
    return _pose_file(path) if path.suffix == ".pose" else _array(path, layout)


def write_poses(path: Path, poses: NamedPoses, chosen: str, space: str, fps: float | None) -> None:
    """Write a pose file with the landmarks of the set `chosen`, in signing space or raw (fractions of the picture).

    Raises UserError for landmarks that the source does not have, and for a picture's size that is needed and unknown.
    """
    names = landmarks.names(chosen)
    points = _with_derived(poses)
    if missing := [name for name in names if name not in points]:
        raise UserError(f"--landmarks {chosen}: the source has no {', '.join(missing[:4])}; choose a set that it has")
    if poses.picture is None and poses.fractions != (space == "raw"):
        raise UserError(f"--picture-size is not given, and poses in {space} space need it: WIDTHxHEIGHT in pixels")
    stacked = np.stack([points[name] for name in names], axis=1).astype(np.float32)
    stacked[~np.isfinite(stacked).all(axis=-1)] = 0
    size = poses.picture or (1, 1)  # of fractions that stay fractions, there is nothing to know
    if poses.fractions:
        stacked[..., :2] *= np.array(size, np.float32)
    used = landmarks.raw_space(*size) if space == "raw" else _signing(poses, points)
    if used is None:
        raise UserError("the shoulders are never seen, which signing space needs; --pose raw does without")
    seen = stacked[..., 2] > 0
    stacked[..., :2] = np.where(seen[..., None], used(stacked[..., :2]), 0)
    stacked[..., 2] = np.where(seen, np.minimum(stacked[..., 2], 1), 0)
    arrays: dict[str, Any] = {
        "pose": stacked.reshape(poses.frames, -1), "landmarks": np.array(names), "landmark_set": np.array(chosen),
        "pose_space": np.array(space), "space_origin": np.array(used.origin), "space_unit": np.array(used.unit),
    }  # fmt: skip
    if poses.picture:
        arrays["picture_size"] = np.array(poses.picture)
    if rate := fps or poses.fps:
        arrays["fps"] = np.array(float(rate))
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def _with_derived(poses: NamedPoses) -> dict[str, np.ndarray]:
    points = dict(poses.points)
    for name, joint in FROM_HANDS.items():
        if name not in points and joint in points:
            points[name] = points[joint]
    left, right = points.get("left_shoulder"), points.get("right_shoulder")
    if "neck" not in points and left is not None and right is not None:
        middle = (left[:, :2] + right[:, :2]) / 2
        points["neck"] = np.concatenate([middle, np.minimum(left[:, 2:], right[:, 2:])], axis=-1)
    return points


def _signing(poses: NamedPoses, points: Mapping[str, np.ndarray]) -> landmarks.Space | None:
    """The space of the clip, from its shoulders in pixels."""
    body = np.zeros((poses.frames, len(landmarks.BLAZEPOSE), 3), np.float32)
    for name in ("left_shoulder", "right_shoulder"):
        if name in points:
            body[:, landmarks.BLAZEPOSE.index(name)] = np.nan_to_num(points[name])
    if poses.fractions and poses.picture:
        body[..., :2] *= np.array(poses.picture, np.float32)
    return landmarks.signing_space(body, MIN_CONFIDENCE)


def _pose_file(path: Path) -> NamedPoses:
    try:
        from pose_format import Pose
    except ImportError:
        raise UserError("reading .pose files needs pose-format: pip install 'slt-jax[poses]'") from None
    try:
        pose = Pose.read(path.read_bytes())
        data, sure = np.ma.getdata(pose.body.data), np.asarray(pose.body.confidence)
        size = pose.header.dimensions
        components = [(component.name, list(component.points)) for component in pose.header.components]
    except Exception as error:  # whatever the package raises for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as a .pose file ({reason})") from None
    if not data.shape[1]:
        raise UserError(f"{path}: shows nobody")
    person = int(sure.mean(axis=(0, 2)).argmax())  # of several, whom the estimator is surest of
    points: dict[str, np.ndarray] = {}
    column = 0
    for name, parts in components:
        prefix = next((f"{side}_hand_" for side in ("left", "right") if name.lower().startswith(f"{side}_hand")), "")
        if prefix or name in ("POSE_LANDMARKS", "BODY_25", "pose_keypoints_2d"):
            for number, part in enumerate(parts):
                xy, confidence = data[:, person, column + number, :2], sure[:, person, column + number, None]
                points[prefix + _blazepose(part)] = np.concatenate([xy, confidence], axis=-1)
        column += len(parts)
    return NamedPoses(points, len(data), (int(size.width), int(size.height)), float(pose.body.fps))


def _blazepose(name: str) -> str:
    """BlazePose's name of a point in any spelling: LEFT_WRIST, LWrist, "left wrist"."""
    if match := re.fullmatch(r"([LR])([A-Z][a-z]+)", name):
        return f"{'left' if match[1] == 'L' else 'right'}_{match[2].lower()}"
    return re.sub(r"[\s-]+", "_", name.strip()).lower()


def _openpose(folder: Path, layout: Layout) -> NamedPoses:
    paths = sorted(folder.glob("*_keypoints.json"), key=lambda path: numbered(path.name))
    rows: list[dict[str, np.ndarray]] = []
    for path in paths:
        frame = read_json(path, "--poses")
        try:
            person = max(frame["people"], key=lambda one: sum(one["pose_keypoints_2d"][2::3]), default=None)
            rows.append({} if person is None else _openpose_frame(path, person))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"{path}: cannot be read as OpenPose's JSON ({type(error).__name__}: {error})") from None
    names = {name for row in rows for name in row}
    nothing = np.zeros(3)
    points = {name: np.stack([row.get(name, nothing) for row in rows]) for name in names}
    return NamedPoses(points, len(rows), layout.picture)


def _openpose_frame(path: Path, person: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for key, names in (("pose", None), ("hand_left", HANDS["left"]), ("hand_right", HANDS["right"])):
        values = np.array(person.get(f"{key}_keypoints_2d") or [], np.float64)
        if not values.size:
            continue
        known = BODIES.get(values.size // 3) if names is None else names
        if known is None or values.size != 3 * len(known):
            raise UserError(f"{path}: {values.size} numbers of {key}; BODY_25 has 75, COCO 54, a hand 63")
        found |= dict(zip(known, values.reshape(-1, 3), strict=True))
    return found


def _array(path: Path, layout: Layout) -> NamedPoses:
    """Arrays say nothing of themselves, so nothing is guessed that could be meant in two ways."""
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            with open(path, "rb") as file:
                arrays = read_arrays(file, ("pose", "keypoints", "landmarks", "arr_0"))
            (array,) = arrays.values()
    except (*NPZ_ERRORS, TypeError) as error:
        raise UserError(f"{path}: cannot be read as one array ({' '.join(str(error).split())})") from None
    if array.ndim != 3 or array.dtype.kind not in "fiu":
        raise UserError(f"{path}: has the shape {array.shape}; write (frames, landmarks, numbers)")
    parts = layout.parts or (("pose",) if array.shape[1] == len(PARTS["pose"]) else None)
    if parts is None:
        raise UserError(f"{path}: of its {array.shape[1]} landmarks nothing says which they are; give --parts in their "
                        f"order, such as --parts pose left_hand right_hand")  # fmt: skip
    names: Sequence[str | None] = [name for part in parts for name in PARTS[part]]
    if len(names) != array.shape[1]:
        raise UserError(f"{path}: --parts {' '.join(parts)} are {len(names)} landmarks, the file has {array.shape[1]}")
    numbers = layout.numbers or ("xyzv" if array.shape[2] == 4 else None)
    if numbers is None or len(numbers) != array.shape[2]:
        raise UserError(f"{path}: has {array.shape[2]} numbers a landmark; --numbers says which: xyzv, xyz, xyc")
    array = array.astype(np.float64)
    xy = array[..., :2]
    sure = array[..., -1:] if numbers[-1] in "vc" else np.ones_like(xy[..., :1])
    sure = np.where(np.isfinite(xy).all(axis=-1, keepdims=True) & xy.any(axis=-1, keepdims=True), sure, 0)
    points = np.concatenate([xy, sure], axis=-1)
    named = {name: points[:, number] for number, name in enumerate(names) if name is not None}
    largest = np.nanmax(np.abs(np.where(sure > 0, xy, 0)), initial=0)
    return NamedPoses(named, len(array), layout.picture, fractions=bool(largest <= 10))
