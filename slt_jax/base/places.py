"""Places that cannot be written: found out before the work, and told by name."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slt_jax.errors import UserError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)  # what only writing meets, or a broken disk
TOLD = re.compile(r"os_error_code='(\d{1,3})'")
PROBE = bytes(1 << 20)  # what must fit where something is to be written


def refusal(folder: str | os.PathLike[str]) -> OSError | None:
    """Why nothing can be written into a folder now; None if a file without a name could be."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            written = 0
            while written < len(PROBE):  # the last bytes of a disk are written, and the next are refused
                written += file.write(PROBE[written:])
    except OSError as error:
        return error
    return None


def existing_folder(place: str | os.PathLike[str]) -> str:
    """The folder that a place is or is in, or the nearest one above that there is."""
    folder = os.path.realpath(place)
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        if os.path.exists(os.path.dirname(folder)) and not os.path.isdir(os.path.dirname(folder)):
            return os.path.dirname(folder)  # a file where a folder is wanted: writing there says so
        folder = os.path.dirname(folder)
    return folder


def check_folder(flag: str, place: str | os.PathLike[str]) -> None:
    """Raise UserError now if files could not be written into the folder `place` later. Makes nothing.

    `flag` is what the user named the place with; empty for a positional argument.
    """
    if os.path.exists(place) and not os.path.isdir(place):
        raise UserError(f"{flag} {place}: is a file; name a folder".lstrip())
    _check(flag, place)


def check_file(flag: str, place: str | os.PathLike[str] | None) -> None:
    """Raise UserError now if the file `place` could not be written later. Makes nothing."""
    if place is None:
        return
    if os.path.isdir(place):
        raise UserError(f"{flag} {place}: is a folder; name a file in it".lstrip())
    _check(flag, place)


def _check(flag: str, place: str | os.PathLike[str]) -> None:
    if error := refusal(existing_folder(place)):
        raise UserError(f"{flag} {place}: cannot be written ({error.strerror})".lstrip())


@contextmanager
def naming(place: str | os.PathLike[str]) -> Iterator[None]:
    """Where the system refuses to write `place`, or anything in it, raise an OSError with its name.

    Libraries raise errors of every kind for a full disk, so their text or the disk itself is asked.
    """
    try:
        yield
    except (UserError, ConnectionError, TimeoutError):
        raise
    except Exception as error:
        found: OSError | None
        if isinstance(error, OSError) and error.errno:
            named = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else None
            if named is not None and not _near(os.fsdecode(named), place):
                raise  # it is about something else, such as a file that is read
            found = error
        elif number := _told(str(error)):  # by now there may be room again, where its part of a file was
            found = OSError(number, os.strerror(number))
        else:
            found = refusal(existing_folder(place))
        if found is None:
            raise
        raise OSError(found.errno, found.strerror, os.fspath(place)) from error


def _told(text: str) -> int | None:
    """The number of the system's error that a library's text tells of."""
    if number := TOLD.search(text):
        return int(number[1])
    return next((number for number in DISK if os.strerror(number) in text), None)


def _near(path: str, place: str | os.PathLike[str]) -> bool:
    """Whether a path is `place`, in it, beside it or a folder above it."""
    path, home = os.path.realpath(path), os.path.dirname(os.path.realpath(place))
    return Path(path).is_relative_to(home) or Path(home).is_relative_to(path)
