"""Check once, before training, that the files of clips fit each other and the metadata."""

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles, decode_image, load_pose
from slt_jax.data.decode import looks_plain
from slt_jax.data.metadata import ClipRow
from slt_jax.data.npz import NPZ_ERRORS, declared_shape
from slt_jax.data.pose_layout import (
    into_landmarks,
    misread,
    other_landmarks,
    pose_problems,
    possible_numbers,
    some_frames,
    with_confidence,
)
from slt_jax.data.regular import open_regular
from slt_jax.errors import UserError
from slt_jax.streams import HANDS, IMAGES, Stream

logger = logging.getLogger(__name__)


# What to do about values of poses that are certain to be wrong.
ADVICE = {
    "pose out of range": "divide x by the width and y by the height of the picture",
    "pose confidence": "write each landmark's confidence as 0 to 1, or x and y alone",
}
# The first and last bytes of complete JPEG and PNG files.
WHOLE = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89P", b"\x42\x60\x82"))


def check_images(files: ClipFiles) -> int:
    """Look at both ends of every image of a clip, to find in microseconds what is cut short or of another kind.

    Returns how many were looked at. Raises BadClip naming the first that cannot be read.
    """
    looked = 0
    for frames in files.frames.values():
        for position in range(len(frames.numbers)):
            path = frames.path(files.video_id, position)
            looked += 1
            if not _looks_whole(path):  # bytes after the end are harmless, as the decoder stops there
                decode_image(path, np.empty((8, 8, 3), np.uint8))
    return looked


def look_at_pose(files: ClipFiles, landmarks: int | None = None) -> list[int]:
    """Look at the pose file of a clip, which it must have, at some of its frames. Returns its frames and columns.

    Coordinates in pixels and shifted columns train too, so nobody would notice. Without `landmarks`, the values only
    have to make sense with some number of them. Raises BadClip if they cannot be meant or the file cannot be used,
    UserError for other landmarks.
    """
    pose, _ = load_pose(files)
    some = some_frames(pose)
    points = into_landmarks(some, landmarks)
    if points is None:
        raise other_landmarks(str(files.pose), pose, int(landmarks or 0))
    if landmarks or not possible_numbers(some):
        for problem in pose_problems(with_confidence(points)):
            if problem.certain:
                advice = misread(some, points.shape[1]) or ADVICE[problem.kind]
                raise BadClip(f"{files.pose}: {problem.kind}: {problem.detail}; {advice}")
    return [len(pose), 3 * pose.shape[1] if pose.ndim == 3 else pose.shape[1]]


def _looks_whole(path: str) -> bool:
    try:
        with open_regular(path) as file:
            first = file.read(26)
            file.seek(-3, os.SEEK_END)
            last = file.read(3)
    except OSError:
        return False
    return looks_plain(first) and any(first.startswith(start) and last.endswith(end) for start, end in WHOLE)


def gaps_kind(stream: Stream) -> str:
    """The name of the finding that frames of a stream are missing."""
    return f"{stream.name} frames missing"


def check_clip(files: ClipFiles, clip: ClipRow, fps_tolerance: float = 1.0) -> list[str]:
    """What is wrong with one clip, as `kind: detail`; nothing if it is in order.

    Gaps count for the face and other streams without a mask: a detector loses hands all the time.
    """
    problems = []
    pose_frames = 0
    if files.pose is None:
        problems.append("pose missing: no npz file")
    elif files.record:
        pose_frames = files.record.pose_frames
    else:
        try:
            pose_frames = _pose_frames(files.pose)
        except BadClip as error:
            problems.append(f"pose unreadable: {error}")
    images = files.last_frame() + 1
    frames = max(pose_frames, images)
    for stream in (stream for stream in IMAGES if stream.name in files.frames):
        gaps = np.setdiff1d(np.arange(frames), files.frames[stream.name].numbers)
        if len(gaps) and not stream.mask:
            problems.append(f"{gaps_kind(stream)}: {len(gaps)} of {frames}, first {gaps[0]}")
    if pose_frames and images > pose_frames:
        problems.append(f"pose shorter than the images: {pose_frames} of {images} frames")
    if clip.fps and clip.duration and abs(frames / clip.duration - clip.fps) > fps_tolerance:
        measured = f"{frames} frames in {clip.duration:g} s are {frames / clip.duration:.2f} fps"
        problems.append(f"fps differs from the metadata: {measured}, the metadata says {clip.fps:g}")
    if clip.frame_count is not None and abs(frames - clip.frame_count) > 1:  # containers may miscount by one
        problems.append(f"frame_count differs from the metadata: {frames} frames, not {clip.frame_count}")
    return problems


def report_quality(
    clips: Sequence[ClipRow], files: Mapping[str, ClipFiles], *, fps_tolerance: float = 1.0, strict: bool = False
) -> dict[str, list[str]]:
    """Check all clips, with one warning per kind of problem, or an error if `strict`. Returns the ids of each kind."""
    found = []
    for clip in clips:
        for problem in check_clip(files[clip.video_id], clip, fps_tolerance):
            kind, _, detail = problem.partition(": ")
            found.append((clip.video_id, kind, detail))
    kinds = tell(found, f"{len(clips)} clips", strict=strict)
    if clips and all(hand.name in files[clips[0].video_id].frames for hand in HANDS):
        seen = " and ".join(f"{_rate(clips, files, hand.name):.0f} % ({hand.label})" for hand in HANDS)
        logger.info("hands seen in %s of the frames", seen)
    return kinds


def tell(findings: Sequence[tuple[str, str, str]], of: str, *, strict: bool = False) -> dict[str, list[str]]:
    """One warning for each kind of (id, kind, detail), or an error if `strict`. Returns the ids of each kind."""
    kinds: dict[str, list[str]] = {}
    details: dict[str, str] = {}
    for video_id, kind, detail in findings:
        kinds.setdefault(kind, []).append(video_id)
        details.setdefault(kind, detail)
    lines = [f"{kind} in {len(ids)} of {of}: {_first(ids, details[kind])}" for kind, ids in kinds.items()]
    if strict and lines:
        raise UserError("; ".join(lines))
    for line in lines:
        logger.warning("%s", line)
    return kinds


def _first(ids: list[str], detail: str) -> str:
    return (
        ids[0]
        + (f" ({detail})" if detail else "")
        + "".join(f", {i}" for i in ids[1:5])
        + (", ..." if len(ids) > 5 else "")
    )


def _rate(clips: Sequence[ClipRow], files: Mapping[str, ClipFiles], stream: str) -> float:
    """The percentage of frames that have an image of the stream."""
    frames = sum(files[clip.video_id].last_frame() + 1 for clip in clips)
    return 100 * sum(len(files[clip.video_id].frames[stream].numbers) for clip in clips) / max(frames, 1)


def _pose_frames(path: str) -> int:
    """The length of the pose array, from its header alone, as there may be many thousand files."""
    try:
        with open_regular(path) as file:
            return declared_shape(file, "pose")[0]
    except (*NPZ_ERRORS, IndexError) as error:
        raise BadClip(f"{path}: {' '.join(str(error).split())}") from None
