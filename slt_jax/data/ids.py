"""Ids of clips: each becomes part of file names, so one from a file is checked before it becomes a path."""

import re
from collections.abc import Sequence

from slt_jax.errors import UserError

PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")  # what most ids are; these can be in any file name
_PLAIN_LINES = re.compile(rf"(?:{PLAIN.pattern}\n)*")
AT_ONCE = 8192  # ids that are looked at together
LONGEST_ID = 240  # bytes; file names may have 255, and "_f000000.jpg" follows


def id_problem(video_id: str) -> str | None:
    """Why an id cannot be part of a file name; None if it can."""
    if not video_id:
        return "is empty"
    if video_id in (".", ".."):
        return "is the name of a folder"
    if any(mark in video_id for mark in "/\\"):
        return "has a / or \\ in it, as paths have"
    if "\0" in video_id:
        return "has a NUL character in it"
    try:
        size = len(video_id.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has {size} bytes, more than {LONGEST_ID}" if size > LONGEST_ID else None


def are_plain(video_ids: Sequence[str]) -> bool:
    """Whether all ids are such that nothing can be wrong with them: a look at a million takes a tenth of a second."""
    for start in range(0, len(video_ids), AT_ONCE):
        some = video_ids[start : start + AT_ONCE]
        lines = "\n".join(some) + "\n"
        if lines.count("\n") != len(some) or not _PLAIN_LINES.fullmatch(lines):
            return False
    return True


def check_id(video_id: str, source: str, *, what: str = "id") -> str:
    """The id itself. Raises UserError if it cannot be part of a file name; `source` is the file it comes from."""
    if PLAIN.fullmatch(video_id):
        return video_id
    if problem := id_problem(video_id):
        raise UserError(f"{source}: {what} {shown_id(video_id)} {problem}; it cannot be part of a file name")
    return video_id


def shown_id(video_id: str) -> str:
    """An id in quotes on one short line that any terminal can print."""
    text = ascii(video_id) if id_problem(video_id) == "is not UTF-8" else repr(video_id)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(video_id)} characters)"
