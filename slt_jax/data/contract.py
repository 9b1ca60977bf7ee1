"""Check a data set against docs/data.md. Every file of every clip is read, and nothing is changed.

An error is what training would stumble over or learn wrongly from; a warning is legal and worth a look.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.config import DataConfig
from slt_jax.data.clip_files import BadClip, ClipFiles, Frames, decode_image, scan
from slt_jax.data.corpus_folder import StreamFolders, check_folders
from slt_jax.data.decode import IMAGE_ERRORS, jpeg_header, looks_plain, open_image
from slt_jax.data.metadata import ClipRow, read_index, read_metadata
from slt_jax.data.npz import NPZ_ERRORS, read_arrays
from slt_jax.data.pose_layout import (
    DOUBTS,
    SHAPES,
    TOLD,
    into_landmarks,
    is_pose,
    misread,
    pose_problems,
    with_confidence,
)
from slt_jax.data.quality import WHOLE, check_clip, gaps_kind
from slt_jax.data.regular import read_regular
from slt_jax.data.stream_folders import check_streams
from slt_jax.data.text import IGNORE, encode_targets
from slt_jax.errors import UserError
from slt_jax.streams import BY_NAME, IMAGES, MASKED, POSE, chosen

ERROR, WARNING = "error", "warning"
FPS_TOLERANCE = 1.0
THREADS = 8  # threads; they mostly wait for the disk
# What quality.check_clip finds, and how bad it is.
SEVERITY = {
    "pose missing": WARNING, "pose unreadable": ERROR,
    **{gaps_kind(stream): WARNING for stream in IMAGES},
    "pose shorter than the images": ERROR, "fps differs from the metadata": WARNING,
    "frame_count differs from the metadata": WARNING,
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `clip` is an id, or the file or folder if it is not about a single clip."""

    severity: str
    clip: str
    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Examined:
    """One clip: total frames, images of each stream, landmarks (0 without a pose).

    `seen` counts the frames that show what the stream is of, for streams that may miss it (hands).
    """

    frames: int
    images: Mapping[str, int]
    seen: Mapping[str, int]
    landmarks: int
    findings: Sequence[Finding]


@dataclass
class Report:
    """What a check of a data set found, and the clips that it looked at."""

    findings: list[Finding] = field(default_factory=list)
    clips: dict[str, Examined] = field(default_factory=dict)

    def count(self, severity: str) -> int:
        """The number of findings of this severity."""
        return sum(finding.severity == severity for finding in self.findings)


