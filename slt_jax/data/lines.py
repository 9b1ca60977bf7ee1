"""Text files line by line, in bounded memory; pieces in which nothing is special are given as a whole."""

import csv
import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from slt_jax.data.regular import open_regular
from slt_jax.errors import UserError, shortened

LONGEST_ROW = 1_000_000  # characters
PIECE = 1 << 18  # characters read at once


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, in bounded memory. Raises UserError for another file."""
    number = 0
    for piece in _pieces(path):
        for line in _split(piece):
            number += 1
            yield _checked(path, number, line)


class RowLines:
    """The lines of a table as csv reads them, one after another; those of the row that is being read are in `taken`.

    Between two rows, `plain` gives many lines at once.
    """

    def __init__(self, path: str | Path):
        self.taken: list[str] = []
        self.number = 0  # of the last line that was given
        self._path, self._size = path, 0
        self._pieces, self._piece = _pieces(path), ""
        self._left: deque[str] = deque()  # lines of a piece that is not plain

    def __iter__(self) -> "RowLines":
        return self

    def __next__(self) -> str:
        if not self._left:
            if not self._fetch():
                raise StopIteration
            self._left, self._piece = deque(_split(self._piece)), ""
        line = self._left.popleft()
        self.number += 1
        _checked(self._path, self.number, line)
        self._size = len(line) + (self._size if self.taken else 0)
        if self._size > LONGEST_ROW:
            first = self.number - len(self.taken)
            raise UserError(f"{self._path}, line {first}: the row has more than {LONGEST_ROW} characters")
        self.taken.append(line)
        return line

    def plain(self) -> list[str] | None:
        """The next lines, without their ends, if none has a quotation mark or anything else that csv must see.

        None where the next line is not of such a piece. `number` is then that of the last of them.
        """
        if self._left or not self._fetch():
            return None
        piece = self._piece.replace("\r\n", "\n") if "\r" in self._piece else self._piece
        if '"' in piece or "\0" in piece or "\r" in piece or not _is_utf8(piece):
            return None
        lines = piece.removesuffix("\n").split("\n")
        if max(map(len, lines)) > csv.field_size_limit():
            return None
        self._piece = ""
        self.number += len(lines)
        return lines

    def _fetch(self) -> bool:
        """Whether there is a piece, which is read if there is none yet."""
        self._piece = self._piece or next(self._pieces, "")
        return bool(self._piece)


def _pieces(path: str | Path) -> Iterator[str]:
    """A file in pieces that end with a line; bytes that are not UTF-8 become lone surrogates."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            while piece := file.read(PIECE):
                yield piece + file.readline(LONGEST_ROW + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{shortened(str(path))}: {error}") from None  # a NUL in the path


def _split(piece: str) -> list[str]:
    """Its lines with their ends, which are \\n, \\r or \\r\\n and no other."""
    return list(io.StringIO(piece, newline=""))


def _checked(path: str | Path, number: int, line: str) -> str:
    if len(line) > LONGEST_ROW:
        raise UserError(f"{path}, line {number}: the line has more than {LONGEST_ROW} characters")
    if "\0" in line:
        raise UserError(f"{path}, line {number}: a NUL character; save the file as UTF-8 text")
    if not _is_utf8(line):
        raise UserError(f"{path}, line {number}: not UTF-8; save the file as UTF-8")
    return line


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
