"""Memory that a program frees and allocates again thousands of times a minute."""

import ctypes
import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# <malloc.h>: what `mallopt` calls its options.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_KEPT = ((_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26), (_MMAP_MAX, 0))
_LARGE_RETURNED = ((_MMAP_MAX, 2**16), (_MMAP_THRESHOLD, 2**25))  # glibc takes no higher threshold


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
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Windows has no program handle, other C libraries have no mallopt
        return
    for option, value in options:
        mallopt(option, value)
