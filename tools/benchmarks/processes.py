"""Each side of a comparison lives in a process of its own: two thread pools in one would fight for the cores."""

import logging
import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from slt_jax.base.restart import TUNABLES, without_huge_pages
from slt_jax.errors import UserError


class OutOfMemory(UserError):
    """A side does not fit the device."""


class Side:
    """The object `factory(*arguments)` in a process that begins with the first call, and again after `close`.

    `factory` imports JAX or torch itself, so that this process needs neither. `cores` limits it to the first of those
    it may use; `environment` is set before anything is imported. A side that is `foreign` starts as its own users start
    it, without what our commands ask of the C library.
    """

    def __init__(
        self,
        name: str,
        factory: Callable,
        *arguments,
        cores: int | None = None,
        environment: Mapping[str, str] | None = None,
        foreign: bool = False,
    ):
        self.name, self._foreign = name, foreign
        self._start = (factory, arguments, cores, dict(environment or {}))
        self._running: tuple[BaseProcess, Connection] | None = None

    def call(self, method: str, *arguments) -> Any:
        """What the object's method returns. Raises what it raised: UserError and OutOfMemory in one line."""
        if self._running is None:
            context = multiprocessing.get_context("spawn")
            connection, other = context.Pipe()
            process = context.Process(target=_serve, args=(other, *self._start), daemon=True)
            with self._environment():
                process.start()
            self._running = process, connection
            other.close()
        _, connection = self._running
        try:
            connection.send((method, arguments))
            kind, answer = connection.recv()
        except (EOFError, OSError):
            self.close()
            raise OutOfMemory(f"{self.name}: its process died; was memory short? Try a smaller --batch-size") from None
        if kind == "done":
            return answer
        self.close()
        if kind == "memory":
            raise OutOfMemory(f"{self.name}: does not fit the device's memory; use a smaller --batch-size")
        if kind == "mistake":
            raise UserError(answer)
        raise RuntimeError(f"{self.name} failed:\n{answer}")

    @contextmanager
    def _environment(self) -> Iterator[None]:
        ours = os.environ.get(TUNABLES)
        if self._foreign and ours is not None:
            os.environ[TUNABLES] = without_huge_pages(ours)
        try:
            yield
        finally:
            if ours is not None:
                os.environ[TUNABLES] = ours

    def close(self) -> None:
        """End the process; what the device held for it is free again."""
        if self._running is not None:
            process, connection = self._running
            connection.close()
            process.join()
            self._running = None

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _serve(connection, factory: Callable, arguments: tuple, cores: int | None, environment: dict[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    logging.basicConfig(level=logging.ERROR)  # of made-up data and random weights there is nothing to warn
    os.environ.update(environment)
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    side = None
    while True:
        try:
            method, given = connection.recv()
        except EOFError:
            return
        try:
            side = factory(*arguments) if side is None else side
            answer = "done", getattr(side, method)(*given)
        except UserError as error:
            answer = "mistake", str(error)
        except ModuleNotFoundError as error:
            answer = "mistake", f"{error.name} is not installed, which this needs: pip install {error.name}"
        except Exception as error:
            # JAX and torch have no common class for it.
            full = "RESOURCE_EXHAUSTED" in str(error) or type(error).__name__ == "OutOfMemoryError"
            answer = ("memory", "") if full or isinstance(error, MemoryError) else ("failed", traceback.format_exc())
        connection.send(answer)


def resident() -> dict[str, int]:
    """Bytes of this process in memory, now and at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"now": pages * resource.getpagesize(), "peak": 1024 * most}
