"""A stream whose frames nobody can find is an error that names what its folder holds instead."""

import os
from collections import Counter
from collections.abc import Collection, Sequence

from slt_jax.data.clip_files import FRAME, ClipFiles
from slt_jax.data.packs import PackedClips
from slt_jax.errors import UserError
from slt_jax.streams import IMAGES, Stream

PATTERN = "frames are named <id>_f%06d.jpg or .png"


def check_streams(clips: Collection[ClipFiles]) -> None:
    """Raise UserError for a stream of which no clip has a frame, unless that can be what the videos show.

    One clip may well show no hand, or lack what others have. Clips without any file have an error of their own, unless
    the folder holds files of other names.
    """
    if isinstance(clips, PackedClips):
        _check_packed(clips)
        return
    some = [files for files in clips if files.pose or files.last_frame() >= 0] or list(clips)
    for stream in (stream for stream in IMAGES if some and stream.name in some[0].frames):
        if not any(len(files.frames[stream.name].numbers) for files in some):
            _explain(stream, some)


def _check_packed(clips: PackedClips) -> None:
    """The same of a pack, which holds no files of other names."""
    counts = clips.counts()
    some = int(((counts.pose >= 0) | (counts.images > 0)).sum()) or len(clips) - len(clips.columns.bad)
    for stream in (stream for stream in IMAGES if stream.name in counts.seen):
        if some > 1 and not stream.mask and not counts.seen[stream.name].any():
            asked = f"no frame of the {some} clips in the stream {stream.name}"
            raise UserError(f"--packs {clips.store.path}: has {asked}; write the pack again")


def _explain(stream: Stream, files: Sequence[ClipFiles]) -> None:
    """Raise UserError if one is due."""
    directory, clips = files[0].frames[stream.name].directory, len(files)
    have_some = bool(files[0].pose) or files[0].last_frame() >= 0
    asked = f"no frame of the {clips} clips" if clips > 1 else "no frame of the clip"
    frames, others = _inventory(directory)
    if frames:
        found, due = f"{frames[0]} frames of other clips ({frames[1]})", have_some and clips > 1 and not stream.mask
    elif others:
        found, due = ", ".join(others), True
    else:
        found, due = "nothing", have_some and (clips > 1 or not stream.mask)
    if due:
        flag = "--" + str(stream.folder_key).replace("_", "-")
        raise UserError(f"{flag} {directory}: has {asked}, it holds {found}; {PATTERN}")


def _inventory(directory: str) -> tuple[tuple[int, str] | None, list[str]]:
    """How many frames there are, with an example, and what else, the most frequent kinds first, as words."""
    frames, kinds, examples = 0, Counter[str](), dict[str, str]()
    with os.scandir(directory) as entries:
        for entry in entries:
            kind = "folder" if entry.is_dir() else f"{_short(os.path.splitext(entry.name)[1]) or 'other'} file"
            if FRAME.fullmatch(entry.name):
                frames, kind = frames + 1, "frame"
            elif entry.name.startswith(".") or entry.name in ("Thumbs.db", "desktop.ini"):
                continue
            else:
                kinds[kind] += 1
            examples[kind] = min(examples.get(kind, entry.name), entry.name)
    words = [
        f"{count} {kind}{'s' if count > 1 else ''} ({_short(examples[kind])})" for kind, count in kinds.most_common(3)
    ]
    return (frames, _short(examples["frame"])) if frames else None, words


def _short(name: str) -> str:
    shown = name.encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= 60 else shown[:57] + "..."