def check_data_set(
    folders: StreamFolders,
    metadata_csv: str | Path,
    indices: Mapping[str, str | Path],
    *,
    streams: Sequence[str] | None = None,
    landmarks: int | None = None,
    tokenizer: Any = None,
    max_target_length: int = DataConfig.max_target_length,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check the tables against each other, then all clips that any of them names.

    `indices` are by the split's name. Only the `streams` of these names are looked at, by default all; `landmarks` per
    frame (None: as most clips have). With a `tokenizer`, texts of more than `max_target_length` tokens are found, and
    those that it does not know. Raises UserError if a folder or file does not exist, as there is nothing to check then.
    """
    check_folders(folders, streams)
    for name, path in (("--metadata-csv", metadata_csv), *((f"index {name}", path) for name, path in indices.items())):
        if not os.path.isfile(path):
            raise UserError(f"{name} {path}: no such file")
    report = Report()
    metadata: Mapping[str, ClipRow] = {}
    try:
        metadata = read_metadata(metadata_csv)
    except UserError as error:
        report.findings.append(Finding(ERROR, Path(metadata_csv).name, "metadata cannot be read", str(error)))
    splits = {}
    for name, path in indices.items():
        try:
            splits[name] = read_index(path)
        except UserError as error:
            report.findings.append(Finding(ERROR, Path(path).name, "index cannot be read", str(error)))
    report.findings += _check_tables(metadata, splits)
    if tokenizer is not None:
        report.findings += _check_targets(list(metadata.values()), tokenizer, max_target_length)

    ids = dict.fromkeys([video_id for members in splits.values() for video_id in members] + list(metadata))
    files = scan(folders, ids, streams)
    try:
        check_streams(files.values())
    except UserError as error:
        report.findings.append(Finding(ERROR, "streams", "no frames", str(error)))
    report.clips = examine_all(files, [metadata.get(i) or ClipRow(i, "") for i in ids], progress, landmarks)
    found = [finding for examined in report.clips.values() for finding in examined.findings]
    report.findings += [one for one in found if one.kind != "pose missing" or POSE in chosen(streams)]
    report.findings += _check_landmarks(report.clips, landmarks)
    return report


def examine_all(
    files: Mapping[str, ClipFiles],
    clips: Sequence[ClipRow],
    progress: Callable[[int, int], None],
    landmarks: int | None = None,
) -> dict[str, Examined]:
    """`examine` every clip, by its id; `progress(done, total)` after each."""
    examined = {}
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(examine, files[clip.video_id], clip, landmarks) for clip in clips]
        try:
            for clip, future in zip(clips, waiting, strict=True):
                examined[clip.video_id] = future.result()
                progress(len(examined), len(clips))
        except BaseException:  # so that Ctrl-C does not wait for the rest
            pool.shutdown(cancel_futures=True)
            raise
    return examined


def _check_tables(metadata: Mapping[str, ClipRow], splits: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    owner: dict[str, str] = {}
    texts: dict[str, str] = {}
    for split, ids in splits.items():
        for video_id in ids:
            if (other := owner.setdefault(video_id, split)) != split:
                yield Finding(ERROR, video_id, "in two splits", f"{other} and {split}")
            if not metadata:
                continue
            if video_id not in metadata:
                yield Finding(ERROR, video_id, "in an index without metadata", split)
                continue
            text = metadata[video_id].text
            if not text:
                yield Finding(ERROR, video_id, "empty text", split)
            elif (first := texts.setdefault(text, video_id)) != video_id:
                where = "of the same split" if owner[first] == split else f"of {owner[first]}"
                yield Finding(WARNING, video_id, "text used before", f"by {first} {where}")
    for video_id in metadata if splits else ():
        if video_id not in owner:
            yield Finding(WARNING, video_id, "in no index")


def _check_targets(clips: Sequence[ClipRow], tokenizer: Any, longest: int) -> Iterator[Finding]:
    """What training cannot learn of the texts."""
    targets = encode_targets(tokenizer, [clip.text for clip in clips], longest)
    unknown = (targets.labels == (IGNORE - 1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)).sum(axis=1)
    for clip, tokens, lost in zip(clips, targets.lengths.tolist(), unknown.tolist(), strict=True):
        if tokens > longest:
            yield Finding(WARNING, clip.video_id, "text is cut", f"{tokens} tokens, --max-target-length {longest}")
        if lost:
            yield Finding(WARNING, clip.video_id, "text with unknown tokens", f"{lost} of {min(tokens, longest)}")


def _check_landmarks(clips: Mapping[str, Examined], wanted: int | None) -> Iterator[Finding]:
    """One model reads all clips, so all need the same number of landmarks."""
    counts: dict[int, int] = defaultdict(int)
    for examined in clips.values():
        if examined.landmarks:
            counts[examined.landmarks] += 1
    usual = wanted or max(counts, key=counts.__getitem__, default=0)
    for video_id, examined in clips.items():
        if examined.landmarks not in (0, usual):
            expected = f"expected {usual}" if wanted else f"most clips have {usual}"
            yield Finding(ERROR, video_id, "number of landmarks", f"{examined.landmarks}, {expected}")


def examine(files: ClipFiles, clip: ClipRow, landmarks_wanted: int | None = None) -> Examined:
    """Check the files of one clip, loaded if it is packed; each image by its header and both ends."""
    findings: list[Finding] = []

    def add(severity: str, kind: str, detail: str = "") -> None:
        findings.append(Finding(severity, files.video_id, kind, detail))

    images = {name: len(frames.numbers) for name, frames in files.frames.items()}
    seen = {stream.name: images[stream.name] for stream in MASKED if stream.name in images}
    frames, landmarks = files.last_frame() + 1, 0
    if not any(images.values()) and files.pose is None:
        add(ERROR, "no files")
        return Examined(0, images, seen, 0, findings)
    wholly_missing = {gaps_kind(stream) for stream in IMAGES if not images.get(stream.name)}  # said below
    for problem in check_clip(files, clip, FPS_TOLERANCE):
        kind, _, detail = problem.partition(": ")
        if kind not in wholly_missing:
            add(SEVERITY[kind], kind, detail)
    for stream in (stream for stream in IMAGES if stream.name in images):
        if images[stream.name]:
            findings += _check_images(files.video_id, stream.name, files.frames[stream.name])
        else:
            add(WARNING if stream.mask else ERROR, f"no {stream.name} images")
    if files.pose is not None:
        try:
            rows, landmarks, missing = _check_pose(files, landmarks_wanted, add)
            frames = max(frames, rows)
            for name in seen.keys() & missing:  # an image may be there and show no hand
                flags = missing[name]
                seen[name] -= int(np.isin(files.frames[name].numbers, np.flatnonzero(flags)).sum())
        except BadClip as error:
            if not any(finding.kind == "pose unreadable" for finding in findings):
                add(ERROR, "pose unreadable", str(error))
    return Examined(frames, images, seen, landmarks, findings)


def _check_images(video_id: str, stream: str, frames: Frames) -> Iterator[Finding]:
    """At most one finding of each kind, because a clip that was written wrongly has hundreds of them."""
    if frames.names is not None:
        yield Finding(WARNING, video_id, f"{stream} names", f"{frames.names[0]}: not all are <id>_f%06d.jpg")
    sizes: dict[tuple[int, int], int] = defaultdict(int)
    bad, grey = [], 0
    for position in range(len(frames.numbers)):
        try:
            size, colour = _look(frames, video_id, position)
        except BadClip as error:
            bad.append(error)
            continue
        sizes[size] += 1
        grey += not colour
    if bad:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield Finding(ERROR, video_id, f"{stream} images unreadable", f"{bad[0]}{more}")
    shown = ", ".join(f"{width} x {height} ({count})" for (width, height), count in sorted(sizes.items())[:4])
    if len(sizes) > 1:
        yield Finding(WARNING, video_id, f"{stream} images of several sizes", shown)
    if any(width != height for width, height in sizes):
        yield Finding(WARNING, video_id, f"{stream} images not square", shown)
    if grey:
        yield Finding(WARNING, video_id, f"{stream} images not RGB", f"{grey} of {len(frames.numbers)}")


def _look(frames: Frames, video_id: str, position: int) -> tuple[tuple[int, int], bool]:
    """The (width, height) of an image, and whether it is in colour. Raises BadClip if it is not complete."""
    path = frames.path(video_id, position)
    try:
        data = read_regular(path) if frames.data is None else bytes(frames.data[position])
    except OSError as error:
        raise BadClip(f"{path}: {error.strerror}") from None
    if not looks_plain(data[:26]) or not any(data.startswith(start) and data.endswith(end) for start, end in WHOLE):
        # Bytes after the end are harmless, as the decoder stops there.
        decode_image(path, np.empty((8, 8, 3), np.uint8), memoryview(data))
    try:
        if header := jpeg_header(data):
            height, width, colour = header
            return (width, height), colour in ("YCbCr", "RGB")
        with open_image(data) as image:
            return image.size, image.mode == "RGB"
    except IMAGE_ERRORS as error:
        raise BadClip(f"{path}: cannot be read as an image ({error})") from None


def _check_pose(
    files: ClipFiles, wanted: int | None, add: Callable[..., None]
) -> tuple[int, int, dict[str, np.ndarray]]:
    """Frames and landmarks of a pose file, and in which frames streams are missing. Raises BadClip."""
    try:
        with files.open_pose() as file:
            arrays = read_arrays(file, ("pose", *(str(stream.missing_key) for stream in MASKED)))
        pose = arrays.pop("pose")
        missing = {
            stream.name: arrays[key].reshape(-1) for stream in MASKED if (key := str(stream.missing_key)) in arrays
        }
    except NPZ_ERRORS as error:
        raise BadClip(f"{files.pose}: {' '.join(str(error).split())}") from None
    if pose.dtype != np.float32:
        add(WARNING, "pose type", f"{pose.dtype}, the contract says float32")
    if not pose.size or not is_pose(pose) or pose.dtype.kind not in "fiu":
        add(ERROR, "pose shape", f"{pose.dtype} {pose.shape}, expected float32 {SHAPES}")
        return 0, 0, missing
    points = into_landmarks(pose, wanted)
    if points is None:
        points = into_landmarks(pose)
        assert points is not None
    if points.shape[2] in TOLD:
        add(WARNING, "pose columns", TOLD[points.shape[2]])
    elif hint := misread(pose, points.shape[1]):
        add(WARNING, "pose columns", hint)
    for problem in pose_problems(with_confidence(points)):
        add(WARNING if problem.kind in DOUBTS else ERROR, problem.kind, problem.detail)
    for name, flags in missing.items():
        if len(flags) not in (0, len(pose)):
            add(WARNING, BY_NAME[name].missing_key, f"{len(flags)} values for {len(pose)} frames")
    return len(pose), points.shape[1], missing
