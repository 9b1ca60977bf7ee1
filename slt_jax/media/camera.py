"""Where live pictures come from: a camera, a video file played as if live, or a stream of the network.

A thread reads them into a short queue. While it is full, the oldest is dropped and counted for each that comes, so
nothing waits for long; of a file that is not played as if live, nothing is dropped.
"""

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from slt_jax.errors import UserError, nearest, shortened
from slt_jax.media.video import Facts, facts, played

PROTOCOLS = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp")
TIMEOUT = 10.0  # seconds in which a network must answer, and in which a live source must give its next picture
DRIFT = 20.0  # seconds that a stream's own clock may be away from ours; parts of HTTP streams come 10 s at a time
WAITING = 8  # pictures: a third of a second that decoding or a search may take without a picture being lost
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A camera, a file or an address."""

    name: str  # for messages, without passwords
    address: str
    live: bool = False  # it does not wait
    paced: bool = False  # it may come early: read it no faster than it is shown
    endless: bool = False  # its clock starts anywhere, and may jump
    how: dict[str, Any] = field(default_factory=dict)  # arguments of PyAV's `open`

    @cached_property
    def facts(self) -> Facts:
        """What it says about its pictures. Raises BadVideo if it cannot be opened."""
        return facts(self.address, name=self.name, **self.how)


def source_of(text: str, *, realtime: bool = False) -> Source:
    """The source that a user means: the number or the device of a camera, a file, or an address.

    A file is played as if live if `realtime`. Raises UserError for an unknown protocol and a camera that is not there.
    """
    protocol, separator, _ = text.partition("://")
    if text.isdigit() or text.startswith("/dev/video"):
        if realtime:
            raise UserError(f"--realtime: camera {text} is live already")
        return _camera(text)
    if not separator:
        return Source(text, text, live=realtime, paced=realtime)
    if protocol.lower() not in PROTOCOLS:
        raise UserError(f"{shortened(text)}: unknown protocol {protocol}{nearest(protocol.lower(), PROTOCOLS)}")
    options = {"rtsp_transport": "tcp"} if protocol.lower().startswith("rtsp") else {}
    address = Source(_without_password(text), text, how={"options": options, "timeout": (TIMEOUT, TIMEOUT)})
    endless = address.facts.duration is None
    return replace(address, live=endless or realtime, paced=endless or realtime, endless=endless)


def _camera(text: str) -> Source:
    name = f"camera {text}" if text.isdigit() else text
    if sys.platform == "darwin":
        options = {"framerate": "30", "video_size": "640x480"}
        return Source(name, text, live=True, endless=True, how={"format": "avfoundation", "options": options})
    device = f"/dev/video{text}" if text.isdigit() else text
    if not Path(device).exists():
        there = ", ".join(sorted(glob("/dev/video*"))) or "none"
        raise UserError(f"{name}: there is no {device}; cameras here: {there}")
    how = {"format": "v4l2", "options": {"video_size": "640x480"}}  # or the nearest that it has
    return Source(name, device, live=True, endless=True, how=how)


def _without_password(address: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", address)


class Slot(Generic[T]):
    """A bounded queue from one thread to another. `put` waits while it is full; if it `drops`, the oldest item goes."""

    def __init__(self, size: int, *, drops: bool):
        self._size, self._drops = size, drops
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self.dropped = 0

    def put(self, item: T) -> bool:
        """Add an item. False if nobody will take it."""
        with self._changed:
            if self._drops and len(self._items) >= self._size:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: len(self._items) < self._size or self._ended)
            if not self._ended:
                self._items.append(item)
                self._changed.notify_all()
            return not self._ended

    def get(self, seconds: float | None = None) -> T | None:
        """The next item; None after `seconds` without one, or if no more come (`over`).

        Raises what `end` was given, after the last item.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended, seconds)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None

    def all(self, most: int, seconds: float) -> list[T]:
        """Up to `most` items: those that are there, or the first that comes within `seconds`. Raises as `get` does."""
        items: list[T] = []
        while len(items) < most and (item := self.get(0 if items else seconds)) is not None:
            items.append(item)
            if not self._items:
                break
        return items

    @property
    def over(self) -> bool:
        """Whether no more items come, and there is no error to be raised."""
        with self._changed:
            return self._ended and not self._items and self._error is None

    def end(self, error: BaseException | None = None) -> None:
        """No more items are put there; `error` says why."""
        with self._changed:
            self._ended, self._error = True, self._error or error
            self._changed.notify_all()


@dataclass(frozen=True)
class Shot:
    """A picture of a camera, and when it was taken, in seconds since the first. `image()`: uint8 (H, W, 3), RGB."""

    image: Callable[[], np.ndarray]
    time: float


class Camera:
    """The pictures of a source, read by a thread of its own: a context manager.

    `shots` is where they come; `began` is the time of the first on the clock of `time.monotonic`, None before it.
    """

    def __init__(self, source: Source):
        self.source = source
        self.shots: Slot[Shot] = Slot(WAITING, drops=source.live)
        self.began: float | None = None
        self.arrived = time.monotonic()  # when the last picture came
        self._clock = _Clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def __enter__(self) -> "Camera":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Read no more pictures; those that wait can still be taken."""
        self._stop.set()
        self.shots.end()

    def check(self) -> None:
        """Raise UserError if a live source has given no picture for long."""
        if self.source.live and not self.shots.over and time.monotonic() - self.arrived > TIMEOUT + 2:
            raise UserError(f"{self.source.name}: gives no picture for {TIMEOUT:.0f} s; is it still connected?")

    def _run(self) -> None:
        try:
            self._read()
            self.shots.end()
        except BaseException as error:  # raised where the pictures are taken
            self.shots.end(error)

    def _read(self) -> None:
        source = self.source
        for stamp, image in played(source.address, live=source.endless, name=source.name, **source.how):
            self.began = time.monotonic() if self.began is None else self.began
            taken = self._time(stamp)
            early = taken - (time.monotonic() - self.began) if source.paced else 0.0
            if self._stop.wait(early) if early > 0 else self._stop.is_set():
                return
            self.arrived = time.monotonic()
            if not self.shots.put(Shot(image, taken)):
                return

    def _time(self, stamp: float | None) -> float:
        now = time.monotonic() - (self.began or 0.0)
        if stamp is None or (self.source.endless and not self.source.paced):
            return now  # a camera's picture is of now
        return self._clock.time(stamp, now) if self.source.endless else stamp


class _Clock:
    """Times that begin at 0 and go on with ours, whatever the clock of a stream does."""

    def __init__(self):
        self._shift: float | None = None
        self._last = 0.0

    def time(self, stamp: float, now: float) -> float:
        if self._shift is None or abs(stamp + self._shift - now) > DRIFT:
            self._shift = max(now, self._last) - stamp
        self._last = max(stamp + self._shift, self._last)
        return self._last
