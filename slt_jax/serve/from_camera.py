"""Text while somebody signs: the pictures of a source go through an extractor and a stream, each in its own time.

One thread reads pictures, one extracts, and the caller's translates. Between them are short queues. Where translating
is slow, extracting waits for it, and pictures are dropped.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from slt_jax.decoding.engine import Engine
from slt_jax.decoding.results import Segment
from slt_jax.decoding.stream import Stream, Update
from slt_jax.errors import UserError
from slt_jax.media.camera import Camera, Slot, Source
from slt_jax.media.live import LiveExtractor, LiveFrame, joined
from slt_jax.media.settings import ExtractionSettings
from slt_jax.serve.pace import Pacemaker
from slt_jax.serve.translate_video import VideoTranslator

TEXT_SECONDS = 1 / 3  # after which there is a new hypothesis
RATE_SECONDS = 5.0  # over which frames a second are counted


@dataclass(frozen=True)
class Pace:
    """How a live translation keeps up: frames a second; pictures `dropped` since the beginning.

    Models look at every `every`-th frame. `lag` are the seconds from a picture to the text that it may have changed;
    None for a file that is not played as if live.
    """

    frames: int
    fps: float
    dropped: int
    every: int
    lag: float | None


@dataclass(frozen=True)
class Caption:
    """The text after some frames: an `Update` in the times of the source. `anybody`: whether they show a person."""

    update: Update
    anybody: bool
    pace: Pace


class LiveTranslation:
    """A source's text. Compiles the model's programs, so that nobody waits for that later.

    Raises UserError if the source cannot be opened or the model cannot translate a stream.
    """

    def __init__(
        self,
        model: VideoTranslator,
        source: Source,
        settings: ExtractionSettings,
        *,
        make_detector: Callable[[], Any] | None = None,
    ):
        self._source, self._settings, self._make_detector = source, settings, make_detector
        self._source_fps = source.facts.fps
        fps = settings.rate(self._source_fps)
        self._engine = Engine(
            model.translator, model.tokenizer, fps=fps, search=model.search, start=model.start,
            chunk=max(round(fps * TEXT_SECONDS), 1), v9_hand_masks=model.v9_hand_masks,
        )  # fmt: skip
        self._engine.compile()
        self.met = False  # whether anybody has been seen
        self._frames = 0
        self._recent: deque[tuple[float, int]] = deque()

    def captions(self, stopped: Callable[[], Any]) -> Iterator[Caption]:
        """What is known after every frame, until the source ends or `stopped()`; of a live one, after some.

        Raises UserError for a source that breaks off, after the text of what came before.
        """
        config = self._engine.config
        with (
            LiveExtractor(
                self._settings, image_size=config.image_size, streams=config.streams, source_fps=self._source_fps,
                make_detector=self._make_detector,
            ) as extractor,
            Camera(self._source) as camera,
        ):  # fmt: skip
            frames: Slot[LiveFrame] = Slot(2 * self._engine.chunk, drops=False)
            thread = threading.Thread(target=_extract, args=(camera, extractor, frames), name="extract", daemon=True)
            thread.start()
            try:
                for some, update in self._updates(camera, frames, stopped):
                    yield Caption(update, any(frame.anybody for frame in some), self._pace(camera, extractor, some))
            finally:
                camera.stop()
                frames.end()
                thread.join()

    def _updates(
        self, camera: Camera, frames: Slot[LiveFrame], stopped: Callable[[], Any]
    ) -> Iterator[tuple[list[LiveFrame], Update]]:
        """The next frames and what is known after them; none at the end and at a break."""
        stream, base, error = None, 0.0, None
        # One at a time, the text of a file is always the same. Where that is too slow, there are fewer hypotheses.
        most = 2 * self._engine.chunk if self._source.live else 1
        while not frames.over and error is None:
            if stopped():
                camera.stop()
            some: list[LiveFrame] = []
            try:
                camera.check()
                some = frames.all(most, 0.2)
            except Exception as problem:
                error = problem
            for part in _unbroken(some):
                if stream is None or part[0].begins:
                    if stream is not None:  # what was signed before a pause of the camera is another sentence
                        yield [], _later(stream.finish(), base)
                    stream, base = Stream(self._engine, space_unit=part[0].space_unit), part[0].time
                self.met = self.met or any(frame.anybody for frame in part)
                self._frames += len(part)
                yield part, _later(stream.push(joined(part)), base)
        if stream is not None:
            yield [], _later(stream.finish(), base)
        if error is not None:
            raise error
        if stream is None and not stopped():
            raise UserError(f"{self._source.name}: no picture can be read")

    def _pace(self, camera: Camera, extractor: LiveExtractor, some: list[LiveFrame]) -> Pace:
        now = time.monotonic()
        self._recent.append((now, self._frames))
        while now - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()
        (since, before), lag = self._recent[0], None
        if self._source.live and camera.began is not None and some:
            lag = now - camera.began - some[-1].time
        fps = (self._frames - before) / (now - since) if now > since else 0.0
        return Pace(self._frames, fps, camera.shots.dropped, extractor.every, lag)


def _unbroken(frames: list[LiveFrame]) -> list[list[LiveFrame]]:
    """Frames in parts whose frames are neighbours."""
    places = [0, *(place for place, frame in enumerate(frames) if frame.begins and place), len(frames)]
    return [frames[first:end] for first, end in pairwise(places) if first < end]


def _later(update: Update, seconds: float) -> Update:
    """An update in the times of a source whose stream began after `seconds`."""
    ended = tuple(Segment(s.start + seconds, s.end + seconds, s.text) for s in update.ended)
    return replace(update, ended=ended, time=update.time + seconds)


def _extract(camera: Camera, extractor: LiveExtractor, frames: Slot[LiveFrame]) -> None:
    """Fill `frames` until the camera ends. If pictures are dropped, let the models look at fewer of them."""
    error: BaseException | None = None
    pacemaker = Pacemaker(extractor)
    try:
        while not camera.shots.over:
            shot = camera.shots.get(0.2)
            if shot is None:
                continue
            for frame in extractor.frame(shot.image(), shot.time):
                frames.put(frame)
            pacemaker.tell(camera.shots.dropped)
    except BaseException as problem:  # raised where the frames are taken, after those that came before
        error = problem
    try:
        for frame in extractor.flush():
            frames.put(frame)
    except BaseException as problem:
        error = error or problem
    frames.end(error)
