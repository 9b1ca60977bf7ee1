"""Extraction by several machines: which clips are whose, and one record of all in the end.

No two machines write one file: a clip belongs to one part, and each part has a record of its own.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slt_jax.base.files import write_json_lines
from slt_jax.errors import UserError, shown
from slt_jax.media.jobs import ExtractionRecord, Job

RECORD = re.compile(r"(.+)\.shard-(\d+)-of-(\d+)(\.\w+)?")


@dataclass(frozen=True)
class Part:
    """The part `index` of `count`, from 0 on."""

    index: int
    count: int

    def has(self, video_id: str) -> bool:
        """Whether a clip belongs to it: by a hash of its id, whatever other clips there are."""
        digest = hashlib.sha256(video_id.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    def record(self, metadata: Path) -> Path:
        """The record of this part, beside that of all."""
        return metadata.with_name(f"{metadata.stem}.shard-{self.index}-of-{self.count}{metadata.suffix}")


def parse_part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """`I/N`, or `auto` from the variables of a SLURM array. Raises UserError that names the flag."""
    if text == "auto":
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
        values = [environment.get(name, "") for name in names]
        if not all(value.isdigit() for value in values):
            lacking = next(name for name, value in zip(names, values, strict=True) if not value.isdigit())
            raise UserError(f"--shard auto: {lacking} is not set, as in a job array of SLURM; give I/N")
        task, count, least = map(int, values)
        step = environment.get("SLURM_ARRAY_TASK_STEP", "1")
        index, rest = divmod(task - least, int(step) if step.isdigit() and int(step) else 1)
        if rest or not 0 <= index < count:
            raise UserError(f"--shard auto: the array has gaps (task {task} of {count}); submit --array=0-{count - 1}")
        return Part(index, count)
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise UserError(f"--shard {shown(text)}: must be I/N, such as 0/4, or auto")
    part = Part(int(match[1]), int(match[2]))
    if part.index >= part.count:
        raise UserError(f"--shard {text}: parts count from 0 on, so the last one is {part.count - 1}/{part.count}")
    return part


def records_of_parts(metadata: Path) -> dict[Part, Path]:
    """The records of parts beside that of all."""
    found = {}
    for path in metadata.parent.glob(f"{metadata.stem}.shard-*-of-*{metadata.suffix}"):
        match = RECORD.fullmatch(path.name)
        if match and match[1] == metadata.stem:
            found[Part(int(match[2]), int(match[3]))] = path
    return found


def check_parts(metadata: Path, part: Part | None) -> None:
    """Raise UserError where others divided these clips in another way, so that two might make the same one."""
    others = [p for p in records_of_parts(metadata) if part is None or p.count != part.count]
    if others:
        asked = "" if part is None else f"--shard {part.index}/{part.count}: "
        raise UserError(
            f"{asked}{metadata.parent} holds records of {others[0].count} parts; when they are done, merge them with "
            f"--merge"
        )


def own_jobs(jobs: Sequence[Job], part: Part | None) -> list[Job]:
    """The jobs of a part; all for None."""
    return [job for job in jobs if part is None or part.has(job.video_id)]


def merge_records(metadata: Path) -> tuple[int, int]:
    """Put the records of all parts into that of all, and remove them. Returns the numbers of clips and of parts.

    Raises UserError if there are none, or if a part is missing.
    """
    parts = records_of_parts(metadata)
    counts = {part.count for part in parts}
    if not parts:
        raise UserError(f"--merge: {metadata.parent} holds no {metadata.stem}.shard-*-of-*{metadata.suffix}")
    if len(counts) > 1:
        found = " and of ".join(map(str, sorted(counts)))
        raise UserError(f"--merge: {metadata.parent} holds records of {found} parts; remove those that are not meant")
    (count,) = counts
    if missing := sorted({*range(count)} - {part.index for part in parts}):
        listed = ", ".join(f"{index}/{count}" for index in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(f"--merge: the records of {listed} are missing; extract them with --shard")
    clips = ExtractionRecord(metadata).clips
    for path in parts.values():
        clips |= ExtractionRecord(path).clips
    write_json_lines(metadata, [clips[video_id] for video_id in sorted(clips)])
    for path in parts.values():
        path.unlink()
    return len(clips), count
