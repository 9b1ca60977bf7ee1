"""Check once, before training, that the files of clips fit each other and the metadata."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles, FrameCounts, decode_image, load_pose
from slt_jax.data.decode import looks_plain
from slt_jax.data.metadata import ClipRow
from slt_jax.data.npz import NPZ_ERRORS, declared_shape
from slt_jax.data.packs import PackedClips, listed
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
    found = _rules([clip], [files], fps_tolerance)
    return [f"{rule.kind}: {rule.detail(0)}" for rule in found if rule.broken[0]]


def report_quality(
    clips: Sequence[ClipRow], files: Mapping[str, ClipFiles], *, fps_tolerance: float = 1.0, strict: bool = False
) -> dict[str, list[str]]:
    """Check all clips, with one warning per kind of problem, or an error if `strict`. Returns the ids of each kind."""
    own = listed(files, [clip.video_id for clip in clips])
    found = []
    for number, rule in enumerate(_rules(clips, own, fps_tolerance)):
        broken = np.flatnonzero(rule.broken).tolist()
        details = [rule.detail(broken[0])] + [""] * (len(broken) - 1) if broken else []  # only the first is told
        found += [(place, number, rule.kind, detail) for place, detail in zip(broken, details, strict=True)]
    ids = [(clips[place].video_id, kind, detail) for place, _, kind, detail in sorted(found)]
    kinds = tell(ids, f"{len(clips)} clips", strict=strict)
    if clips and all(hand.name in own[0].frames for hand in HANDS):
        counts, _ = count_frames(own)
        frames = max(int(counts.images.sum()), 1)
        seen = " and ".join(f"{100 * counts.seen[h.name].sum() / frames:.0f} % ({h.label})" for h in HANDS)
        logger.info("hands seen in %s of the frames", seen)
    return kinds


@dataclass(frozen=True)
class _Rule:
    """One kind of problem: which clips have it, (N,), and what it says of one of them."""

    kind: str
    broken: np.ndarray
    detail: Callable[[int], str]


def _rules(clips: Sequence[ClipRow], files: Sequence[ClipFiles], fps_tolerance: float) -> list[_Rule]:
    """What clips may have wrong, in the order in which it is told."""
    counts, unreadable = count_frames(files)
    pose, images, frames = counts.pose, counts.images, counts.longest
    fps, duration, told = (
        np.array([getattr(clip, name) for clip in clips], float) for name in ("fps", "duration", "frame_count")
    )
    with np.errstate(all="ignore"):  # there may be none, or 0
        rate = frames / duration
    cannot = np.zeros(len(clips), bool)
    cannot[list(unreadable)] = True
    rules = [
        _Rule("pose missing", pose < 0, lambda n: "no npz file"),
        _Rule("pose unreadable", cannot, lambda n: unreadable[n]),
    ]
    for stream in (stream for stream in IMAGES if stream.name in counts.seen and not stream.mask):
        gaps = frames - counts.seen[stream.name]

        def first_gap(n: int, name: str = stream.name, gaps: np.ndarray = gaps) -> str:
            numbers = files[n].frames[name].numbers
            first = [*np.flatnonzero(numbers != np.arange(len(numbers))), len(numbers)][0]
            return f"{gaps[n]} of {frames[n]}, first {first}"

        rules.append(_Rule(gaps_kind(stream), gaps > 0, first_gap))
    return [
        *rules,
        _Rule(
            "pose shorter than the images", (pose > 0) & (images > pose), lambda n: f"{pose[n]} of {images[n]} frames"
        ),
        _Rule(
            "fps differs from the metadata",
            (fps != 0) & (duration != 0) & (np.abs(rate - fps) > fps_tolerance),
            lambda n: (
                f"{frames[n]} frames in {clips[n].duration:g} s are {rate[n]:.2f} fps, "
                f"the metadata says {clips[n].fps:g}"
            ),
        ),
        _Rule(
            "frame_count differs from the metadata",
            np.abs(frames - told) > 1,  # containers may miscount by one
            lambda n: f"{frames[n]} frames, not {clips[n].frame_count}",
        ),
    ]


def count_frames(files: Sequence[ClipFiles]) -> tuple[FrameCounts, dict[int, str]]:
    """The frames of clips, and why the poses of some, by their places, cannot be read."""
    if isinstance(files, PackedClips):
        return files.counts(), {}
    poses, unreadable = [], {}
    for place, clip in enumerate(files):
        frames = -1
        if clip.pose is not None:
            try:
                frames = clip.record.pose_frames if clip.record else _pose_frames(clip.pose)
            except BadClip as error:
                unreadable[place], frames = str(error), 0
        poses.append(frames)
    images = np.array([clip.last_frame() + 1 for clip in files], int)
    names = files[0].frames if files else ()
    seen = {name: np.array([len(clip.frames[name].numbers) for clip in files], int) for name in names}
    return FrameCounts(np.array(poses, int), images, seen), unreadable


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


def _pose_frames(path: str) -> int:
    """The length of the pose array, from its header alone, as there may be many thousand files."""
    try:
        with open_regular(path) as file:
            return declared_shape(file, "pose")[0]
    except (*NPZ_ERRORS, IndexError) as error:
        raise BadClip(f"{path}: {' '.join(str(error).split())}") from None
