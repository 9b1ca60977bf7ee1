"""What a person sees of long work: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

PLAIN_SECONDS = 30.0
LARGE = 64 << 20  # bytes; a larger file shows a progress bar
_silent = False


def silence() -> None:
    """Show nothing from here on, because only one of several processes talks."""
    global _silent
    _silent = True


class Progress:
    """Progress over the batches (or `unit`s) of one pass: a context manager; call `update` after each."""

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "batch", samples: str = "clips"):
        self._title, self._total, self._done, self._first, self._unit = title, total, done, done, unit
        self._samples = samples
        self._start = self._said = time.monotonic()
        self._end: float | None = None
        self.waited = 0.0  # seconds spent waiting for data
        self.clips = 0
        terminal = sys.stderr.isatty() and not _silent
        self._bar = tqdm(total=total, initial=done, desc=title, unit=unit, leave=False) if terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._end = time.monotonic()
        if self._bar:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Seconds since the pass began, or that it took once it has ended."""
        return (self._end or time.monotonic()) - self._start

    @property
    def rate(self) -> float:
        """Clips per second."""
        return self.clips / max(self.seconds, 1e-9)

    def wait(self, batches):
        """Iterate over `batches` and add up the time spent waiting for them."""
        iterator = iter(batches)
        try:
            while True:
                before = time.monotonic()
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                finally:
                    self.waited += time.monotonic() - before
                yield batch
        finally:
            iterator.close()

    def update(self, clips: int, loss: float | None = None) -> None:
        """Count a batch of `clips` clips. `loss` is the newest one known, None before the first."""
        self._done += 1
        self.clips += clips
        facts = {} if loss is None else {"loss": f"{loss:.4f}"}
        facts |= {f"{self._samples}/s": f"{self.rate:.2f}", "data wait": f"{self.waited / max(self.seconds, 1e-9):.0%}"}
        if self._bar:
            self._bar.set_postfix(facts, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            left = self.seconds / (self._done - self._first) * (self._total - self._done)
            text = ", ".join(f"{name} {value}" for name, value in facts.items())
            say(f"{self._title}: {self._unit} {self._done}/{self._total}, {text}, {left:.0f} s left")


def say(line: str) -> None:
    """Print one line for the user, above the bar if there is one."""
    if _silent:
        return
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


@contextmanager
def byte_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over bytes, on a terminal and for large files only."""
    shown: list[tqdm] = []

    def progress(done: int, total: int) -> None:
        if not shown:
            quiet = None if total >= LARGE else True  # None: shown on a terminal only
            shown.append(tqdm(total=total, desc=title, unit="B", unit_scale=True, leave=False, disable=quiet))
        shown[0].update(done - shown[0].n)

    try:
        yield progress
    finally:
        for one in shown:
            one.close()
