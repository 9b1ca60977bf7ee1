"""YouTube-ASL: American Sign Language, English; videos from the web with the captions that people wrote for them.

It has no splits: all of it is for training, and its authors test on How2Sign.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from slt_jax.corpora.captions import ENDINGS, AutomaticCaptions, clean_caption, read_captions
from slt_jax.corpora.gathering import Gathering, cut
from slt_jax.corpora.subtitled import Corpus
from slt_jax.data.lines import read_lines
from slt_jax.errors import UserError
from slt_jax.media.video import SUFFIXES

SHORTEST, LONGEST, CHARACTERS = 0.5, 60.0, 300  # seconds, and letters of a text: the rule of the paper
PUBLISHED: Mapping[str, int] = {}  # captions after cleaning; the authors give only 610,193 before
_ID = re.compile(r"[\w-]{11}")
_IN_BRACKETS = re.compile(r"\[([\w-]{11})\]$")  # as yt-dlp names files
_ENGLISH = ("en", "")  # the parts of a language's name that are ours; "" is a file without one


def read(source: Path, wanted: Sequence[str]) -> Corpus:
    """Every caption of every video of the list, cleaned. Captions that the paper's rule leaves out are named."""
    if "train" not in wanted:
        raise UserError(f"--split {wanted[0]}: youtube-asl is only for training; its authors test on how2sign")
    gathering = Gathering(source)
    videos, captions = _files(source)
    for place, name in _listed(source, captions):
        file = _best(captions.get(name, []))
        if file is None:
            gathering.drop(place, name, "no captions found", "" if name in videos else "nor a video")
            continue
        try:
            found = read_captions(file)
        except AutomaticCaptions:
            gathering.drop(place, name, "automatic captions", file.name, by_rule=True)
            continue
        except UserError as error:
            gathering.drop(place, name, "captions cannot be read", str(error))
            continue
        paths = videos.get(name, [])
        for caption in found:
            video_id, text = f"{name}_{caption.number:05d}", clean_caption(caption.text)
            if reason := _against_the_rule(text, caption.end - caption.start):
                gathering.drop((file, caption.number), video_id, *reason, by_rule=True)
                continue
            parts = [cut(path, caption.start, caption.end) for path in paths or [source / f"{name}.mp4"]]
            gathering.add((file, caption.number), video_id, text, split="train", video=name, parts=parts,
                          extra={"lang": "en"})  # fmt: skip
    return gathering.finish()


def _against_the_rule(text: str, seconds: float) -> tuple[str, str] | None:
    if not text:
        return "nothing that is signed", ""
    if not SHORTEST <= seconds <= LONGEST:
        return "too short or too long", f"{seconds:.2f} s, outside {SHORTEST:g} to {LONGEST:g}"
    return ("too long a text", f"{len(text)} letters, more than {CHARACTERS}") if len(text) > CHARACTERS else None


def _listed(source: Path, captions: Mapping[str, list[Path]]) -> Iterator[tuple[tuple[Path, int], str]]:
    """((list, line), id) of every video of the list of ids; without a list, of every video with captions."""
    lists = sorted(source.glob("*video_ids.txt"))
    if len(lists) > 1:
        raise UserError(f"--source {source}: holds {len(lists)} lists of video ids ({lists[0].name}, {lists[1].name})")
    if not lists:
        if not captions:
            raise UserError(f"--source {source}: no list *video_ids.txt, and no captions ({', '.join(ENDINGS)})")
        yield from (((captions[name][0], 0), name) for name in sorted(captions))
        return
    known = set()
    for line, text in enumerate(read_lines(lists[0]), 1):
        name = text.strip()
        if name and not _ID.fullmatch(name):
            raise UserError(f"{lists[0]}, line {line}: {name[:40]!r} is no id of a video (11 letters)")
        if name and name not in known:
            known.add(name)
            yield (lists[0], line), name


def _files(source: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The videos and the captions under a folder, by the ids that they are named by."""
    if not source.is_dir():
        raise UserError(f"--source {source}: no such folder")
    videos: dict[str, list[Path]] = defaultdict(list)
    captions: dict[str, list[Path]] = defaultdict(list)
    for folder, subfolders, names in os.walk(source, followlinks=True):
        subfolders.sort()
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            kind = captions if ending.lower() in ENDINGS else videos if ending.lower() in SUFFIXES else None
            if kind is None:
                continue
            if kind is captions and "." in stem:
                stem = stem.rpartition(".")[0]
            bracketed = _IN_BRACKETS.search(stem)
            video_id = bracketed[1] if bracketed else stem
            if _ID.fullmatch(video_id):
                kind[video_id].append(Path(folder, name))
    return videos, captions


def _best(paths: Sequence[Path]) -> Path | None:
    """English captions, in the order of ENDINGS; those of another language are none."""
    ranked = []
    for path in paths:
        stem, ending = os.path.splitext(path.name)
        language = stem.rpartition(".")[2].lower() if "." in stem else ""
        if language.split("-")[0] in _ENGLISH:
            ranked.append((ENDINGS.index(ending.lower()), len(language), path.name, path))
    return min(ranked)[-1] if ranked else None
