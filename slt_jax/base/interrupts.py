"""Ctrl-C that is not lost, and that reaches this process alone."""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

AGAIN_SECONDS = 0.1


@contextmanager
def raised_again() -> Iterator[None]:
    """While active, a KeyboardInterrupt that Python had to drop is raised a moment later.

    It drops whatever a callback from C raises, and JAX has one that follows every garbage collection.
    """
    before, main = sys.unraisablehook, threading.main_thread().ident

    def seen(dropped) -> None:
        if main is None or not issubclass(dropped.exc_type, KeyboardInterrupt) or not hasattr(signal, "pthread_kill"):
            before(dropped)
            return
        while True:
            try:
                _thread.start_new_thread(_raise, (main,))
                return
            except KeyboardInterrupt:  # the machine is so busy that the moment is over: here it would be dropped
                continue

    sys.unraisablehook = seen
    try:
        yield
    finally:
        sys.unraisablehook = before


def _raise(thread: int) -> None:
    time.sleep(AGAIN_SECONDS)
    signal.pthread_kill(thread, signal.SIGINT)


@contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started in the context never see Ctrl-C, which a terminal sends to all; here it waits."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would otherwise be started in the context, and end the blocking
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
