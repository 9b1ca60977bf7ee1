"""Memory that a program frees and allocates again thousands of times a minute."""

import ctypes

# <malloc.h>: what `mallopt` calls its options.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Let this process keep freed memory instead of returning it to the system (with glibc; elsewhere nothing happens).

    On a CPU, XLA allocates its temporaries again in every step. By default, glibc maps and unmaps blocks of that size
    one by one, and the kernel clears each page again. This takes a seventh of a small model's processor time. Call it
    before JAX starts its threads, because each thread has a heap of its own.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Windows has no program handle, other C libraries have no mallopt
        return
    for option, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
        mallopt(option, value)
