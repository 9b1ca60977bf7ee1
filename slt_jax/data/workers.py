"""Compute elements ahead of time: in a thread, or in processes that share their memory.

Spawned processes of a `ProcessPoolExecutor` write big arrays into one piece of anonymous memory that the parent maps
too. No file names it, so nothing is left behind however a process ends, and the size of /dev/shm does not matter.
"""

import atexit
import functools
import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

from slt_jax.errors import UserError

PREFETCH = 2  # elements that each process computes ahead
ALIGNMENT = 64  # alignment of arrays, so that a CPU device can use them in place

LEAST_READERS = 4  # also on one core, which has nothing to do while a disk looks for a file

_to_close: weakref.WeakSet = weakref.WeakSet()


def close_at_exit(closable) -> None:
    """Call `closable.close()` while the interpreter still works, so that workers end with the process."""
    _register_exit()
    _to_close.add(closable)


@functools.cache
def _register_exit() -> None:
    # Before the pools themselves wait for what their workers are doing.
    register = getattr(threading, "_register_atexit", atexit.register)
    register(lambda: [closable.close() for closable in list(_to_close)])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def readers() -> int:
    """Threads that read and decode the rows of a batch side by side, where no processes do."""
    return max(cores(), LEAST_READERS)


def each(call: Callable[..., Any], threads: int, *columns: Sequence[Any] | np.ndarray) -> list[Any]:
    """What `call` returns for every row of `columns`, by so many threads side by side, or by this one."""
    if threads < 2:
        return list(map(call, *columns))
    with ThreadPoolExecutor(min(threads, len(columns[0])), "slt-decode") as pool:
        return list(pool.map(call, *columns))


# --- in the parent ------------------------------------------------------------------------------------------------


class Ahead:
    """Iterates over `source[start]`, `source[start + 1]`, ... without end, computed ahead. Close it after use.

    `source[index]` is a mapping whose arrays under `arrays` were made by `allocate`; it is pickled once a process.
    `count` processes, or a thread of this one for 0; `element_bytes` is about what an element's arrays take.
    """

    def __init__(self, source, start: int, count: int, element_bytes: int):
        self._next = start
        self._waiting: deque[tuple[Future, int | None]] = deque()
        self._memory: SharedMemory | None = None
        self._free: list[int] = []  # slots of that memory
        self._executor: Executor
        self._compute: Callable[[int, int | None], dict[str, Any]]
        if count:
            depth = PREFETCH * count
            # Two more than are being computed: the one in use, and the one before, which a device may still be reading.
            self._memory = SharedMemory(element_bytes, depth + 2)
            self._free = list(range(depth + 2))
            self._executor = ProcessPoolExecutor(
                count, multiprocessing.get_context("spawn"), _start, (source, self._memory)
            )
            self._compute = _compute
        else:
            depth = PREFETCH
            self._executor = ThreadPoolExecutor(1, "slt-load")
            self._compute = lambda index, slot: source[index]
        for _ in range(depth):
            self._submit()

    def _submit(self) -> None:
        slot = self._free.pop() if self._free else None
        self._waiting.append((self._executor.submit(self._compute, self._next, slot), slot))
        self._next += 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        future, slot = self._waiting.popleft()
        try:
            element = future.result()
            if self._memory and slot is not None:
                element["arrays"] = self._memory.open(slot, element["arrays"], self._free)
            self._submit()
        except BrokenProcessPool:  # the element asked for was lost, or it was not and the next one cannot be computed
            raise UserError(
                "a data worker died; was memory short? Try a smaller --num-workers or --batch-size"
            ) from None
        return element

    def close(self) -> None:
        """End the processes. Arrays that were handed out stay valid.

        Nobody waits for a worker that is still starting, or reads from a slow disk: it has nothing that could be lost.
        """
        if isinstance(self._executor, ProcessPoolExecutor):
            for process in list((self._executor._processes or {}).values()):
                process.kill()
        self._executor.shutdown(cancel_futures=True)
        if self._memory:
            self._memory.close()


class SharedMemory:
    """Anonymous memory of `count` slots, shared with every process that gets it when it starts."""

    def __init__(self, slot_bytes: int, count: int):
        page = mmap.ALLOCATIONGRANULARITY
        self.slot_bytes = (slot_bytes // page + 1) * page
        self.size = self.slot_bytes * count
        self._descriptor = _anonymous_file()
        self._closing = weakref.finalize(self, os.close, self._descriptor)
        os.ftruncate(self._descriptor, self.size)
        self._map = mmap.mmap(self._descriptor, self.size)

    def __getstate__(self) -> dict[str, Any]:
        return {"slot_bytes": self.slot_bytes, "size": self.size, "file": DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.slot_bytes, self.size, descriptor = state["slot_bytes"], state["size"], state["file"].detach()
        self._map = mmap.mmap(descriptor, self.size)
        os.close(descriptor)

    def close(self) -> None:
        """Stop sharing this memory with new processes. Those that have it mapped keep it."""
        self._closing()

    def slot(self, number: int) -> np.ndarray:
        """The bytes of one slot, uint8."""
        return np.frombuffer(self._map, np.uint8, self.slot_bytes, number * self.slot_bytes)

    def open(self, number: int, arrays: dict[str, Any], free: list[int]) -> dict[str, np.ndarray]:
        """The arrays that `_describe` described. The slot is `free` again when the last of them is gone."""
        memory = self.slot(number)  # what every view of it keeps alive
        weakref.finalize(memory, free.append, number).atexit = False
        return {name: what if isinstance(what, np.ndarray) else _view(memory, *what) for name, what in arrays.items()}


def _anonymous_file() -> int:
    """The descriptor of a file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("slt_jax")
    with tempfile.TemporaryFile() as file:  # on disk, if the system has nothing else
        return os.dup(file.fileno())


def _view(memory: np.ndarray, start: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    return memory[start : start + size].view(dtype).reshape(shape)


# --- in a worker --------------------------------------------------------------------------------------------------

_source: Any = None
_memory: SharedMemory | None = None
_slot: np.ndarray | None = None  # where the element under way puts its arrays
_used = 0


def allocate(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array for an element. In a worker, it reaches the parent without being copied."""
    global _used
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    if _slot is None or _used + size > len(_slot):
        return np.empty(shape, dtype)
    array = _view(_slot, _used, shape, dtype)
    _used += -(-size // ALIGNMENT) * ALIGNMENT
    return array


def _start(source, memory: SharedMemory) -> None:
    """Set up a new process: leave the accelerator alone, leave signals to the parent, and never outlive it."""
    global _source, _memory
    _source, _memory = source, memory
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    for number in (signal.SIGINT, signal.SIGTERM):  # a job's end reaches all of its processes
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _compute(index: int, slot: int | None) -> dict[str, Any]:
    global _slot, _used
    _slot, _used = _memory.slot(slot) if _memory and slot is not None else None, 0
    element = _source[index]
    if _slot is not None:
        element["arrays"] = {name: _describe(array, _slot) for name, array in element["arrays"].items()}
    return element


def _describe(array: np.ndarray, slot: np.ndarray) -> np.ndarray | tuple[int, tuple[int, ...], np.dtype]:
    """Where in the slot an array lies. An array outside the slot is sent itself."""
    start = array.__array_interface__["data"][0] - slot.__array_interface__["data"][0]
    inside = start >= 0 and start + array.nbytes <= len(slot) and array.flags.c_contiguous
    return (start, array.shape, array.dtype) if inside else array
