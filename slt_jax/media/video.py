"""The pictures of a video by the time at which they are shown, upright and with square pixels."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from slt_jax.errors import UserError

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".gif", ".m4v")
FROM_SEEKS = 30.0  # seconds; in a longer video, samples are found by seeking instead of reading on
T = TypeVar("T")


class BadVideo(UserError):
    """A video that cannot be used. Others can continue."""


@dataclass(frozen=True)
class Facts:
    """What a file says about its video, which may be wrong. `duration` is in seconds, or None if not given."""

    fps: float | None
    duration: float | None


@dataclass(frozen=True)
class Picture:
    """One frame of the output: `image` uint8 (H, W, 3), RGB. Not `fresh` if it repeats the one before."""

    number: int
    image: np.ndarray
    fresh: bool


def facts(path: str | Path, **how: Any) -> Facts:
    """Read what a file says about its video; `how` is `_opened`'s. Raises BadVideo if there is no video in it."""
    with _opened(path, **how) as (_, stream):
        return _facts(stream)


def played(
    path: str | Path, *, live: bool = False, name: str = "", **how: Any
) -> Iterator[tuple[float | None, Callable[[], np.ndarray]]]:
    """Yield (time, image) of every picture as it comes: `image()` makes it, uint8 (H, W, 3).

    Times, in seconds, are those of a file; of a `live` source, they are what it says, from anywhere on, or None.
    Raises BadVideo as `pictures` does.
    """
    with _opened(path, name=name, **how) as (container, stream):
        if live:
            for frame in _decoded(name or path, container, stream):
                yield frame.time, partial(_upright, frame, stream, False)
        else:
            for time, _, frame in _timed(name or path, container, stream, 0.0, None):
                yield time, partial(_upright, frame, stream, False)


def pictures(
    path: str | Path, fps: float, *, start: float | None = None, end: float | None = None, mirrored: bool = False
) -> Iterator[Picture]:
    """Yield the pictures shown nearest to `start`, `start` + 1 / fps, ... before `end`, in seconds of the video.

    Only one is held at a time. Raises BadVideo if the file cannot be read, is cut short, or has no picture there.
    """
    start = start or 0.0
    with _opened(path) as (container, stream):
        if start > 0:
            _seek(container, stream, start)
        image, any_read = None, False
        for number, frame, fresh in at_rate(_timed(path, container, stream, start, end), fps, start, end):
            if fresh or image is None:
                image = _upright(frame, stream, mirrored)
            any_read = True
            yield Picture(number, image, fresh)
        if not any_read:
            where = "" if end is None and not start else " in the part that is asked for"
            raise BadVideo(f"{path}: no picture can be read{where}")


def samples(
    path: str | Path, count: int, *, start: float | None = None, end: float | None = None, mirrored: bool = False
) -> Iterator[np.ndarray]:
    """About `count` images spread over a video, in order; in a long one, the nearest key frames."""
    known = facts(path).duration
    begin, stop = start or 0.0, end if end is not None else known
    if stop is None or stop - begin <= FROM_SEEKS:
        fps = count / max(stop - begin, 0.04) if stop is not None else 1.0
        for picture in pictures(path, fps, start=begin + 0.5 / fps, end=end, mirrored=mirrored):
            yield picture.image
        return
    with _opened(path) as (container, stream):
        for place in range(count):
            _seek(container, stream, begin + (place + 0.5) * (stop - begin) / count)
            for _, _, frame in _timed(path, container, stream, 0.0, math.inf):
                yield _upright(frame, stream, mirrored)
                break


class AtRate(Generic[T]):
    """Turns items, pushed in the order of their times, into (number, item, fresh): the nearest to start + number / fps.

    There are as many as fit between `start` and `end` (or the end of the last item), rounded. `fresh` is False for an
    item that is repeated.
    """

    def __init__(self, fps: float, start: float = 0.0, end: float | None = None):
        self._fps, self._start = fps, start
        self._last = math.inf if end is None else max(round((end - start) * fps), 1)
        self._number, self._fresh = 0, True
        self._before: tuple[float, float, T] | None = None

    def push(self, time: float, seconds: float, item: T) -> list[tuple[int, T, bool]]:
        """What is due once an item comes that is shown at `time` for `seconds`: the one before, repeatedly or not."""
        due = []
        if self._before is not None:
            while self._number < self._last and self._start + self._number / self._fps < (self._before[0] + time) / 2:
                due.append(self._next(self._before[2]))
        self._before, self._fresh = (time, seconds, item), True
        return due

    def finish(self) -> list[tuple[int, T, bool]]:
        """What is due of the last item."""
        if self._before is None or self._before[0] + self._before[1] <= self._start:
            return []
        covered = (self._before[0] + self._before[1] - self._start) * self._fps
        count = max(int(min(self._last, round(covered))), 1) - self._number
        return [self._next(self._before[2]) for _ in range(count)]

    def _next(self, item: T) -> tuple[int, T, bool]:
        due = self._number, item, self._fresh
        self._number, self._fresh = self._number + 1, False
        return due


