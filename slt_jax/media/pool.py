"""Worker processes that extract, and survive a video that kills its process.

Each process has its own detector and a pipe. A standard pool would end with the first process that a broken video or a
lack of memory kills. Here only that video fails, and a new process continues with the next.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from slt_jax.base.interrupts import blocked
from slt_jax.errors import UserError
from slt_jax.media.jobs import Job

REPORT_SECONDS = 0.5  # seconds between two reports on the frames of one video
Work = Callable[[Any, Job, Callable[[int, int], None]], dict[str, Any]]


def run_jobs(
    jobs: Sequence[Job],
    make_detector: Callable[[], Any],
    work: Work,
    workers: int,
    on_frames: Callable[[Job, int, int], None] = lambda *_: None,
    first: "Worker | None" = None,
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield (job, `work(detector, job, progress)`) as jobs are done; `on_frames(job, done, expected)` reports frames.

    `workers` processes are spawned, so `make_detector` and `work` must be importable by name; 0 works in this process.
    `first`, made by `started`, is the first of them, which saves the time that it takes to begin.
    If a process dies, its job's result is {"status": "failed", "reason": ...}. UserErrors of `make_detector` are
    raised.
    """
    if workers == 0:
        yield from _run_here(jobs, make_detector, work, on_frames)
        return
    context, waiting = multiprocessing.get_context("spawn"), list(reversed(jobs))
    count = min(workers, len(jobs))
    running: dict[object, Worker] = {}  # by the pipe to each
    try:
        for number in range(count):
            worker = first if first and not number else Worker(context, make_detector, number, count)
            running[worker.pipe] = worker
        while running:
            for pipe in wait([worker.pipe for worker in running.values()]):
                worker, current = running[pipe], running[pipe].job
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.stop()
                    del running[pipe]
                    if current is not None:
                        yield current, {"status": "failed", "reason": worker.cause_of_death()}
                    elif not worker.ready:
                        raise UserError(f"a worker could not start: {worker.cause_of_death()}") from None
                    if waiting:
                        worker = Worker(context, make_detector, worker.number, count)
                        running[worker.pipe] = worker
                    continue
                if kind == "error":
                    raise UserError(content)
                if kind == "frames" and current is not None:
                    on_frames(current, *content)
                    continue
                if kind == "done" and current is not None:
                    yield current, content
                worker.ready, worker.job = True, None
                if waiting:
                    worker.job = waiting.pop()
                    worker.pipe.send((work, worker.job))
                else:
                    worker.stop()
                    del running[pipe]
    finally:
        for worker in running.values():
            worker.stop()


def _run_here(jobs: Sequence[Job], make_detector, work: Work, on_frames) -> Iterator[tuple[Job, dict[str, Any]]]:
    """`run_jobs` in this process."""
    detector = make_detector()
    try:
        for job in jobs:
            yield job, work(detector, job, partial(on_frames, job))
    finally:
        detector.close()


@contextmanager
def started(make_detector: Callable[[], Any]) -> Iterator["Worker"]:
    """A worker for `run_jobs` with one, which makes its detector beside what is done in the context."""
    worker = Worker(multiprocessing.get_context("spawn"), make_detector, 0, 1)
    try:
        yield worker
    finally:
        worker.stop()


class Worker:
    """One process, until `stop`."""

    def __init__(self, context, make_detector, number: int, count: int):
        self.number, self.ready = number, False
        self.job: Job | None = None
        self.pipe: Connection
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make_detector, number, count), daemon=True)
        with blocked():  # from its first moment on: the parent ends it
            self._process.start()
        theirs.close()

    def end(self) -> None:
        """End its work; whoever waits for that is told so."""
        self._process.terminate()

    def stop(self) -> None:
        """End the process, in the middle of its work if need be, and wait for its end."""
        self.pipe.close()
        if self.job is not None or not self.ready:
            self._process.terminate()
        self._process.join(10)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def cause_of_death(self) -> str:
        """Why it ended, in words."""
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"its worker was ended by {name}" + ("; was memory short?" if name == "SIGKILL" else "")
        return f"its worker ended with exit code {code}"


def _serve(pipe: Connection, make_detector, number: int, count: int) -> None:
    """Run a worker process: make a detector, then do job after job until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be blocked
    _own_cores(number, count)
    # The models' libraries log there; what matters goes through the pipe.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
    try:
        try:
            detector = make_detector()
        except UserError as error:
            pipe.send(("error", str(error)))
            return
        pipe.send(("ready", None))
        while True:
            work, job = pipe.recv()
            reported = time.monotonic()

            def progress(done: int, expected: int) -> None:
                nonlocal reported
                if time.monotonic() - reported > REPORT_SECONDS:
                    reported = time.monotonic()
                    pipe.send(("frames", (done, expected)))

            pipe.send(("done", work(detector, job, progress)))
    except (EOFError, OSError):  # the parent has closed its end or is gone
        return


def _own_cores(number: int, count: int) -> None:
    """Give each process a share of the cores, so that its thread pools are only that big."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[number % len(cores) :: count] if count <= len(cores) else [cores[number % len(cores)]]
        os.sched_setaffinity(0, mine)
