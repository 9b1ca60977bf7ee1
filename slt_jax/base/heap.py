"""Memory that a program frees and allocates again thousands of times a minute."""

import ctypes
import gc
import os
import re
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
_LOOK_SECONDS, _SELDOM_SECONDS = 0.2, 5.0


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
    """From now on, give freed memory back whenever this process holds more than `limit` bytes. The last call counts."""
    _bound.set(limit)


def promised_bytes() -> int | None:
    """How much more this process may take by `keep_at_most`; None if it was told nothing."""
    return max(_bound.limit - process_bytes(), 0) if _bound.limit else None


def give_back_freed_memory() -> None:
    """Return all that is free now to the system."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def process_bytes() -> int:
    """The memory that this process takes now and shares with none; 0 where the system does not say."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text(encoding="ascii").split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def free_bytes() -> int:
    """What the system has left, and no more than the limit of a container or a batch job leaves (control groups)."""
    match = re.search(r"MemAvailable:\s*(\d+) kB", _content("/proc/meminfo"))
    free = int(match[1]) * 1024 if match else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    group = Path("/sys/fs/cgroup", *re.findall(r"^0::/(.*)$", _content("/proc/self/cgroup"), re.MULTILINE))
    limit, used = (_content(group / f"memory.{name}").strip() for name in ("max", "current"))
    if not (limit.isdecimal() and used.isdecimal()):
        return free
    counts = dict(re.findall(r"^(file|shmem) (\d+)$", _content(group / "memory.stat"), re.MULTILINE))
    cached = int(counts.get("file", 0)) - int(counts.get("shmem", 0))  # given up when memory is short
    return max(min(free, int(limit) - int(used) + cached), 0)


def _content(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


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


class _Bound:
    """A thread that looks how much this process holds."""

    def __init__(self) -> None:
        self.limit = 0
        self._looking: threading.Thread | None = None

    def set(self, limit: int) -> None:
        self.limit = limit
        if self._looking is None:
            self._looking = threading.Thread(target=self._look, name="slt-heap", daemon=True)
            self._looking.start()

    def _look(self) -> None:
        wait = _LOOK_SECONDS
        while True:
            time.sleep(wait)
            held = process_bytes()
            in_vain = False
            if held > self.limit:
                give_back_freed_memory()
                in_vain = process_bytes() > held - held // 8  # it is in use: to look for what is free takes time
            wait = min(2 * wait, _SELDOM_SECONDS) if in_vain else _LOOK_SECONDS


_bound = _Bound()


def _tell_glibc(options: Iterable[tuple[int, int]]) -> None:
    # Windows has no program handle, other C libraries have no mallopt.
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options:
            mallopt(option, value)
