"""From a video file to text: extract the streams, then translate one window of the video at a time."""

import dataclasses
import html
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from convert.checkpoint import Blueprint, Checkpoint, blueprint, load_params
from slt_jax.base.ahead import ahead
from slt_jax.data.clip_files import ClipFiles, Frames, scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.landmarks import BY_NUMBER, SETS
from slt_jax.data.npz import NPZ_ERRORS, NUMBERS, TEXTS, read_arrays
from slt_jax.data.packs import open_pack
from slt_jax.data.regular import open_regular
from slt_jax.data.schema import CLIP_ARRAYS, BatchSizes, shapes
from slt_jax.data.text import RowStarts, decode
from slt_jax.data.windows import STILL, at_pauses, even, hand_motion
from slt_jax.decoding.inference import TextSide, Translator
from slt_jax.decoding.results import Segment
from slt_jax.decoding.search import Search
from slt_jax.decoding.translate import without_prompt
from slt_jax.errors import UserError
from slt_jax.media.detect import Detector
from slt_jax.media.extract_many import Job, extract_videos
from slt_jax.media.pool import Worker, started
from slt_jax.media.settings import DEFAULT_FPS, ExtractionSettings
from slt_jax.streams import MASKED, POSE
from slt_jax.training.memory import suit_heap
from slt_jax.training.start import apart_from_average, learned_to_translate, trained_with_v9_masks
from slt_jax.training.state_store import open_checkpoint
from slt_jax.training.text_side import data_of, text_side_of


