"""The arrays of a batch, described once: the loader fills them, programs are compiled for them, models read them.

The streams come from the table in slt_jax/streams.py, each with its mask. Axes are named B (clips), T (frames), H and W
(pixels), L (landmarks), 3L (x, y and confidence of each landmark) and S (target tokens).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from slt_jax.config import Config
from slt_jax.streams import STREAMS, Stream, chosen

FeatureKinds = Mapping[str, tuple[int, np.dtype]]  # width and type of the features of a stream, by its name


@dataclass(frozen=True)
class BatchSizes:
    """The lengths of the axes of a batch."""

    clips: int
    frames: int
    image: int  # height and width
    landmarks: int
    tokens: int = 0
    streams: tuple[str, ...] | None = None  # by name; None for all
    glosses: int = 0  # 0 where they are no target

    def axis(self, name: str | int) -> int:
        """The length of an axis. A number stands for itself."""
        lengths = {"B": self.clips, "T": self.frames, "H": self.image, "W": self.image, "S": self.tokens,
                   "G": self.glosses}  # fmt: skip
        lengths |= {"L": self.landmarks, "3L": 3 * self.landmarks}
        return name if isinstance(name, int) else lengths[name]


@dataclass(frozen=True)
class BatchArray:
    """One array of a batch. `stream` is the row of the table that it belongs to, None if it is about the whole clip."""

    name: str
    axes: tuple[str | int, ...]
    dtype: np.dtype
    stream: Stream | None = None

    @property
    def images(self) -> bool:
        """Whether these are the images of a stream, which features may replace."""
        return self.stream is not None and self.stream.images and self.name == self.stream.name

    def shape(self, sizes: BatchSizes) -> tuple[int, ...]:
        """The shape of this array in a batch of these sizes."""
        return tuple(sizes.axis(name) for name in self.axes)


def _of_stream(stream: Stream) -> list[BatchArray]:
    """The stream and its mask: for images, True = missing (B, T); for landmarks, True = keep (B, T, L)."""
    frame: tuple[str | int, ...] = ("H", "W", 3) if stream.images else ("3L",)
    masked = () if stream.images else ("L",)
    arrays = [BatchArray(stream.name, ("B", "T", *frame), np.dtype(np.uint8 if stream.images else np.float32), stream)]
    if stream.mask:
        arrays.append(BatchArray(stream.mask, ("B", "T", *masked), np.dtype(bool), stream))
    return arrays


PAD_MASK = "pad_mask"
# What a clip's files become and the encoder reads; True in `pad_mask` = a real frame.
CLIP_ARRAYS = (
    *(array for stream in STREAMS for array in _of_stream(stream)),
    BatchArray(PAD_MASK, ("B", "T"), np.dtype(bool)),
)
# What the loader adds: rows to be mirrored, rows that are clips and not filling, target tokens (-100 = ignore), and
# the glosses of models that learn them too (0 = none).
ROW_ARRAYS = (
    BatchArray("flip", ("B",), np.dtype(bool)),
    BatchArray("valid", ("B",), np.dtype(bool)),
    BatchArray("labels", ("B", "S"), np.dtype(np.int32)),
    BatchArray("glosses", ("B", "G"), np.dtype(np.int32)),
)
BATCH_ARRAYS = (*CLIP_ARRAYS, *ROW_ARRAYS)


def shapes(
    sizes: BatchSizes, arrays: tuple[BatchArray, ...] = BATCH_ARRAYS, features: FeatureKinds | None = None
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{name: (shape, dtype)} of those `arrays` whose streams there are. `features`, (B, T, width), replace images."""
    described = {}
    for array in arrays:
        if array.stream is not None and array.stream not in chosen(sizes.streams):
            continue
        if "G" in array.axes and not sizes.glosses:
            continue
        described[array.name] = array.shape(sizes), array.dtype
        if features is not None and array.images:
            width, dtype = features[array.name]
            described[array.name] = (sizes.clips, sizes.frames, width), dtype
    return described


def full_sizes(config: Config, clips: int) -> BatchSizes:
    """The sizes of a batch of `clips` clips of full length under a configuration."""
    model = config.model
    tokens, streams = config.data.max_target_length, None if model.streams is None else tuple(model.streams)
    glosses = model.sequence_length if config.training.objectives.get("gloss_ctc") else 0
    return BatchSizes(clips, model.sequence_length, model.image_size, model.pose_landmarks, tokens, streams, glosses)
