"""What worker processes need around Grain's `mp_prefetch`: shared memory, flags, a quiet start and a clean end."""

import atexit
import functools
import gc
import multiprocessing.util  # its own exit handler must be older than ours, which runs before it
import os
import shutil
import signal
import threading
import weakref

import numpy as np

from slt_jax.errors import UserError

_to_close: weakref.WeakSet = weakref.WeakSet()
_lent: dict[int, weakref.ref] = {}
_in_worker = False


def close_at_exit(closable) -> None:
    """Call `closable.close()` while the interpreter is still whole: workers and shared memory end with the process."""
    _register_exit()
    _to_close.add(closable)


def parse_absl_flags() -> None:
    """Grain reads absl flags, which nobody parses outside an absl program."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def check_shared_memory(num_workers: int, batch_bytes: int) -> None:
    """A full /dev/shm (64 MiB in a plain container) kills workers by a bus error; say it before."""
    # Per worker one batch in the making, one in the queue, two in the parent's buffer; and the one in use.
    needed = (4 * num_workers + 1) * batch_bytes
    if os.path.isdir("/dev/shm") and (free := shutil.disk_usage("/dev/shm").free) < needed:
        sizes = f"{num_workers} workers need {needed / 2**20:.0f} MiB of shared memory, /dev/shm has {free / 2**20:.0f}"
        raise UserError(f"--num-workers {num_workers}: {sizes}; use fewer workers (0 needs none) or a larger /dev/shm")


def allocate(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array for a batch; in a worker, one that reaches the parent without being copied."""
    if not _in_worker:
        return np.empty(shape, dtype)
    from grain.multiprocessing import SharedMemoryArray

    return SharedMemoryArray(shape, dtype)


def release(arrays: dict[str, np.ndarray]) -> None:
    """Give back what `allocate` gave, where the batch does not come about."""
    for array in arrays.values():
        if hasattr(array, "unlink_on_del"):
            array.unlink_on_del()


def start_worker(index: int, count: int) -> None:
    """In a new worker: leave the accelerator alone, leave Ctrl-C to the parent, and never outlive it."""
    import jax

    global _in_worker
    _in_worker = True
    jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def receive(array: np.ndarray) -> np.ndarray:
    """A worker's array as a plain one; the shared memory lives as long as anything looks at it."""
    if hasattr(array, "shm"):
        key = id(array)
        _lent[key] = weakref.ref(array, lambda _: _lent.pop(key, None))
    return np.asarray(array)


@functools.cache
def _register_exit() -> None:
    atexit.register(_close_all)


def _close_all() -> None:
    from grain.multiprocessing import SharedMemoryArray

    for closable in list(_to_close):
        closable.close()
    gc.collect()
    # Grain frees shared memory in a daemon thread, which would be killed half-way through its queue.
    pool = getattr(SharedMemoryArray, "_del_thread_pool", None)
    if pool is not None:
        SharedMemoryArray._del_thread_pool = None
        pool.close()
        pool.join()
    # What somebody still holds is unmapped by the kernel; Grain's own destructor fails in a half-dead interpreter.
    for reference in list(_lent.values()):
        if (array := reference()) is not None:
            array.shm.unlink()
    SharedMemoryArray.__del__ = lambda self: None