@dataclass(frozen=True)
class TrainingStreams:
    """What the streams that a model was trained on were like; None if the training data is not at hand."""

    landmarks: str | None
    pose: str | None
    fps: float | None


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint that translates, before its weights and its tokenizer are loaded."""

    path: str | Path
    checkpoint: Checkpoint
    plan: Blueprint
    streams: TrainingStreams

    def defaults(self) -> dict[str, Any]:
        """The extraction settings that this model was trained on, as far as they are known."""
        landmarks = self.streams.landmarks or BY_NUMBER.get(str(self.plan.config.pose_landmarks))
        known = {"landmarks": landmarks, "pose": self.streams.pose, "fps": self.streams.fps or DEFAULT_FPS,
                 "crop_size": max(self.plan.config.image_size, 224)}  # fmt: skip
        return {name: value for name, value in known.items() if value is not None}

    def check(self, settings: ExtractionSettings) -> list[str]:
        """What to know before it translates what is extracted with `settings`, in lines.

        Raises UserError if it cannot read that.
        """
        wanted, given = self.plan.config.pose_landmarks, len(SETS[settings.landmarks])
        if wanted != given:
            known = ", ".join(name for name, points in SETS.items() if len(points) == wanted) or "none"
            raise UserError(
                f"--landmarks {settings.landmarks}: has {given} points, the model was trained with {wanted}; "
                f"sets of that size: {known}"
            )
        pairs = (("--landmarks", settings.landmarks, self.streams.landmarks), ("--pose", settings.pose,
                 self.streams.pose))  # fmt: skip
        found = [
            f"{flag} {given}: the model was trained on {trained} poses; expect worse text"
            for flag, given, trained in pairs if trained is not None and trained != given
        ]  # fmt: skip
        if trained_with_v9_masks(self.checkpoint.config):
            found.append(f"{self.path} was trained with v9's hand masks, so it is shown no hands")
        if note := apart_from_average(self.checkpoint):
            found.append(note)
        return found

    def open(
        self, *, num_beams: int = 4, tokenizer: str | None = None, target_lang: str | None = None
    ) -> "VideoTranslator":
        """The model with its tokenizer. It translates into `target_lang`, else into that of most of its training texts.

        Raises UserError if either cannot be read or they do not fit.
        """
        if num_beams < 1:
            raise UserError(f"--num-beams {num_beams}: must be at least 1")
        config = self.checkpoint.config
        _, entries = self.plan.structure()
        side = text_side_of(self.path, config, self.plan, tokenizer, target_lang)
        suit_heap(self.plan.config, 1)
        translator = Translator(self.plan, jax.tree.map(jnp.asarray, load_params(self.checkpoint, entries)))
        search = dataclasses.replace(side.search, num_beams=num_beams)
        said = partial(text_side_of, self.path, config, self.plan, side.tokenizer)
        return VideoTranslator(self, translator, side.tokenizer, search, side.start, said)


@dataclass(frozen=True)
class VideoTranslator:
    """A checkpoint ready to translate videos."""

    file: ModelFile
    translator: Translator
    tokenizer: Any
    search: Search
    start: RowStarts | None = None  # of the one row, where the decoder's configuration does not say it
    text_side: Callable[[str], TextSide] | None = None  # in another language

    @property
    def v9_hand_masks(self) -> bool:
        """Whether it was trained with v9's hand masks."""
        return trained_with_v9_masks(self.file.checkpoint.config)

    def translate(
        self, video: str | Path, settings: ExtractionSettings, *, window: float | None = None, progress: bool = False
    ) -> Iterator[Segment]:
        """Yield the segments of `video`, as `segments` does. Programs are compiled beside its extraction.

        That is in a process of its own, so the caller's module needs `if __name__ == "__main__"`. Raises UserError if
        the video cannot be read or shows nobody.
        """
        with (
            started(partial(Detector, settings.min_confidence)) as worker,
            extraction(video, settings, worker, progress=progress) as streams,
        ):
            self.compile()
            yield from self.segments(*streams(), window=window)

    def segments(
        self, folder: str | Path, frames: int, fps: float, *, window: float | None = None
    ) -> Iterator[Segment]:
        """Yield the segments of a video, whose streams are called `video` in `folder`, one after another.

        They are `window` seconds each, or cut at pauses if None. A video that fits the model is one segment.
        """
        files = scan(folders_under(folder), ["video"])["video"]
        with np.load(str(files.pose)) as archive:
            arrays = dict(archive)
        longest = self.translator.config.sequence_length
        if window is not None:
            longest = min(max(round(window * fps), 1), longest)
        motion = hand_motion(arrays)
        cuts = even(frames, longest) if window else at_pauses(motion, fps, longest)
        signed = [(first, end) for first, end in cuts if len(cuts) == 1 or motion[first:end].max() > STILL]

        def read(part: tuple[int, int]) -> dict[str, np.ndarray]:
            return self._read(part_of(files, arrays, *part, Path(folder)))

        for (first, end), clip in zip(signed, ahead(read, signed), strict=True):
            yield Segment(round(first / fps, 3), round(end / fps, 3), self._text(clip))

    def _read(self, files: ClipFiles) -> dict[str, np.ndarray]:
        config = self.translator.config
        return read_clip(files, sequence_length=config.sequence_length, image_size=config.image_size,
                         num_landmarks=config.pose_landmarks, v9_inputs=self.v9_hand_masks,
                         streams=config.streams)  # fmt: skip

    def compile(self) -> None:
        """Compile what every window needs, so that none waits for it."""
        config = self.translator.config
        streams = tuple(config.streams) if config.streams else None
        sizes = BatchSizes(1, config.sequence_length, config.image_size, config.pose_landmarks, streams=streams)
        batch = {name: jax.ShapeDtypeStruct(*described) for name, described in shapes(sizes, CLIP_ARRAYS).items()}
        self.translator.compile(batch, **self._options())

    def _options(self) -> dict[str, Any]:
        options = self.search.options()
        if self.start is not None:
            options["forced_bos_token_id"] = self.start.forced
            options |= {"decoder_start_token_id": self.start.first} if (self.start.first >= 0).all() else {}
        return options

    def _text(self, clip: Mapping[str, np.ndarray]) -> str:
        batch = {name: array[None] for name, array in clip.items()}
        tokens = self.translator.generate(batch, **self._options())
        if self.start is not None:
            tokens = without_prompt(tokens, self.start)
        return decode(self.tokenizer, tokens)[0]


def open_translator(
    path: str | Path,
    *,
    num_beams: int = 4,
    tokenizer: str | None = None,
    target_lang: str | None = None,
    trust_classes: bool = False,
) -> VideoTranslator:
    """`read_model` and `ModelFile.open` one after the other."""
    file = read_model(path, trust_classes=trust_classes)
    return file.open(num_beams=num_beams, tokenizer=tokenizer, target_lang=target_lang)


def read_model(path: str | Path, *, trust_classes: bool = False) -> ModelFile:
    """The model of a `.pt`, a work-dir or a folder of Orbax states.

    Raises UserError if it cannot be read or does not translate, and if it names classes of one's own, unless
    `trust_classes`.
    """
    checkpoint = open_checkpoint(path, trust_classes)
    plan = blueprint(checkpoint, trust=trust_classes)
    if plan.decoder is None:
        raise UserError(f"--checkpoint {path}: holds an encoder without a decoder, which cannot translate")
    if not learned_to_translate(checkpoint.config):
        raise UserError(
            f"--checkpoint {path}: was trained to align videos with texts, not to translate; train that from it "
            f"(slt-train --init-checkpoint)"
        )
    data = data_of(checkpoint.config)
    streams = training_streams(data.get(POSE.folder_key), data.get("packs"))
    if streams.pose is None and "architecture" not in checkpoint.rest:
        streams = dataclasses.replace(streams, pose="raw")  # v9's file, and v9's extraction knew nothing else
    return ModelFile(path, checkpoint, plan, streams)


