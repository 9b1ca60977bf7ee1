"""Variables that Python and the C library read only as a program starts: a command sets them and starts again."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES, HUGETLB = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def start_again_where_needed() -> None:
    """Start this program again, as the same process, where a variable is missing that must be there from the start.

    Nothing happens in a notebook, a debugger or a program read from standard input, which cannot be started again.
    """
    needed = dict(_needed())
    if needed and sys.argv[0] not in ("", "-") and threading.active_count() == 1:
        os.environ.update(needed)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _needed() -> Iterator[tuple[str, str]]:
    # Python heeds the variable, unless it was told not to, or the program goes on in another Python for ever.
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # Otherwise Orbax would write beside the folder that a person named, and ids of clips would not be names of
        # files. The terminal's encoding stays as it was.
        yield "PYTHONUTF8", "1"
        yield "PYTHONIOENCODING", os.environ.get("PYTHONIOENCODING") or getattr(sys.stdout, "encoding", None) or "utf-8"
    tunables = os.environ.get(TUNABLES, "")
    if HUGETLB not in tunables and huge_pages_on_request():
        # Pages of 2 MB instead of 4 KB: on a CPU, a sixth of a large model's step went to single pages.
        yield TUNABLES, ":".join(filter(None, (tunables, f"{HUGETLB}=1")))


def without_huge_pages(tunables: str) -> str:
    """The variable GLIBC_TUNABLES as it is for programs that do not ask for huge pages."""
    return ":".join(word for word in tunables.split(":") if not word.startswith(HUGETLB))


def huge_pages_on_request() -> bool:
    """Whether the system gives huge pages to who asks, and glibc (2.35 or newer) can ask."""
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        given = "[madvise]" in HUGE_PAGES.read_text(encoding="ascii")
    except (AttributeError, OSError, ValueError):  # no such system, or no such C library
        return False
    return given and name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
