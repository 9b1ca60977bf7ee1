"""Standard output and error that never end a command: any terminal, and a reader that has gone."""

import io
import os
import sys


class _Descriptor(io.FileIO):
    """A descriptor that swallows what is written once nobody reads it, and that says which one it is."""

    def __init__(self, descriptor: int, title: str):
        super().__init__(descriptor, "wb", closefd=False)
        self._title = title

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            with open(os.devnull, "wb") as nothing:  # what is still in a buffer would fail again
                os.dup2(nothing.fileno(), self.fileno())
            if isinstance(error, BrokenPipeError):  # the reader, such as head, has seen enough; the work goes on
                return len(data)
            raise OSError(error.errno, error.strerror, self._title) from None


def settle() -> None:
    """Print what a terminal cannot show as `?`, and go on when the other end of a pipe is closed.

    Streams that a program has put in place of the system's are left alone.
    """
    for name, title in (("stdout", "standard output"), ("stderr", "standard error")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            stream.flush()
            raw = _Descriptor(stream.fileno(), title)
        except (OSError, ValueError):  # closed
            continue
        settled = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors="replace" if name == "stdout" else "backslashreplace",
            line_buffering=stream.line_buffering or name == "stderr",
            write_through=stream.write_through,
        )
        setattr(sys, name, settled)
