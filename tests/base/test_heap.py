"""Freed memory is used again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
if sys.argv[1] == "kept":
    from slt_jax.base.heap import keep_freed_memory
    keep_freed_memory()
def work():
    for _ in range(50):
        b"1" * 40_000_000  # more than glibc ever learns to keep by itself
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


# Blocks that grow, and between them something small that stays: what a freed one leaves is too small for the next.
LARGE = """
from slt_jax.base.heap import keep_freed_memory, return_large_blocks
keep_freed_memory()
return_large_blocks()
kept = []
for size in range(100, 110):
    block = bytearray(size << 20)
    kept.append(b"1" * 4096)
    del block
print(int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_large_blocks_are_given_back():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_blocks_are_not_given_back():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < faults("given back") / 10


BOUND = """
import time
from slt_jax.base.heap import keep_at_most, keep_freed_memory, process_bytes
keep_freed_memory()
keep_at_most(100 << 20)
blocks = [b"1" * (10 << 20) for _ in range(30)]
del blocks
deadline = time.monotonic() + 20
while process_bytes() > 100 << 20 and time.monotonic() < deadline:
    time.sleep(0.05)
print(process_bytes() >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_what_is_kept_has_a_bound():
    done = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 100
