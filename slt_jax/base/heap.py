"""Memory that a program frees and asks for again, thousands of times a minute."""

import ctypes

# <malloc.h>: what `mallopt` calls its options.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Let this process keep what it frees instead of giving it back to the system (glibc; elsewhere nothing happens).

    XLA on a CPU allocates its temporaries anew in every step. By default glibc maps and unmaps blocks of that size one
    by one, and the kernel clears each page again: a seventh of a small model's processor time. Must come
    before JAX starts its threads, each of which keeps to a heap of its own.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Windows has no program handle, other C libraries no mallopt
        return
    for option, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26), (_MMAP_MAX, 0), (_ARENA_MAX, 1)):
        mallopt(option, value)
