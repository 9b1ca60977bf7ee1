"""Stop politely: note a signal, finish the step, save the state."""

import signal
from types import FrameType


class StopSignal:
    """While active, the first SIGTERM or SIGINT only sets `number`. A second one acts as usual."""

    def __init__(self):
        self.number: int | None = None
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._previous[number])

    def __bool__(self) -> bool:
        return self.number is not None
