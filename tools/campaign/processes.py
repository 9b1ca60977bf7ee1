"""Runs in processes of their own, one or two that train together, and the signals that they get on their way."""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tools.campaign.harm import FileEvents, SmallDisk, send
from tools.campaign.runs import train

PATIENCE = 1800.0  # seconds for a run, on a busy machine too
ENDS_WITHIN = 120.0  # seconds for the other of two processes, once one has ended
TWO = ("--num-processes", "2")


@dataclass(frozen=True)
class Blow:
    """A signal to some processes, or a full disk: at a file event of one of them, or after some processor time.

    With `leave` the disk around the run's folder is filled but for so many bytes, else processes get the signal.
    """

    number: int = signal.SIGKILL
    watched: int = 0
    hit: tuple[int, ...] = (0,)
    event: int | None = None
    after: bool = False  # the event
    seconds: float | None = None  # of processor time, of the watched process
    leave: int | None = None


@dataclass(frozen=True)
class Ended:
    """How a process ended. `labels` are its file events, `late` that it had to be killed after the other's end."""

    code: int
    out: str
    errors: str
    cpu: float
    late: bool
    labels: list[str] = field(default_factory=list)

    @property
    def told(self) -> bool:
        """Whether it refused to run in one line."""
        return self.code == 2 and self._is_one_line(": error: ")

    @property
    def followed(self) -> bool:
        """Whether it ended because the other one did, and said so in one line."""
        return self.code == 1 and self._is_one_line("has ended early, so this process ends too")

    def _is_one_line(self, words: str) -> bool:
        lines = self.errors.splitlines()
        return len(lines) == 1 and words in lines[0]


@dataclass(frozen=True)
class Runner:
    """Starts runs. What they say goes beside their folder in the scratch folder, which may be a small disk."""

    scratch: Path
    corpus: Path

    def run(self, how: str, folder: Path, more: Sequence[str], blow: Blow | None = None) -> list[Ended]:
        """Carry out a run and return how its processes ended."""
        count = 2 if set(TWO) <= set(more) else 1
        meeting = ["--coordinator", f"127.0.0.1:{_free_port()}", "--distributed-timeout", "30", "--process-id"]
        children: dict[int, int] = {}
        for index in sorted(range(count), key=lambda index: blow is not None and index == blow.watched):
            events = FileEvents(folder)
            if blow and blow.event is not None and index == blow.watched:
                strike = partial(send, blow.number, [children.get(other) for other in blow.hit])  # None: itself
                if blow.leave is not None:
                    strike = partial(SmallDisk.fill, folder.parent, blow.leave)
                events = FileEvents(folder, blow.event, after=blow.after, strike=strike)
            flags = [*more, *meeting, str(index)] if count > 1 else list(more)
            children[index] = self._start(how, folder, flags, events, self._said(folder, index))
        ended = dict(self._waited(children, blow, folder))
        return [ended[index] for index in range(count)]

    def _said(self, folder: Path, index: int) -> Path:
        return self.scratch / f"{folder.relative_to(self.scratch).parts[0]}.{index}"

    def _start(self, how: str, folder: Path, more: Sequence[str], events: FileEvents, said: Path) -> int:
        sys.stdout.flush()
        for name in ("out", "errors", "labels"):  # new files: a helper of a killed run may still write into the old
            Path(f"{said}.{name}").unlink(missing_ok=True)
        child = os.fork()
        if child:
            return child
        try:
            for name, descriptor in (("out", 1), ("errors", 2)):
                file = os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, descriptor)
            events.watch()
            code = train(how, self.corpus, folder, more)
            Path(f"{said}.labels").write_text(json.dumps(events.labels), encoding="utf-8")
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _waited(self, children: Mapping[int, int], blow: Blow | None, folder: Path) -> Iterator[tuple[int, Ended]]:
        """How each process ended, as they do; a process that stays when its time is over is killed."""
        left, deadline, late = dict(children), time.monotonic() + PATIENCE, False
        timed = blow if blow and blow.seconds is not None else None
        while left:
            if timed and _processor_time(children[timed.watched]) >= (timed.seconds or 0.0):
                for index in left.keys() & timed.hit:
                    os.kill(left[index], timed.number)
                timed = None
            if not late and time.monotonic() > deadline:
                late = True
                for child in left.values():
                    os.kill(child, signal.SIGKILL)
            for index, child in list(left.items()):
                ended, status, used = os.wait4(child, os.WNOHANG)
                if ended:
                    del left[index]
                    deadline = min(deadline, time.monotonic() + ENDS_WITHIN)
                    code, cpu = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
                    out, errors = self._texts(folder, index)
                    yield index, Ended(code, out, errors, cpu, late, self._labels(folder, index))
            time.sleep(0.01)

    def _texts(self, folder: Path, index: int) -> list[str]:
        said = self._said(folder, index)
        return [Path(f"{said}.{name}").read_text(encoding="utf-8", errors="replace") for name in ("out", "errors")]

    def _labels(self, folder: Path, index: int) -> list[str]:
        labels = Path(f"{self._said(folder, index)}.labels")
        return json.loads(labels.read_text(encoding="utf-8")) if labels.exists() else []


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _processor_time(process: int) -> float:
    """Seconds that a process has used, of all its threads."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
