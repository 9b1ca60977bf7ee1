"""Extract one video into streams in a folder: the crops of each stream of images, and one pose file.

The video is read once, a few pictures at a time. Only the points and boxes of all frames are kept.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.files import replacing
from slt_jax.data import landmarks
from slt_jax.media import frames
from slt_jax.media.crops import LOOKAHEAD, Square, blurred, cut, encoded, smoothed
from slt_jax.media.detect import Body, Box
from slt_jax.media.frames import is_frames
from slt_jax.media.hands import SIDES, HandFinder, shoulder_width, wrist_inside
from slt_jax.media.settings import DEFAULT_FPS, ExtractionSettings
from slt_jax.media.signer import SAMPLES, Choice, Follower, choose_signer
from slt_jax.media.video import BadVideo, facts, pictures, samples
from slt_jax.streams import IMAGES, MASKED, STREAMS, Crop

FACE_SCALE = 1.5  # a crop's side relative to the widest extent of the face's points
HEAD_SCALE = 2.2  # the same for the pose's points of the head, which reach only to the ears
SIGNING_SPACE = "signing_space_v1"  # what later v9's own extraction writes under pose_norm
BLUR_SCALE = 1.2  # the blurred square relative to the crop
FACE_HOLD_SECONDS = 1.0


@dataclass
class _Tracks:
    """What was found in each frame; boxes and poses in pixels of the upright picture."""

    poses: list[np.ndarray] = field(default_factory=list)
    squares: dict[str, list[Square | None]] = field(default_factory=lambda: {stream.name: [] for stream in IMAGES})
    sources: dict[str, list[str]] = field(default_factory=lambda: {stream.name: [] for stream in IMAGES})
    cut: dict[str, list[Square | None]] = field(default_factory=lambda: {stream.name: [] for stream in IMAGES})


def extract(
    video: str | Path,
    video_id: str,
    folder: Path,
    settings: ExtractionSettings,
    detector,
    *,
    start: float | None = None,
    end: float | None = None,
    member: str | None = None,
    rate: float | None = None,
    signer_box: Box | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Write the streams of `video` under `folder` and return the contents of its record.

    It may be a folder of frames, or a .tar with those of the clip `member`; `rate` is theirs, else `settings.fps`.

    `start` and `end` are in seconds. `signer_box` (left, top, right, bottom; pixels, or fractions) holds for this clip
    before that of the settings. `progress(frames written, frames expected)` is called now and then. Raises
    BadVideo if the video cannot be used or shows nobody.
    """
    own = rate or settings.fps or DEFAULT_FPS  # of frames, which say nothing themselves
    of_frames = is_frames(video)
    known = frames.facts(video, member, own) if of_frames else facts(video)
    fps = settings.rate(known.fps)
    span: dict[str, Any] = {"start": start, "end": end, "mirrored": settings.mirrored}
    length = (end if end is not None else known.duration or 0.0) - (start or 0.0)
    detector.reset()
    some = frames.samples(video, member, SAMPLES, rate=own, **span) if of_frames else samples(video, SAMPLES, **span)
    looked = list(some)
    if not looked:
        raise BadVideo(f"{video}: no picture can be read")
    choice = choose_signer(looked, detector, signer_box or settings.signer_box)
    height, width = looked[0].shape[:2]
    del looked

    for stream in STREAMS:
        (folder / stream.name).mkdir(parents=True, exist_ok=True)
    tracks = _Tracks()
    finder = _Finder(detector, settings, choice)
    waiting: deque[tuple[int, np.ndarray]] = deque()
    shown = frames.pictures(video, member, own, fps, **span) if of_frames else pictures(video, fps, **span)
    for picture in shown:
        if picture.image.shape[:2] != (height, width):
            raise BadVideo(f"{video}: the size of the picture changes from {width} x {height} on the way")
        finder.look(picture.image, picture.number / fps, picture.fresh, tracks)
        waiting.append((picture.number, picture.image))
        if len(waiting) > LOOKAHEAD:
            _write(folder, video_id, *waiting.popleft(), tracks, settings, fps)
        progress(picture.number + 1, max(round(length * fps), picture.number + 1))
    while waiting:
        _write(folder, video_id, *waiting.popleft(), tracks, settings, fps)
    if not any(pose[:, 2].any() for pose in tracks.poses):
        raise BadVideo(f"{video}: nobody is found in it; --signer-box says where to look")
    _write_pose(folder / "pose" / f"{video_id}.npz", tracks, settings, fps, width, height)
    return _facts(tracks, choice, settings, fps, known.fps, width, height)


