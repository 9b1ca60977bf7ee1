"""A command starts again with the variables that are read only at its start, once, and as the same process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slt_jax.base.restart import huge_pages_on_request

ROOT = Path(__file__).resolve().parents[2]
BODY = """if True:
    import os, sys
    from slt_jax.cli.command import run
    print("started", flush=True)
    sys.exit(run("slt-any", lambda _: print(os.getpid(), os.environ.get("GLIBC_TUNABLES")) or 3, None))
"""
needs_pages = pytest.mark.skipif(not huge_pages_on_request(), reason="the system gives huge pages to all or to none")


def started(before: str | None, *, through_input: bool = False) -> tuple[int, list[str]]:
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if before is None else {"GLIBC_TUNABLES": before})
    program = subprocess.Popen(
        [sys.executable, "-"] if through_input else [sys.executable, "-c", BODY],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    output, _ = program.communicate(BODY if through_input else None, timeout=60)
    assert program.returncode == 3
    *begun, last = output.splitlines()
    number, found = last.split()
    assert int(number) == program.pid
    return len(begun), found.split(":")


@needs_pages
@pytest.mark.parametrize(("before", "starts", "after"), [
    (None, 2, ["glibc.malloc.hugetlb=1"]),
    ("glibc.malloc.check=0", 2, ["glibc.malloc.check=0", "glibc.malloc.hugetlb=1"]),
    ("glibc.malloc.hugetlb=0", 1, ["glibc.malloc.hugetlb=0"]),
])  # fmt: skip
def test_a_command_asks_for_huge_pages_unless_it_was_told(before, starts, after):
    assert started(before) == (starts, after)


def test_a_program_that_was_read_from_standard_input_runs_on():
    assert started(None, through_input=True) == (1, ["None"])
