"""Gather the rows of a corpus: each becomes a clip, or is dropped with its reason."""

import math
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from slt_jax.base.console import say
from slt_jax.corpora.subtitled import Corpus, CorpusClip, Drop, Footage
from slt_jax.errors import UserError
from slt_jax.media.frames import frames_of
from slt_jax.media.video import SUFFIXES, BadVideo

CLIP_NOT_FOUND, EMPTY_CLIP, NO_FRAMES = "clip not found", "clip of length 0", "folder without frames"


class Part(NamedTuple):
    """What a clip may be cut from: a video or a folder of frames (with its `rate`), or a part of it, in seconds.

    `signer_box` tells where the signer is: left, top, right, bottom as fractions of the picture.
    """

    path: Path
    start: float | None = None
    end: float | None = None
    rate: float | None = None
    signer_box: tuple[float, float, float, float] | None = None


def cut(
    path: Path, start: float | None, end: float | None, signer_box: tuple[float, float, float, float] | None = None
) -> Part:
    """A part of a video. Times of None could not be read, and the part cannot be used."""
    return Part(path, math.nan if start is None else start, math.nan if end is None else end, signer_box=signer_box)


class Gathering:
    """A corpus in the making. Ids are unique, and the first row of an id counts."""

    def __init__(self, source: Path):
        self.corpus = Corpus()
        self._source = source
        self._known: dict[str, CorpusClip] = {}
        self._sizes: dict[Path, int | str] = {}
        self._bar = tqdm(desc="reading", unit=" rows", leave=False, disable=None, delay=2)

    def finish(self) -> Corpus:
        """The corpus, once all rows are there."""
        self._bar.close()
        return self.corpus

    def add(
        self,
        place: tuple[Path, int],
        video_id: str,
        text: str,
        *,
        split: str,
        video: str,
        parts: Sequence[Part],
        extra: Mapping[str, str],
    ) -> None:
        """Add the row at `place`, a table and a line. The first of `parts` that can be used is taken."""
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        if not video_id:
            self.drop(place, video_id, "no id")
        elif known := self._known.get(video_id):
            values = "the same text" if known.text == text else "another text"
            self.drop(place, video_id, "id used before", f"in {known.file}, line {known.line}, with {values}")
        elif not text:
            self.drop(place, video_id, "no text")
        else:
            part, found = self._choose(parts)
            if part is None:
                reason, _, detail = str(found).partition(": ")
                self.drop(place, video_id, reason, detail)
                return
            self._count()
            seconds = found / part.rate if part.rate and part.start is None and isinstance(found, int) else None
            self._known[video_id] = CorpusClip(
                place[1],
                video_id,
                text,
                video or video_id,
                part.start,
                part.end,
                split,
                dict(extra),
                file=place[0].name,
                footage=Footage(part.path, part.rate),
                seconds=seconds,
                signer_box=part.signer_box,
            )
            self.corpus.clips.append(self._known[video_id])

    def drop(
        self, place: tuple[Path, int], video_id: str, reason: str, detail: str = "", *, by_rule: bool = False
    ) -> None:
        """Add a row that is not used. `by_rule`: the corpus's authors do not count it either."""
        self._count()
        self.corpus.drops.append(Drop(place[1], video_id, reason, detail, place[0].name, by_rule))

    def _count(self) -> None:
        self.corpus.rows += 1
        self._bar.update()

    def _choose(self, parts: Iterable[Part]) -> tuple[Part | None, int | str]:
        """The first that can be used and its size (bytes, or frames), or None and `reason: detail`."""
        problem = ""
        for part in parts:
            if part.path not in self._sizes:
                self._sizes[part.path] = size_of(part.path)
            size = self._sizes[part.path]
            if isinstance(size, str):
                inside = part.path.is_relative_to(self._source)
                problem = problem or f"{size}: {part.path.relative_to(self._source) if inside else part.path}"
            elif wrong := _wrong_times(part.start, part.end):
                problem = problem or wrong
            else:
                return part, size
        return None, problem or CLIP_NOT_FOUND


def _wrong_times(start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return ""
    if start is None or end is None or math.isnan(start + end):
        return "start or end cannot be read"
    return "" if 0 <= start < end else f"end not after start: start {start:g}, end {end:g}"


def size_of(path: Path) -> int | str:
    """The bytes of a video, the frames of a folder, or why neither is of use."""
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size or EMPTY_CLIP
        return len(frames_of(path))
    except BadVideo:
        return NO_FRAMES
    except (OSError, ValueError):
        return CLIP_NOT_FOUND


def tables_of_splits(
    source: Path, places: Sequence[str], names: Mapping[str, str], wanted: Sequence[str]
) -> Iterator[tuple[str, Path]]:
    """(split, table) of each wanted split whose table is in one of the folders `places` under `source`.

    `names` has the name of each split's file; `{split}` in a place is the split. Splits without a table are told.
    Raises UserError if there is none at all.
    """
    found = {}
    for split in wanted:
        folders = [source / place.format(split=split) for place in places]
        table = next((folder / names[split] for folder in folders if (folder / names[split]).is_file()), None)
        if table:
            found[split] = table
    if not found:
        where = ", ".join(place.format(split="SPLIT") or "the folder itself" for place in places)
        files = ", ".join(names[split] for split in wanted)
        raise UserError(f"--source {source}: holds none of {files} (looked in: {where})")
    for split in wanted:
        if split in found:
            yield split, found[split]
        else:
            say(f"{source}: no {names[split]}; the split {split} is left out")


class Folders:
    """The files of some folders by their names. Each folder is listed once."""

    def __init__(self, folders: Iterable[Path]):
        self._files: dict[str, Path] = {}
        for folder in folders:
            if folder.is_dir():
                for name in os.listdir(folder):
                    self._files.setdefault(name, folder / name)

    def video(self, *stems: str) -> list[Path]:
        """The videos with one of these names and any ending, in the order of the names."""
        return [self._files[name] for stem in stems for ending in SUFFIXES if (name := stem + ending) in self._files]
