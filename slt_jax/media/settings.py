"""The settings of an extraction. Two extractions with equal settings write equal files."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass

from slt_jax.data.landmarks import SETS
from slt_jax.errors import UserError, nearest

DEFAULT_FPS = 25.0
POSES = ("signing", "raw")
IMAGE_FORMATS = ("jpg", "png")
# The version of what is written; a new one makes `--resume` extract again.
VERSION = 3


@dataclass(frozen=True)
class ExtractionSettings:
    """The settings of an extraction, checked on creation. A UserError names the flag of `slt-extract`."""

    fps: float | None = None  # frames per second to write; None: DEFAULT_FPS, or the video's own under fps_limit
    fps_limit: float | None = None  # keep the video's own rate if it is below this
    landmarks: str = "upper13"  # a name in landmarks.SETS
    pose: str = "signing"  # signing space, or raw: fractions of the picture
    crop_size: int = 224
    min_confidence: float = 0.5  # for a person, a face and a wrist
    image_format: str = "jpg"
    face_blur: bool = False
    mirrored: bool = False  # a selfie video, with left and right as in a mirror
    signer_box: tuple[float, float, float, float] | None = None  # left, top, right, bottom; pixels, or fractions (<= 1)

    def __post_init__(self):
        for flag, rate in (("--fps", self.fps), ("--fps-limit", self.fps_limit)):
            if rate is not None and not (0 < rate <= 1000):
                raise UserError(f"{flag} {rate:g}: must be above 0 and at most 1000")
        for flag, value, known in (
            ("--landmarks", self.landmarks, tuple(SETS)), ("--pose", self.pose, POSES),
            ("--image-format", self.image_format, IMAGE_FORMATS),
        ):  # fmt: skip
            if value not in known:
                raise UserError(f"{flag} {value}: unknown{nearest(value, known)}")
        if not 8 <= self.crop_size <= 4096:
            raise UserError(f"--crop-size {self.crop_size}: must be between 8 and 4096")
        if not 0 < self.min_confidence < 1:
            raise UserError(f"--min-confidence {self.min_confidence:g}: must be between 0 and 1")
        box = self.signer_box
        if box is not None and not (
            all(math.isfinite(side) and side >= 0 for side in box) and box[0] < box[2] and box[1] < box[3]
        ):
            given = ",".join(f"{side:g}" for side in box)
            raise UserError(f"--signer-box {given}: give LEFT,TOP,RIGHT,BOTTOM with LEFT < RIGHT and TOP < BOTTOM")

    def rate(self, video_fps: float | None) -> float:
        """Frames per second to write for a video whose own rate is `video_fps`."""
        if self.fps_limit is None:
            return self.fps or DEFAULT_FPS
        return min(rate for rate in (self.fps, self.fps_limit, video_fps) if rate)

    def key(self) -> str:
        """A short name of all settings, the same only if the files would be the same."""
        content = json.dumps(dataclasses.asdict(self) | {"version": VERSION}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]