@contextmanager
def extraction(
    video: str | Path, settings: ExtractionSettings, worker: Worker, *, progress: bool = False
) -> Iterator[Callable[[], tuple[str, int, float]]]:
    """Extract the streams of `video` with `worker`, beside what is done in the context.

    The call waits for them, and gives what `VideoTranslator.segments` takes; it raises UserError if the video cannot be
    read or shows nobody. They are deleted at the end of the context.
    """
    with tempfile.TemporaryDirectory(prefix="slt-translate-") as folder, ThreadPoolExecutor(1) as beside:
        under_way = beside.submit(extract_videos, [Job(video, "video")], folder, settings, 1, progress=progress,
                                  first=worker)  # fmt: skip

        def streams() -> tuple[str, int, float]:
            (record,) = under_way.result()
            if record["status"] != "ok":
                raise UserError(record["reason"])
            return folder, record["frames"], record["fps"]

        try:
            yield streams
        except BaseException:
            worker.end()  # nobody waits for the rest of the video
            raise


def in_language(model: VideoTranslator, language: str) -> VideoTranslator:
    """The same model with texts in another language. Raises UserError for one that its tokenizer lacks."""
    assert model.text_side is not None
    side = model.text_side(language)
    search = dataclasses.replace(side.search, num_beams=model.search.num_beams)
    return dataclasses.replace(model, search=search, start=side.start)


def training_streams(pose_dir: str | None, packs: str | None = None) -> TrainingStreams:
    """What one pose file of `packs` or `pose_dir` says about itself; raw poses if slt-extract did not write it."""
    try:
        first = _first_pose(pose_dir, packs)
        if first is None:
            return TrainingStreams(None, None, None)
        with first:
            arrays = read_arrays(first, ("landmark_set", "pose_space", "fps"), kinds=NUMBERS + TEXTS)
        if "landmark_set" not in arrays:
            return TrainingStreams(None, "raw", None)
        return TrainingStreams(str(arrays["landmark_set"]), str(arrays["pose_space"]), float(arrays["fps"]))
    except (*NPZ_ERRORS, TypeError):
        return TrainingStreams(None, None, None)


def _first_pose(pose_dir: str | None, packs: str | None) -> BinaryIO | None:
    if packs:
        pack = open_pack(packs, streams=())
        first = next((files for files in pack.files(pack.clips).values() if files.pose), None)
        return first.loaded().open_pose() if first else None
    with os.scandir(pose_dir or "") as entries:
        return next((open_regular(entry.path) for entry in entries if entry.name.endswith(".npz")), None)


def part_of(files: ClipFiles, arrays: Mapping[str, np.ndarray], first: int, end: int, folder: Path) -> ClipFiles:
    """The frames `first` to `end` of a clip as a clip of their own. Its pose file is written into `folder`."""
    kept = {}
    for name, frames in files.frames.items():
        chosen = np.flatnonzero((frames.numbers >= first) & (frames.numbers < end))
        names = tuple(os.path.basename(frames.path(files.video_id, int(place))) for place in chosen)
        kept[name] = Frames(frames.directory, frames.numbers[chosen] - first, names)
    pose = folder / "part.npz"
    read = ("pose", *(stream.missing_key for stream in MASKED))
    part: dict[str, Any] = {name: arrays[name][first:end] for name in read}
    np.savez(pose, **part)
    return ClipFiles(files.video_id, kept, str(pose))


def srt(segments: list[Segment]) -> str:
    """Segments as the text of an SRT file. Those without text are left out."""
    signed = [segment for segment in segments if segment.text]
    return "\n".join(
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{segment.text}\n"
        for number, segment in enumerate(signed, 1)
    )


def vtt(segments: list[Segment]) -> str:
    """Segments as the text of a WebVTT file. Those without text are left out."""
    cues = (
        f"\n{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{html.escape(segment.text, quote=False)}\n"
        for segment in segments
        if segment.text
    )
    return "WEBVTT\n" + "".join(cues)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
