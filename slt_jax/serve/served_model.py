"""The model of a service: what sessions and uploads ask of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.decoding.engine import Engine
from slt_jax.decoding.results import Segment
from slt_jax.decoding.stream import PAUSE, Stream, Update, push_many
from slt_jax.errors import UserError
from slt_jax.media.detect import Detector
from slt_jax.media.extract import extract
from slt_jax.media.live import LiveExtractor, LiveFrame, joined
from slt_jax.media.settings import ExtractionSettings
from slt_jax.media.video import facts
from slt_jax.serve.bounds import Bounds
from slt_jax.serve.translate_video import VideoTranslator, in_language
from slt_jax.streams import streams_of


class ServedModel:
    """A checkpoint's translations: live for several signers at once, and of whole videos.

    `languages` are those to choose from, the first is the usual; none where the model has one. `every`, `chunk` and
    `pause` are as in LiveExtractor, Engine and Stream. Raises UserError for settings that do not fit the model.
    """

    def __init__(
        self,
        model: VideoTranslator,
        settings: ExtractionSettings,
        *,
        name: str,
        languages: Sequence[str] = (),
        sessions: int = 8,
        every: int = 1,
        chunk: int = 8,
        pause: float = PAUSE,
        make_detector: Callable[[], Any] | None = None,
    ):
        self.name, self.settings, self.fps = name, settings, settings.rate(None)
        self.languages, self.language = tuple(languages), next(iter(languages), None)
        self._every, self._pause = every, pause
        self._make_detector = make_detector or partial(Detector, settings.min_confidence)
        spoken = {None: model} | {language: in_language(model, language) for language in languages}
        if languages:
            spoken[None] = spoken[languages[0]]
        self._models = spoken
        sizes = sorted({1, *(2**power for power in range(1, 8) if 2**power < sessions), sessions})
        self._engines = {
            language: Engine(
                one.translator, one.tokenizer, fps=self.fps, search=one.search, start=one.start, batch_sizes=sizes,
                chunk=chunk, v9_hand_masks=one.v9_hand_masks,
            ) for language, one in spoken.items()
        }  # fmt: skip
        Stream(self._engines[None], pause=pause)  # so that what does not fit is told before anybody comes

    @property
    def config(self) -> Any:
        """The section `model` of the checkpoint's configuration."""
        return self._models[None].translator.config

    def described(self) -> dict[str, Any]:
        """What `/v1/models` says about it."""
        return {
            "name": self.name, "languages": list(self.languages), "language": self.language, "fps": self.fps,
            "streams": [stream.name for stream in streams_of(self.config)], "landmarks": self.settings.landmarks,
            "seconds": round(self.config.sequence_length / self.fps, 3), "mirrored": self.settings.mirrored,
        }  # fmt: skip

    def compile(self) -> None:
        """Compile every program, and load the detector once, so that nobody waits for it."""
        for engine in {id(engine): engine for engine in self._engines.values()}.values():
            engine.compile()
        with closing(self.open_extractor()) as extractor:
            extractor.frame(np.zeros((480, 640, 3), np.uint8), 0.0)

    def open_extractor(self) -> LiveExtractor:
        """The extractor of one session."""
        return LiveExtractor(
            self.settings, image_size=self.config.image_size, every=self._every, make_detector=self._make_detector,
            streams=[stream.name for stream in streams_of(self.config)],
        )  # fmt: skip

    def open_stream(self, language: str | None) -> "SignerStream":
        """The stream of one session."""
        return SignerStream(self._engines[language], self._pause)

    def push(self, pushes: Sequence[tuple["SignerStream", Sequence[LiveFrame]]]) -> list[Update]:
        """Take the next frames of several sessions; those of one language share batches.

        What was signed before a gap is a sentence of its own.
        """
        said: dict[int, list[Update]] = {id(signer): [] for signer, _ in pushes}
        waiting = [(signer, runs(frames)) for signer, frames in pushes]
        while waiting:
            for signer, parts in waiting:
                if parts[0][0].begins and signer.stream is not None:
                    said[id(signer)].append(signer.stream.finish())
            for engine in {id(signer.engine): signer.engine for signer, _ in waiting}.values():
                some = [(signer, parts[0]) for signer, parts in waiting if signer.engine is engine]
                updates = push_many(engine, [(signer.begun(part[0]), joined(part)) for signer, part in some])
                for (signer, _), update in zip(some, updates, strict=True):
                    said[id(signer)].append(update)
            waiting = [(signer, parts[1:]) for signer, parts in waiting if parts[1:]]
        return [merged(said[id(signer)]) for signer, _ in pushes]

    @staticmethod
    def finish(signer: "SignerStream") -> Update:
        """What is left of a stream."""
        return Update("", "", (), 0.0) if signer.stream is None else signer.stream.finish()

    def translate_file(
        self, path: str, folder: str, progress: Callable[[int, int], None], *, language: str | None, bounds: Bounds
    ) -> Iterator[Segment]:
        """Yield the segments of a video, as `slt-translate` does; its streams are put into `folder`.

        `progress(frames, frames expected)` may raise to stop it. Raises UserError for a video that cannot be used.
        """
        known = facts(path)
        most = bounds.max_seconds
        if known.duration is not None and known.duration > most:
            raise UserError(f"the video takes {known.duration:.0f} seconds; at most {most:g}")

        def told(done: int, expected: int) -> None:
            if done > most * self.fps:  # whatever the file says of itself
                raise UserError(f"the video takes more than {most:g} seconds")
            progress(done, expected)

        model, fps = self._models[language], self.settings.rate(known.fps)
        with closing(self._make_detector()) as detector:
            record = extract(path, "video", Path(folder), self.settings, detector, progress=told)
        for segment in model.segments(folder, record["frames"], fps):
            yield segment
            progress(record["frames"], record["frames"])


@dataclass
class SignerStream:
    """The stream of one signer; it begins with the first frame, which tells how poses are measured."""

    engine: Engine
    pause: float
    stream: Stream | None = None

    def begun(self, frame: LiveFrame) -> Stream:
        """The stream, which begins with `frame` if it has not begun."""
        if self.stream is None:
            self.stream = Stream(self.engine, pause=self.pause, space_unit=frame.space_unit)
        return self.stream


def runs(frames: Sequence[LiveFrame]) -> list[list[LiveFrame]]:
    """Frames in runs of neighbours."""
    parts: list[list[LiveFrame]] = []
    for frame in frames:
        if frame.begins or not parts:
            parts.append([])
        parts[-1].append(frame)
    return parts


def merged(updates: Sequence[Update]) -> Update:
    """Consecutive updates of one stream as one."""
    ended = tuple(segment for update in updates for segment in update.ended)
    return replace(updates[-1], ended=ended)
