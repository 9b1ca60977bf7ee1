"""Before a run: what the data check asks of every file of all clips is asked of some clips."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from slt_jax.data.clip_files import BadClip, ClipFiles
from slt_jax.data.contract import SEVERITY, examine
from slt_jax.data.metadata import ClipRow
from slt_jax.data.quality import look_at_pose, tell

CLIPS = 32  # of a split, evenly spread, as it may be sorted by signer
SECONDS = 5.0  # after which no other clip is looked at


def spot_check(
    clips: Sequence[ClipRow], files: Mapping[str, ClipFiles], landmarks: int, *, strict: bool = False
) -> None:
    """Warn of what is doubtful in some of the clips, one line for each kind; raise UserError if `strict`.

    What `report_quality` tells of all clips is left out. Raises BadClip for a packed pose that cannot be meant, whether
    bad clips are skipped or not, as the others in the pack are unknown; poses in folders were looked at.
    """
    findings, looked, end = [], 0, time.monotonic() + SECONDS
    for number in np.linspace(0, len(clips) - 1, min(len(clips), CLIPS)).round().astype(int):
        clip = clips[number]
        try:
            loaded = files[clip.video_id].loaded()
        except BadClip:  # training says so, or skips it
            continue
        if loaded is not files[clip.video_id] and loaded.pose:
            look_at_pose(loaded, landmarks)
        examined = examine(loaded, clip, landmarks)
        findings += [(f.clip, f.kind, f.detail) for f in examined.findings if f.kind not in SEVERITY]
        looked += 1
        if time.monotonic() > end:
            break
    tell(findings, f"{looked} clips looked at", strict=strict)
