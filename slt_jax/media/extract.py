"""Extract one video into streams in a folder: the crops of each stream of images, and one pose file.

The video is read once, a few pictures at a time. Only the points and boxes of all frames are kept.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.ahead import ahead
from slt_jax.base.files import replacing
from slt_jax.data import landmarks
from slt_jax.media import frames
from slt_jax.media.crops import LOOKAHEAD, Square, encoded
from slt_jax.media.detect import Box, wrist_inside
from slt_jax.media.finder import Cropper, Finder, Found
from slt_jax.media.frames import is_frames
from slt_jax.media.hands import SIDES
from slt_jax.media.settings import DEFAULT_FPS, ExtractionSettings
from slt_jax.media.signer import SAMPLES, Choice, choose_signer
from slt_jax.media.video import BadVideo, Picture, facts, pictures, samples
from slt_jax.streams import IMAGES, MASKED, STREAMS

SIGNING_SPACE = "signing_space_v1"  # what later v9's own extraction writes under pose_norm


@dataclass
class _Tracks:
    """What was found in each frame, and the squares that were cut out of it; in pixels of the upright picture."""

    found: list[Found] = field(default_factory=list)
    cut: list[dict[str, Square | None]] = field(default_factory=list)

    @property
    def poses(self) -> np.ndarray:
        """(T, 33, 3)."""
        return np.array([frame.pose for frame in self.found])

    def sources(self, stream: str) -> list[str]:
        """What found the stream's square in each frame."""
        return [frame.sources[stream] for frame in self.found]


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
    finder = Finder(detector, settings, choice)
    write = partial(_write, folder, video_id, settings.image_format, tracks, Cropper(settings, fps))
    shown = frames.pictures(video, member, own, fps, **span) if of_frames else pictures(video, fps, **span)
    shown = _of_size(height, width, shown, video)
    for picture in ahead(write, _looked_at(shown, finder, tracks, fps), LOOKAHEAD):
        progress(picture.number + 1, max(round(length * fps), picture.number + 1))
    if not any(frame.anybody for frame in tracks.found):
        raise BadVideo(f"{video}: nobody is found in it; --signer-box says where to look")
    _write_pose(folder / "pose" / f"{video_id}.npz", tracks, settings, fps, width, height)
    return _facts(tracks, choice, settings, fps, known.fps, width, height)


def _of_size(height: int, width: int, shown: Iterable[Picture], video: str | Path) -> Iterator[Picture]:
    for picture in shown:
        if picture.image.shape[:2] != (height, width):
            raise BadVideo(f"{video}: the size of the picture changes from {width} x {height} on the way")
        yield picture


def _looked_at(shown: Iterable[Picture], finder: Finder, tracks: _Tracks, fps: float) -> Iterator[Picture]:
    """Look at one picture after the other, and yield each when enough of those after it is known to cut its crops."""
    waiting: deque[Picture] = deque()
    for picture in shown:
        # The same picture again shows the same.
        tracks.found.append(finder.look(picture.image, picture.number / fps) if picture.fresh else tracks.found[-1])
        waiting.append(picture)
        if len(waiting) > LOOKAHEAD:
            yield waiting.popleft()
    yield from waiting


def _write(
    folder: Path, video_id: str, image_format: str, tracks: _Tracks, cropper: Cropper, picture: Picture
) -> Picture:
    """Cut and write the crops of one frame."""
    number, image = picture.number, picture.image
    squares = cropper.squares(tracks.found, number)
    tracks.cut.append(squares)
    for name, crop in cropper.crops(image, tracks.found[number], squares).items():
        path = folder / name / f"{video_id}_f{number:06d}.{image_format}"
        path.write_bytes(encoded(crop, image_format))
    return picture


def _write_pose(path: Path, tracks: _Tracks, settings: ExtractionSettings, fps: float, width: int, height: int) -> None:
    """Write the pose file; docs/video.md explains its keys."""
    poses = tracks.poses
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
        arrays[stream.missing_key] = np.array([not source for source in tracks.sources(stream.name)])
        if (side := stream.name) in SIDES:
            arrays[f"wrist_in_{side}"] = np.array([wrist_inside(pose, side, width, height) & pose[:, 2].any()
                                                   for pose in poses])  # fmt: skip
    for name in (stream.name for stream in IMAGES):
        arrays[f"source_{name}"] = np.array(tracks.sources(name), "U8")
        boxes = [square.corners() if (square := squares[name]) else (np.nan,) * 4 for squares in tracks.cut]
        arrays[f"box_{name}"] = np.array(boxes, np.float32)
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def _facts(
    tracks: _Tracks, choice: Choice, settings: ExtractionSettings, fps, own_fps, width: int, height: int
) -> dict:
    frames = len(tracks.found)
    return {
        "frames": frames, "fps": fps, "duration": round(frames / fps, 4), "source_fps": own_fps,
        "width": width, "height": height, "landmarks": settings.landmarks, "pose": settings.pose,
        "people": choice.people, "region": list(choice.region),
        "pose_frames": sum(frame.anybody for frame in tracks.found),
        "sources": {name: dict(sorted(Counter(source or "none" for source in tracks.sources(name)).items()))
                    for name in (stream.name for stream in IMAGES)},
    }  # fmt: skip
