"""Memory that a program frees and allocates again thousands of times a minute."""

import ctypes
import gc
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# <malloc.h>: what `mallopt` calls its options.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_KEPT = ((_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**26), (_MMAP_MAX, 0))  # -1: never
# glibc takes no higher thresholds.
_LARGE_RETURNED = ((_MMAP_MAX, 2**16), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**31 - 1))
_LOOK_SECONDS = 0.2


def keep_freed_memory() -> None:
    """Let this process keep freed memory instead of returning it to the system (with glibc; elsewhere nothing happens).

    On a CPU, XLA allocates its temporaries again in every step. By default, glibc maps and unmaps blocks of that size
    one by one, and the kernel clears each page again.
    """
    _tell_glibc(_KEPT)


def return_large_blocks() -> None:
    """From now on, let blocks of 32 MiB and more go back to the system when they are freed.

    In a heap that keeps them, a freed block that something small has been put into is no longer large enough for the
    next one of its size: a step of gigabytes then takes two or three times its memory.
    """
    _tell_glibc(_LARGE_RETURNED)


def keep_at_most(limit: int) -> None:
    """From now on, give freed memory back whenever this process holds more than `limit` bytes."""

    def look() -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            if process_bytes() > limit:
                give_back_freed_memory()

    threading.Thread(target=look, name="slt-heap", daemon=True).start()


def give_back_freed_memory() -> None:
    """Return all that is free now to the system."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def process_bytes() -> int:
    """The memory that this process takes now; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@contextmanager
def no_collection() -> Iterator[None]:
    """While many objects are made and none is garbage, do not look for it: Python would look at all of them again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tell_glibc(options: Iterable[tuple[int, int]]) -> None:
    # Windows has no program handle, other C libraries have no mallopt.
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options:
            mallopt(option, value)
