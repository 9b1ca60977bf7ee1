"""Where the text of `slt-live` goes: a terminal on which it grows, plain lines, subtitle files, a text file for OBS."""

import shutil
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from slt_jax.base.files import replacing
from slt_jax.decoding.results import Segment

if TYPE_CHECKING:  # which would load JAX before its device is chosen
    from slt_jax.decoding.stream import Update
    from slt_jax.serve.from_camera import Pace

DIM, NORMAL, ERASE, UP = "\x1b[2m", "\x1b[0m", "\r\x1b[J", "\x1b[A"
LINES = 2  # of the text file


class Screen:
    """Standard output: on a terminal the running sentence with what may still change in grey, and the pace below it.

    Elsewhere, a line for each sentence that has ended.
    """

    def __init__(self, out: TextIO):
        self._out, self._terminal, self._drawn = out, out.isatty(), False

    def show(self, update: "Update", pace: "Pace") -> None:
        """Print what has ended, and draw what is running."""
        ended = [text for segment in update.ended if (text := one_line(segment.text))]
        if not self._terminal:
            for text in ended:
                print(text, file=self._out, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        settled, pending = one_line(update.settled), one_line(update.pending)
        space = " " if settled and pending else ""
        shown = _last_columns(settled + space + pending, width)
        grey = min(len(pending), len(shown))
        running = f"{shown[: len(shown) - grey]}{DIM}{shown[len(shown) - grey :]}{NORMAL}"
        below = f"{DIM}{_last_columns(pace_of(pace), width)}{NORMAL}"
        self.clear()
        self._out.write("".join(f"{text}\n" for text in ended) + f"{running}\n{below}{UP}\r")
        self._out.flush()
        self._drawn = True

    def clear(self) -> None:
        """Take away what was drawn and has not ended."""
        if self._drawn:
            self._out.write(ERASE)
            self._out.flush()
            self._drawn = False


class Files:
    """The files that the text is written to. Each is always whole."""

    def __init__(self, subtitles: Mapping[Path, Callable[[list[Segment]], str]], text: Path | None):
        """`subtitles` say how each of these files is made from segments; `text` holds the last lines."""
        self._subtitles, self._place = dict(subtitles), text
        self._segments: list[Segment] = []
        self._last: deque[str] = deque(maxlen=LINES)
        self._text: str | None = None
        self._write()

    def show(self, update: "Update") -> None:
        """Write what has changed."""
        ended = [segment for segment in update.ended if one_line(segment.text)]
        if ended and self._subtitles:
            self._segments += ended
        self._last.extend(one_line(segment.text) for segment in ended)
        self._write(one_line(f"{update.settled} {update.pending}"), subtitles=bool(ended))

    def _write(self, running: str = "", *, subtitles: bool = True) -> None:
        for place, made in self._subtitles.items() if subtitles else ():
            with replacing(place) as file:
                file.write(made(self._segments).encode())
        text = "\n".join([*self._last, *([running] if running else [])][-LINES:])
        if self._place is not None and text != self._text:
            self._text = text
            with replacing(self._place) as file:
                file.write(text.encode())


def pace_of(pace: "Pace") -> str:
    """How a live translation keeps up, in words."""
    parts = [f"{pace.fps:.0f} frames a second"]
    parts += [f"lag {pace.lag:.1f} s"] if pace.lag is not None else []
    parts += [f"{pace.dropped} dropped"] if pace.dropped else []
    parts += [f"looking at {nth(pace.every)}"] if pace.every > 1 else []
    return ", ".join(parts)


def nth(every: int) -> str:
    """`every 3rd picture`."""
    return "every picture" if every == 1 else f"every {every}{ {2: 'nd', 3: 'rd'}.get(every, 'th') } picture"


def one_line(text: str) -> str:
    """A text as one line without anything that moves a cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _last_columns(text: str, width: int) -> str:
    """The end of a text that fits into so many columns of a terminal."""
    kept = 0
    for place in range(len(text) - 1, -1, -1):
        kept += 2 if unicodedata.east_asian_width(text[place]) in "WF" else not unicodedata.combining(text[place])
        if kept > width:
            return text[place + 1 :]
    return text
