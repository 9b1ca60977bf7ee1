"""What can be seen of a clip: its crops, its pose, and where each hand's crop comes from."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles, Frames, load_pose
from slt_jax.data.npz import NPZ_ERRORS, NUMBERS, TEXTS, read_arrays
from slt_jax.data.pose_layout import into_landmarks, with_confidence
from slt_jax.pictures.skeleton import Figure, usual_names
from slt_jax.streams import MASKED


@dataclass(frozen=True)
class ClipView:
    """A clip that can be drawn, frame by frame."""

    files: ClipFiles
    total: int  # frames
    pose: np.ndarray  # float32 (T, L, 3), maybe shorter than the clip
    figure: Figure
    missing: dict[str, np.ndarray]  # per stream, bool (T,): missing, if the pose file says so
    sources: dict[str, tuple[str, ...]]  # per stream, one word per frame; empty if the file does not say
    fps: float | None

    def has(self, stream: str, frame: int) -> bool:
        """Whether the frame has a crop."""
        return frame in self._frames(stream).numbers

    def _frames(self, stream: str) -> Frames:
        return self.files.frames.get(stream, Frames("", np.zeros(0, np.int64)))

    def crop(self, stream: str, frame: int, size: int) -> np.ndarray | None:
        """The crop, uint8 (size, size, 3), or None without a file. Raises BadClip if it is damaged."""
        frames = self._frames(stream)
        if not self.has(stream, frame):
            return None
        position = int(np.searchsorted(frames.numbers, frame))
        pixels = np.empty((size, size, 3), np.uint8)
        frames.decode(self.files.video_id, position, pixels)
        return pixels

    def hidden(self, stream: str, frame: int) -> bool:
        """Whether the pose file calls a hand missing. The model does not see it then."""
        missing = self.missing.get(stream, ())
        return frame < len(missing) and bool(missing[frame])

    def source(self, stream: str, frame: int) -> str:
        """Where the crop comes from, in the extractor's word; empty if unknown."""
        words = self.sources.get(stream, ())
        return words[frame] if frame < len(words) else ""

    def points(self, frame: int) -> np.ndarray | None:
        """The landmarks (L, 3) of a frame, or None if the pose is shorter than the clip."""
        return self.pose[frame] if frame < len(self.pose) else None

    def seen(self, stream: str) -> float:
        """The share of frames in which the model sees a hand."""
        numbers = self._frames(stream).numbers
        return sum(not self.hidden(stream, int(number)) for number in numbers) / self.total


def open_clip(files: ClipFiles) -> ClipView:
    """Read the pose file and count the frames; no picture is decoded.

    Raises UserError if the pose cannot be used or there is nothing to see.
    """
    files = files.loaded()
    arrays = _arrays(files) if files.pose else {}
    pose, missing = load_pose(files) if files.pose else (np.zeros((0, 0, 3), np.float32), {})
    points = into_landmarks(pose)
    assert points is not None
    pose, landmarks = with_confidence(points), points.shape[1]
    total = max(len(pose), files.last_frame() + 1)
    if total == 0:
        raise BadClip(f"{files.video_id}: no frame in any stream and no pose")
    figure = Figure.of(pose, _landmark_names(arrays, landmarks))
    sources = {stream.name: _words(arrays.get(f"source_{stream.name}")) for stream in MASKED}
    return ClipView(files, total, pose, figure, missing, sources, _rate(arrays.get("fps")))


def _arrays(files: ClipFiles) -> dict[str, np.ndarray]:
    """The arrays of the pose file that are shown and can be read. `load_pose` reports what is wrong with the others."""
    arrays: dict[str, np.ndarray] = {}
    with suppress(*NPZ_ERRORS), files.open_pose() as file:
        for name in ("landmarks", "fps", *(f"source_{stream.name}" for stream in MASKED)):
            with suppress(ValueError):  # an array of Python objects, which only its writer can read
                arrays |= read_arrays(file, (name,), kinds=NUMBERS + TEXTS)
    return arrays


def _landmark_names(arrays: Mapping[str, np.ndarray], landmarks: int) -> tuple[str, ...]:
    """The names in the file, else those of the usual set with this many landmarks."""
    names = _words(arrays.get("landmarks"))
    return names if len(names) == landmarks else usual_names(landmarks)


def _words(array: np.ndarray | None) -> tuple[str, ...]:
    """An array of texts, bytes or small numbers as texts."""
    if array is None or array.dtype.kind not in "USiu":
        return ()
    words = array.reshape(-1).tolist()
    return tuple(word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words)


def _rate(array: np.ndarray | None) -> float | None:
    """Frames per second, if the file has a sensible number."""
    if array is None or array.size != 1 or array.dtype.kind not in "iuf":
        return None
    rate = float(array.reshape(()))
    return rate if 0 < rate <= 1000 else None
