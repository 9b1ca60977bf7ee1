"""Standard output and error that never end a command: any terminal, a reader that has gone, and no library's news."""

import functools
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# TensorFlow Lite's news, and what absl and glog log below an error; mediapipe has no switch for them.
NEWS = re.compile(rb"INFO: |WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:")


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

    Streams that a program has put in place of the system's are left alone. One that was closed before the start leads
    nowhere: neither None nor, by chance, to a file that is opened later.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    nowhere = functools.partial(open, os.devnull, "w", errors="replace")
    sys.stdout, sys.stderr = sys.stdout or nowhere(), sys.stderr or nowhere()
    for name, title in (("stdout", "standard output"), ("stderr", "standard error")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            stream.flush()
            raw = _Descriptor(stream.fileno(), title)
        except (OSError, ValueError):  # closed
            continue
        setattr(sys, name, _settled(raw, stream))


def _settled(raw: _Descriptor, stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """What is to be used in place of `stream`."""
    error = stream is sys.stderr
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace" if error else "replace",
        line_buffering=stream.line_buffering or error,
        write_through=stream.write_through,
    )


@contextmanager
def without_news() -> Iterator[None]:
    """Within the block, lines of `NEWS` that C++ writes to standard error go nowhere.

    All other lines arrive, and what Python prints there does so at once, as bars must.
    """
    stream, ours = sys.stderr, None
    try:
        terminal = os.dup(2)
    except OSError:  # closed
        yield
        return
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)

    def pass_on() -> None:
        with open(read, "rb") as lines:
            for line in lines:
                if not NEWS.match(line):
                    with suppress(OSError):  # nobody reads it
                        os.write(terminal, line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        with suppress(OSError, ValueError):  # a stream of a program's own
            ours = stream if isinstance(stream, io.TextIOWrapper) and stream.fileno() == 2 else None
        if ours:
            ours.flush()
            sys.stderr = _settled(_Descriptor(terminal, "standard error"), ours)
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = stream
        os.dup2(terminal, 2)  # closes the pipe, unless a program that was started meanwhile still has it
        thread.join(1)
        os.close(terminal)
