"""Captions from the web: WebVTT, SubRip and YouTube's JSON3, and what people write in them that nobody signs."""

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from slt_jax.corpora.rows import parse_clock, read_json
from slt_jax.data.lines import read_lines
from slt_jax.errors import UserError

ENDINGS = (".vtt", ".srt", ".json3")  # the first is taken where a video has several
_TIMES = re.compile(r"^\s*([\d:.,]+)\s*-->\s*([\d:.,]+)")
_WORD_TIME = re.compile(r"<\d\d:\d\d:\d\d\.\d+>")  # between words: a machine heard them
_TAG = re.compile(r"<[/a-zA-Z0-9][^<>]{0,200}>|\{\\[^{}]{0,200}\}")
_MUSIC = re.compile("[\u2669-\u266f\U0001f3b5\U0001f3b6\U0001f3bc]+")
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]")
_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_PARENTHESES = re.compile(r"\(([^()]*)\)")
_SOUND = re.compile(
    r"\b(applau\w*|audience|barking|beep\w*|bell|birds?|breath\w*|chatter\w*|cheer\w*|chuckl\w*|clap\w*|cough\w*|"
    r"cry\w*|ding|footsteps|gasp\w*|groan\w*|instrumental|inaudible|indistinct|knock\w*|laugh\w*|music\w*|narrat\w*|"
    r"no audio|no sound|noise|ring\w*|sigh\w*|silence|silent|sing\w*|sniff\w*|sound\w*|speak\w*|thunder|upbeat|"
    r"voice\w*|whistl\w*|whoosh\w*)\b",
    re.IGNORECASE,
)
_SPEAKER = re.compile(
    r"^(?:[>»]{1,3}\s*(?:[^\W\d_][\w .'-]{0,30}:(?=\s|$))?|[A-Z][A-Z .'&-]{1,29}(?: \d{1,2})?:(?=\s|$)|-(?=\s))\s*"
)


class Caption(NamedTuple):
    """A caption as it is written; times in seconds."""

    number: int
    start: float
    end: float
    text: str


class AutomaticCaptions(Exception):
    """Captions that a machine heard: the words roll, and nobody checked them."""


def read_captions(path: Path) -> list[Caption]:
    """The captions of a file, in its order. Raises AutomaticCaptions, and UserError for a file that is none."""
    if path.suffix.lower() == ".json3":
        return list(_json3(path))
    captions = list(_cues(path))
    if not captions and not next(iter(read_lines(path)), "").startswith("WEBVTT"):
        raise UserError(f"{path}: holds no captions")
    return captions


def _cues(path: Path) -> Iterator[Caption]:
    """The cues of WebVTT and SubRip: times, then lines of text until an empty one."""
    number = 0
    times: tuple[float, float] | None = None
    lines: list[str] = []
    for line in [*read_lines(path), ""]:
        text = line.strip("\r\n")
        if found := _TIMES.match(text):
            if times and lines:  # two cues without an empty line between them
                number += 1
                yield Caption(number, *times, "\n".join(lines))
            start, end = parse_clock(found[1]), parse_clock(found[2])
            times, lines = (None if start is None or end is None else (start, end)), []
        elif times and text.strip():
            if _WORD_TIME.search(text):
                raise AutomaticCaptions
            lines.append(text)
        elif times and lines:
            number += 1
            yield Caption(number, *times, "\n".join(lines))
            times, lines = None, []


def _json3(path: Path) -> Iterator[Caption]:
    """YouTube's own format: events with a start, a duration and segments of text, in milliseconds."""
    found = read_json(path)
    events = found.get("events") if isinstance(found, Mapping) else None
    if not isinstance(events, list):
        raise UserError(f"{path}: holds no captions (no list `events`)")
    number = 0
    for event in events:
        segments = event.get("segs") if isinstance(event, Mapping) else None
        if not isinstance(segments, list):
            continue
        if any(isinstance(part, Mapping) and ("tOffsetMs" in part or "acAsrConf" in part) for part in segments):
            raise AutomaticCaptions
        text = "".join(str(part.get("utf8", "")) for part in segments if isinstance(part, Mapping))
        start, length = event.get("tStartMs", 0), event.get("dDurationMs", 0)
        if isinstance(start, (int, float)) and isinstance(length, (int, float)) and text.strip():
            number += 1
            yield Caption(number, start / 1000, (start + length) / 1000, text)


def clean_caption(text: str) -> str:
    """The caption without what is not signed: tags, sounds, speakers, signs of music. Empty if nothing else is left."""
    text = html.unescape(html.unescape(text))  # some are escaped twice
    text = _INVISIBLE.sub("", _TAG.sub("", text)).replace("\xa0", " ")
    text = _MUSIC.sub(" ", _BRACKETS.sub(" ", text))
    text = _PARENTHESES.sub(lambda found: " " if _is_sound(found[1]) else found[0], text)
    lines = [" ".join(_SPEAKER.sub("", " ".join(line.split())).split()) for line in text.splitlines() or [text]]
    cleaned = " ".join(line for line in lines if line)
    return cleaned if any(letter.isalnum() for letter in cleaned) else ""


def _is_sound(inside: str) -> bool:
    """Whether what stands in parentheses tells of a sound: it names one, or is written in capitals."""
    return bool(_SOUND.search(inside)) or (inside.isupper() and len(inside) > 1)