class _Finder:
    """Fills the tracks, one picture after another."""

    def __init__(self, detector, settings: ExtractionSettings, choice: Choice):
        self._detector, self._region = detector, choice.region
        self._hands = HandFinder(detector, settings.min_confidence)
        self._min_confidence = settings.min_confidence
        self._follower = Follower()
        self._face: tuple[float, Square] | None = None

    def look(self, image: np.ndarray, time: float, fresh: bool, tracks: _Tracks) -> None:
        """Add what is found in one picture to `tracks`."""
        if not fresh:  # the same picture again
            of_frames: list[list[Any]] = [tracks.poses, *tracks.squares.values(), *tracks.sources.values()]
            for track in of_frames:
                track.append(track[-1])
            return
        body = self._body(image, time)
        hands = self._hands.find(image, body, time)
        crops: dict[str, tuple[Square, str] | None] = {side: (h.square, h.source) for side, h in hands.items()}
        crops["face"] = self._face_square(body, time)
        for stream in IMAGES:
            if stream.crop.around:
                crops[stream.name] = self._part_square(body, stream.crop)
            square, source = crops.get(stream.name) or (None, "")
            tracks.squares[stream.name].append(square)
            tracks.sources[stream.name].append(source)
        tracks.poses.append(np.zeros((33, 3), np.float32) if body is None else body.pose)

    def _body(self, image: np.ndarray, time: float) -> Body | None:
        """The signer in pixels of the whole picture."""
        left, top, right, bottom = self._region
        body = self._detector.body(np.ascontiguousarray(image[top:bottom, left:right]))
        if body is None:
            return None
        corner = np.array([left, top], np.float32)
        pose = body.pose.copy()
        pose[:, :2] += corner
        others = (None if points is None else points + corner for points in (body.face, body.hand_l, body.hand_r))
        body = Body(pose, *others)
        if not self._follower.accepts(body, time):
            self._detector.reset()  # it would continue with the wrong person
            return None
        return body

    def _face_square(self, body: Body | None, time: float) -> tuple[Square, str] | None:
        crop: tuple[Square, str] | None = None
        if body is not None and body.face is not None:
            crop = Square.around(body.face, FACE_SCALE), "holistic"
        elif body is not None and body.pose[landmarks.NOSE, 2] >= self._min_confidence:
            head = Square.around(body.pose[list(landmarks.HEAD)], HEAD_SCALE)
            crop = Square(head.x, head.y, max(head.side, 0.6 * shoulder_width(body.pose))), "pose"
        elif self._face and time - self._face[0] <= FACE_HOLD_SECONDS:
            return self._face[1], "hold"
        if crop:
            self._face = time, crop[0]
        return crop

    def _part_square(self, body: Body | None, crop: Crop) -> tuple[Square, str] | None:
        """About those points of a crop that the pose is sure of."""
        if body is None:
            return None
        points = body.pose[[landmarks.BLAZEPOSE.index(name) for name in crop.around]]
        points = points[points[:, 2] >= self._min_confidence]
        return (Square.around(points, crop.scale), "pose") if len(points) > 1 else None


def _write(
    folder: Path,
    video_id: str,
    number: int,
    image: np.ndarray,
    tracks: _Tracks,
    settings: ExtractionSettings,
    fps: float,
) -> None:
    """Cut and write the crops of one frame."""
    squares = {}
    for stream in IMAGES:
        centre, side = (fps * seconds for seconds in stream.crop.smoothing)
        squares[stream.name] = smoothed(tracks.squares[stream.name], number, centre=centre, side=side)
        tracks.cut[stream.name].append(squares[stream.name])
    if settings.face_blur:
        # If the face is not found, hand crops must not show it either: its last known place is blurred.
        known = next((s for s in reversed(tracks.squares["face"][: number + 1]) if s), None)
        if face := squares["face"] or known:
            image = blurred(image, Square(face.x, face.y, BLUR_SCALE * face.side))
    for name, square in squares.items():
        if square is not None:
            path = folder / name / f"{video_id}_f{number:06d}.{settings.image_format}"
            path.write_bytes(encoded(cut(image, square, settings.crop_size), settings.image_format))


def _write_pose(path: Path, tracks: _Tracks, settings: ExtractionSettings, fps: float, width: int, height: int) -> None:
    """Write the pose file; docs/video.md explains its keys."""
    poses = np.array(tracks.poses)
    raw = landmarks.raw_space(width, height)
    space = raw if settings.pose == "raw" else landmarks.signing_space(poses, settings.min_confidence)
    used = space or raw
    arrays: dict[str, Any] = {
        "pose": landmarks.choose(poses, settings.landmarks, space),
        "landmarks": np.array(landmarks.names(settings.landmarks)),
        "landmark_set": np.array(settings.landmarks),
        "pose_space": np.array(settings.pose),
        # By this key later v9 knows poses that are normalised already. Whatever text it holds counts as a yes.
        **({"pose_norm": np.array(SIGNING_SPACE)} if settings.pose == "signing" and space else {}),
        # Pixels = origin + unit * value, in a picture of `picture_size`.
        "space_origin": np.array(used.origin), "space_unit": np.array(used.unit),
        "picture_size": np.array([width, height]),
        "fps": np.array(fps),
    }  # fmt: skip
    for stream in MASKED:
        arrays[stream.missing_key] = np.array([not source for source in tracks.sources[stream.name]])
        if (side := stream.name) in SIDES:
            arrays[f"wrist_in_{side}"] = np.array([wrist_inside(pose, side, width, height) & pose[:, 2].any()
                                                   for pose in poses])  # fmt: skip
    for name, sources in tracks.sources.items():
        arrays[f"source_{name}"] = np.array(sources, "U8")
        boxes = [square.corners() if square else (np.nan,) * 4 for square in tracks.cut[name]]
        arrays[f"box_{name}"] = np.array(boxes, np.float32)
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def _facts(
    tracks: _Tracks, choice: Choice, settings: ExtractionSettings, fps, own_fps, width: int, height: int
) -> dict:
    frames = len(tracks.poses)
    return {
        "frames": frames, "fps": fps, "duration": round(frames / fps, 4), "source_fps": own_fps,
        "width": width, "height": height, "landmarks": settings.landmarks, "pose": settings.pose,
        "people": choice.people, "region": list(choice.region),
        "pose_frames": sum(bool(pose[:, 2].any()) for pose in tracks.poses),
        "sources": {name: dict(sorted(Counter(source or "none" for source in sources).items()))
                    for name, sources in tracks.sources.items()},
    }  # fmt: skip
