"""The one exception that means "the user can fix this", and how its messages quote what they are about."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake in a flag, a file or a key.

    The message is one line that names the flag, file or key and says what to do. Commands print it without a traceback
    and exit with code 2.
    """


def shown(value: Any, limit: int = 80) -> str:
    """The repr of a value for an error's line, cut to `limit` characters however large the value is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 4, limit, limit, limit
    try:
        return shortened(short.repr(value), limit)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def shortened(text: str, limit: int = 80) -> str:
    """A text as one line of at most `limit` characters, its middle left out where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 23]}...{line[-20:]}"


def divisors(width: int, near: int) -> str:
    """The numbers that divide `width`, for an error's line: of many the eight next to `near`."""
    found = [number for number in range(1, min(width, 10**5) + 1) if width % number == 0]
    found = sorted(sorted(found, key=lambda number: abs(number - near))[:8])
    return ", ".join(map(str, found))


def nearest(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """The end of an error about an unknown name: the one probably meant, else (`listed`) all of them."""
    match = difflib.get_close_matches(shortened(name), list(known), n=1, cutoff=0.5)
    if match:
        return f"; did you mean '{match[0]}'?"
    return f"; known: {', '.join(known)}" if listed else ""
