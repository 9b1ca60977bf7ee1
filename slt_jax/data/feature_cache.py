"""Features of frozen backbones on disk: one folder per set of backbones, two files per clip.

    FOLDER/<key>/settings.json                  all that features depend on but the clip; `key` is its hash
    FOLDER/<key>/plain/<2 digits>/<video_id>    features of every image of the clip
    FOLDER/<key>/mirrored/...                   the same of the mirrored frames

A file holds a CRC-32 of all that follows, the fingerprint of the frames (32 bytes), and of each stream of images the
rows (1 + frames, width) that its backbone made, the first one of a black image, which stands where a frame is
missing. In a mirror the left hand's backbone sees the right hand, and the other way round. The pose of a packed clip
comes last, so that no pack is read for it.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.base.files import replacing, write_json
from slt_jax.base.json_text import parse_json
from slt_jax.data.clip_files import BadClip, ClipFiles
from slt_jax.data.ids import check_id
from slt_jax.errors import UserError
from slt_jax.streams import BY_NAME, IMAGES

HEAD = 36  # bytes of checksum and fingerprint


class Stale(Exception):
    """A file of features that cannot be used. The text says why, as in "3 ..."."""


@dataclass(frozen=True)
class Features:
    """The features of the clips of a run, for the loader. It is sent to the workers."""

    folder: Path  # FOLDER/<key>
    kinds: Mapping[str, tuple[int, np.dtype]]  # width and type of each stream's features
    fingerprints: dict[str, bytes] = field(default_factory=dict)  # of each clip's frames
    problems: dict[str, str] = field(default_factory=dict)  # clips whose frames cannot be read

    def path(self, video_id: str, mirrored: bool) -> Path:
        """Where the features of a clip, or of its mirror image, are kept. Raises UserError for an id that is a path."""
        check_id(video_id, f"--feature-cache {self.folder.parent}")
        # Some hundred folders, since a write lists its folder.
        part = hashlib.sha256(video_id.encode()).hexdigest()[:2]
        return self.folder / ("mirrored" if mirrored else "plain") / part / video_id

    def shapes(self, files: ClipFiles, mirrored: bool) -> dict[str, tuple[int, int]]:
        """The shape of each stream's features, including the row for a black image."""
        seen = {stream.name: stream.mirror if mirrored else stream.name for stream in IMAGES}
        return {name: (1 + len(files.frames[seen[name]].numbers), self.kinds[name][0]) for name in seen}

    def read(self, files: ClipFiles, mirrored: bool) -> "ClipFeatures":
        """The features of a clip. Raises Stale."""
        try:
            data = self.path(files.video_id, mirrored).read_bytes()
        except FileNotFoundError:
            raise Stale("missing") from None
        except OSError:
            raise Stale("unreadable") from None
        if len(data) < HEAD or int.from_bytes(data[:4], "little") != zlib.crc32(memoryview(data)[4:]):
            raise Stale("damaged")
        if data[4:HEAD] != self.fingerprints[files.video_id]:
            raise Stale("with other frames than before")
        rows, start = {}, HEAD
        for stream, shape in self.shapes(files, mirrored).items():
            count = shape[0] * shape[1]
            rows[stream] = np.frombuffer(data, self.kinds[stream][1], count, start).reshape(shape)
            start += rows[stream].nbytes
        return ClipFeatures(rows, mirrored, memoryview(data)[start:])

    def write(self, files: ClipFiles, mirrored: bool, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the features of a clip, which is loaded if it is packed. Raises UserError if they cannot be written."""
        features = (arrays[stream.name].tobytes() for stream in IMAGES)
        content = b"".join((self.fingerprints[files.video_id], *features, files.pose_data or b""))
        try:
            with replacing(self.path(files.video_id, mirrored)) as file:
                file.write(zlib.crc32(content).to_bytes(4, "little") + content)
        except OSError as error:
            raise UserError(
                f"--feature-cache {self.folder.parent}: cannot be written ({error.strerror}); give another or none"
            ) from None

    def of_clip(self, files: ClipFiles, mirrored: bool) -> tuple[ClipFiles, "ClipFeatures"]:
        """What `read_clip` reads: the clip, without opening its pack, and features instead of images.

        Raises BadClip for a clip whose frames could not be read.
        """
        if problem := self.problems.get(files.video_id):
            raise BadClip(problem)
        try:
            features = self.read(files, mirrored)
        except Stale as error:
            raise UserError(
                f"{self.path(files.video_id, mirrored)}: no longer the features that training began with ({error}); "
                f"--resume computes them again"
            ) from None
        return replace(files, record=None, pose_data=features.pose) if files.record else files, features


@dataclass(frozen=True)
class ClipFeatures:
    """One clip's features in place of its images, and its pose file if it came from a pack."""

    arrays: Mapping[str, np.ndarray]  # of each stream, read-only
    mirrored: bool
    pose: memoryview

    def __call__(self, stream: str, positions: np.ndarray, out: Mapping[str, np.ndarray]) -> None:
        """Features (T, width) of the frames at `positions` of a stream, -1 for a black one, go where they belong."""
        backbone = BY_NAME[stream].mirror if self.mirrored else stream
        out[backbone][:] = self.arrays[backbone][positions + 1]


def fingerprint(files: ClipFiles) -> bytes:
    """A hash of name, size and modification time of every frame of a clip; for a packed clip, of its content.

    Raises BadClip if a frame is gone.
    """
    if files.record:
        return bytes.fromhex(files.record.sha256)
    digest = hashlib.sha256()
    for frames in files.frames.values():
        for position in range(len(frames.numbers)):
            path = frames.path(files.video_id, position)
            try:
                status = os.stat(path)
            except OSError as error:
                raise BadClip(f"{path}: cannot be read as an image ({error.strerror})") from None
            digest.update(f"{os.path.basename(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        digest.update(b"\0")
    return digest.digest()


# --- the folder ---------------------------------------------------------------------------------------------------


def open_folder(folder: Path, settings: Mapping[str, Any]) -> tuple[Path, list[str]]:
    """The folder for features with these settings, and how they differ from the newest ones beside it.

    Nothing differs where the folder is not new. Raises UserError if it cannot be made.
    """
    subfolder = folder / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    known = subfolder / "settings.json"
    differences = [] if known.exists() else _differences(folder, settings)
    try:
        write_json(known, settings)  # even if it exists: what was used last is the newest
    except OSError as error:
        raise UserError(f"--feature-cache {folder}: cannot be written ({error.strerror})") from None
    return subfolder, differences


def _differences(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    for path in sorted(folder.glob("*/settings.json"), key=os.path.getmtime, reverse=True):
        try:
            earlier = parse_json(path.read_text(encoding="utf-8"))
            return [name for name, value in settings.items() if earlier.get(name) != value]
        except (OSError, ValueError, AttributeError):  # not ours
            continue
    return []