def at_rate(
    timed: Iterable[tuple[float, float, T]], fps: float, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[int, T, bool]]:
    """The same of all (time, seconds shown, item) in `timed`."""
    rate = AtRate[T](fps, start, end)
    for time, seconds, item in timed:
        yield from rate.push(time, seconds, item)
    yield from rate.finish()


@contextmanager
def _opened(path: str | Path, *, name: str = "", **how: Any) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream; `name` is for messages, `how` are arguments of PyAV's `open`."""
    av, name = _av(), name or str(path)
    try:
        container = av.open(str(path), **how)
    except FileNotFoundError:
        raise BadVideo(f"{name}: no such file") from None
    except _av_errors() as error:
        raise BadVideo(f"{name}: cannot be opened as a video ({_reason(error)})") from None
    with container:
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
        if stream is None or stream.codec_context is None:
            raise BadVideo(f"{name}: holds no video stream that can be decoded")
        stream.codec_context.thread_count = 1  # workers share the machine; one decodes as fast as a detector looks
        yield container, stream


def _av():
    try:
        import av
    except ImportError:
        raise UserError('reading videos needs PyAV: pip install "slt-jax[media]"') from None
    av.logging.set_level(None)  # a broken video is reported in its record, not on the terminal
    return av


def _av_errors() -> tuple[type[Exception], ...]:
    return (_av().FFmpegError, OSError, ValueError)


def _is_cover(stream) -> bool:
    """Whether the stream is album art and not a video."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _facts(stream) -> Facts:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    duration = None
    if stream.duration:
        duration = float(stream.duration * stream.time_base)
    elif stream.container.duration:
        duration = stream.container.duration / 1e6
    return Facts(float(rate) if rate else None, duration)


def _seek(container, stream, seconds: float) -> None:
    """Seek to the key frame before. A file without seeking is read from its start."""
    origin = float((stream.start_time or 0) * stream.time_base)
    try:
        container.seek(int((seconds + origin) / stream.time_base), stream=stream, backward=True)
    except _av_errors():
        container.seek(0)


def _timed(path, container, stream, start: float, end: float | None) -> Iterator[tuple[float, float, Any]]:
    """Yield (time, seconds shown, frame) from the current place until just after `end`.

    A stream that breaks off long before its declared end is an error.
    """
    origin = float((stream.start_time or 0) * stream.time_base)
    known = _facts(stream)
    step = 1 / (known.fps or 25.0)
    time = None
    for frame in _decoded(path, container, stream):
        stamp = frame.time - origin if frame.time is not None else (0.0 if time is None else time + step)
        time = stamp if time is None else max(stamp, time)
        shown = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step
        yield time, shown, frame
        if end is not None and time > end + step:
            return
    # Only what the file says about the video itself counts, as sound may be longer.
    alone = stream.duration or not container.streams.audio
    expected = min(known.duration, math.inf if end is None else end) if known.duration and alone else 0.0
    reached = start if time is None else time + step
    if expected - reached > max(1.0, 0.05 * expected):
        raise BadVideo(f"{path}: breaks off at {max(reached, 0):.1f} s of {known.duration:.1f} s; is it whole?")


def _decoded(path, container, stream) -> Iterator[Any]:
    """The frames from the current place on. Damaged packets are skipped, as players do."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except _av_errors() as error:
            raise BadVideo(f"{path}: cannot be read to its end ({_reason(error)})") from None
        if packet is None:
            return
        try:
            frames = packet.decode()
        except _av_errors():
            continue
        yield from frames


def _upright(frame, stream, mirrored: bool) -> np.ndarray:
    """The frame as RGB, as it is meant to be seen: with square pixels, and rotated as the metadata says."""
    ratio = stream.sample_aspect_ratio
    width = round(frame.width * float(ratio)) if ratio and ratio > 0 else frame.width
    image = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as in NumPy
    if turns:
        image = np.rot90(image, turns)
    if mirrored:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _reason(error: BaseException) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
