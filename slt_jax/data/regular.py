"""Open files that strangers gave: a pipe or a device in a folder of clips must not stop a run for ever."""

import errno
import os
import stat
from typing import BinaryIO

LARGEST = 1 << 28  # bytes of an image


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file, or a link to one, for reading. Raises OSError, for all other kinds at once."""
    return open(path, "rb", opener=_open)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """What `open_regular` opens, of at most `LARGEST` bytes. Raises OSError."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST:
            raise OSError(errno.EFBIG, f"has {size / 2**20:.0f} MiB, more than {LARGEST >> 20}")
        return file.read()


def _open(path: str, flags: int) -> int:
    file = os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer
    mode = os.fstat(file).st_mode
    if stat.S_ISREG(mode):
        return file
    os.close(file)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "is a pipe, device or socket, not a file")
