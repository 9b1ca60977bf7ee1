"""Before a run: what the data check asks of every file of all clips is asked of some clips."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles
from slt_jax.data.contract import SEVERITY, examine
from slt_jax.data.metadata import ClipRow
from slt_jax.data.npz import NPZ_ERRORS, TEXTS, read_arrays
from slt_jax.data.quality import look_at_pose, tell
from slt_jax.errors import UserError
from slt_jax.streams import MASKED

logger = logging.getLogger(__name__)

CLIPS = 32  # of a split, evenly spread, as it may be sorted by signer
# Told of all clips by `report_quality`, or nothing to tell: a video may well show one hand.
TOLD = {*SEVERITY, *(f"no {stream.name} images" for stream in MASKED)}
KINDS = {"landmark_set": "--landmarks", "pose_space": "--pose"}  # keys of slt-extract's pose files, and its flags
SECONDS = 5.0  # after which no other clip is looked at


def spot_check(
    clips: Sequence[ClipRow], files: Mapping[str, ClipFiles], landmarks: int, *, strict: bool = False
) -> None:
    """Warn of what is doubtful in some of the clips, one line for each kind; raise UserError if `strict`.

    Raises BadClip for a packed pose that cannot be meant, whether bad clips are skipped or not, as the others in the
    pack are unknown; poses in folders were looked at.
    """
    findings, looked = [], 0
    for clip in _some(clips):
        try:
            loaded = files[clip.video_id].loaded()
        except BadClip:  # training says so, or skips it
            continue
        if loaded is not files[clip.video_id] and loaded.pose:
            look_at_pose(loaded, landmarks)
        examined = examine(loaded, clip, landmarks)
        findings += [(f.clip, f.kind, f.detail) for f in examined.findings if f.kind not in TOLD]
        looked += 1
    tell(sorted(findings), f"{looked} clips looked at", strict=strict)


def check_kinds(clips: Sequence[ClipRow], files: Mapping[str, ClipFiles], *, strict: bool = False) -> None:
    """Warn of poses of several kinds, as far as their files say what they are; raise UserError if `strict`.

    Two sets may have as many landmarks, and a model would take one's eyes for the other's ears.
    """
    kinds: dict[str, dict[str, str]] = {key: {} for key in KINDS}
    for clip in _some(clips):
        try:
            loaded = files[clip.video_id].loaded()
            if loaded.pose is None:
                continue
            with loaded.open_pose() as file:
                found = read_arrays(file, KINDS, kinds=TEXTS)
        except (BadClip, *NPZ_ERRORS):
            continue
        for key, value in found.items():
            first = kinds[key].setdefault(str(value), clip.video_id)
            kinds[key][str(value)] = min(first, clip.video_id)
    for key, seen in kinds.items():
        if len(seen) > 1:
            listed = " and ".join(f"{kind} ({video_id})" for video_id, kind in sorted((i, k) for k, i in seen.items()))
            problem = f"{key}: poses of several kinds are mixed, {listed}; extract all with the same {KINDS[key]}"
            if strict:
                raise UserError(problem)
            logger.warning("%s", problem)


def _some(clips: Sequence[ClipRow]) -> Iterator[ClipRow]:
    end = time.monotonic() + SECONDS
    spread = np.linspace(0, len(clips) - 1, min(len(clips), CLIPS)).round().astype(int)
    for number in np.random.default_rng(0).permutation(spread):  # those before the time is up are spread, too
        yield clips[number]
        if time.monotonic() > end:
            return
