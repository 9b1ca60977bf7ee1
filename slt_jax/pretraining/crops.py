"""Which crops there are: in corpora, folders of pictures and packs, thinned, always in the same order.

A folder called face, hand_l or hand_r says by its name what its pictures show, wherever it is.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slt_jax.base.console import Progress, say
from slt_jax.data.clip_files import FRAME, BadClip, ClipFiles, Frames, frame_number
from slt_jax.data.decode import IMAGE_ERRORS, open_image
from slt_jax.data.pack_index import INDEX
from slt_jax.data.packs import open_pack
from slt_jax.data.regular import read_regular
from slt_jax.errors import UserError, shortened, shown
from slt_jax.pretraining.settings import DatasetSettings
from slt_jax.streams import HANDS, IMAGES

LEFT = "hand_l"  # whose pictures are mirrored
KINDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
THUMBNAIL = 32  # side in pixels of what `min_difference` compares
_FLAG = "--train-dir"
MEND = "put a whole picture in its place, or start again without it"


@dataclass(frozen=True)
class Video:
    """Frames of one video, or pictures of one folder. Those of a packed clip are in `packed`, under `stream`."""

    name: str
    frames: Frames
    mirrored: bool = False  # shown mirrored, as left hands are
    loose: bool = False  # pictures that do not follow each other
    packed: ClipFiles | None = None
    stream: str = ""

    def __len__(self) -> int:
        return len(self.frames.numbers)

    def loaded(self) -> Frames:
        """The frames, with what the files hold if they are packed. Raises UserError."""
        if self.packed is None:
            return self.frames
        try:
            held = self.packed.loaded().frames[self.stream]
        except BadClip as error:
            raise UserError(f"{error}; {MEND}") from None
        chosen = np.searchsorted(held.numbers, self.frames.numbers).tolist()
        assert held.data is not None
        return replace(self.frames, data=tuple(held.data[place] for place in chosen))

    def thinned(self, stride: int, min_difference: float) -> "Video":
        """Every `stride`th frame that differs by at least `min_difference` from the last one taken.

        Raises UserError for a picture that cannot be read.
        """
        if self.loose:
            return self
        kept = self._only(range(0, len(self), stride)) if stride > 1 else self
        if not min_difference:
            return kept
        frames, places, last = kept.loaded(), [], np.full((), np.inf, np.float32)
        for place in range(len(kept)):
            seen = _thumbnail(frames.path(self.name, place), None if frames.data is None else frames.data[place])
            if np.abs(seen - last).mean() >= min_difference:
                places.append(place)
                last = seen
        return kept._only(places)

    def _only(self, places: Sequence[int]) -> "Video":
        names = self.frames.names
        chosen = None if names is None else tuple(names[place] for place in places)
        return replace(self, frames=replace(self.frames, numbers=self.frames.numbers[list(places)], names=chosen))


class Crops:
    """Pictures by number, see `find_crops`. Raises UserError if there are fewer than two."""

    def __init__(self, videos: Sequence[Video]):
        self.videos = tuple(video for video in videos if len(video))
        self._ends = np.cumsum([len(video) for video in self.videos])
        if len(self) < 2:
            found = f"one picture, {self.name(0)}" if len(self) else "no picture"
            raise UserError(f"{_FLAG}: {found}; pre-training compares pictures, give it thousands")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def fingerprint(self) -> str:
        """SHA-256 of the names of all pictures in their order; their contents would have to be read."""
        digest = hashlib.sha256()
        for video in self.videos:
            names = video.frames.names or ()
            words = (os.path.basename(video.name), video.stream, *names)
            digest.update(os.fsencode("\n".join(words)) + video.frames.numbers.tobytes())
        return digest.hexdigest()

    def _place(self, number: int) -> tuple[Video, int]:
        owner = int(np.searchsorted(self._ends, number, side="right"))
        video = self.videos[owner]
        return video, number - int(self._ends[owner]) + len(video)

    def name(self, number: int) -> str:
        """The file of a crop."""
        video, place = self._place(number)
        return video.frames.path(video.name, place)

    def mirrored(self, number: int) -> bool:
        """Whether `decode` mirrors it."""
        return self._place(number)[0].mirrored

    def decode(self, number: int, out: np.ndarray) -> None:
        """Decode a crop into `out`, uint8 (S, S, 3). Raises UserError if it cannot be read."""
        video, place = self._place(number)
        if video.packed is not None:
            video = video._only([place])
            place = 0
        try:
            video.loaded().decode(video.name, place, out)
        except BadClip as error:
            raise UserError(f"{error}; {MEND}") from None
        if video.mirrored:
            out[:] = out[:, ::-1].copy()


def find_crops(folders: Sequence[str | Path], stream: str, dataset: DatasetSettings) -> Crops:
    """The crops of a stream (face, hand_l, hand_r, or hands for both) in corpora, folders of pictures and packs.

    Whatever is in no folder named after a stream is taken if nothing is. Videos are thinned as `dataset` says, which
    also says whether left hands are mirrored. Raises UserError for a folder that has no such crop.
    """
    if not folders:
        raise UserError(f"{_FLAG} is not given: name folders of crops")
    wanted = {"hands": tuple(hand.name for hand in HANDS)}.get(stream, (stream,))
    if not set(wanted) <= {row.name for row in IMAGES}:
        raise UserError(f"--stream {shown(stream)}: choose {', '.join(row.name for row in IMAGES)} or hands")
    if dataset.stride < 1 or not 0 <= dataset.min_difference <= 255:
        raise UserError("--stride must be at least 1 and --min-difference between 0 and 255")
    videos, places = [], Counter(os.path.realpath(folder) for folder in folders)
    for folder in map(str, folders):
        if places[os.path.realpath(folder)] > 1:
            raise UserError(f"{_FLAG} {folder} is given twice")
        packed = "://" in folder or os.path.exists(os.path.join(folder, INDEX))
        videos += (_of_pack if packed else _of_folder)(folder, wanted)
    videos = [replace(video, mirrored=video.stream == LEFT and dataset.mirror_left) for video in videos]
    found, taken = sum(map(len, videos)), Crops(_thinned(videos, dataset))
    _tell(taken, found, dataset)
    return taken


def _tell(crops: Crops, found: int, dataset: DatasetSettings) -> None:
    videos = sum(not video.loose for video in crops.videos)
    mirrored = sum(len(video) for video in crops.videos if video.mirrored)
    facts = [f"{len(crops)} crops" + (f" of {videos} videos" if videos else "")]
    if dataset.stride > 1 or dataset.min_difference:
        facts.append(f"thinned from {found} (--stride {dataset.stride}, --min-difference {dataset.min_difference:g})")
    if mirrored:
        facts.append(f"{mirrored} of them left hands, which are mirrored (--mirror-left)")
    say(", ".join(facts))


def _thinned(videos: Sequence[Video], dataset: DatasetSettings) -> list[Video]:
    """The thinned videos, several at a time."""
    if not dataset.min_difference:
        return [video.thinned(dataset.stride, 0) for video in videos]
    thinned = []
    with Progress("thinning", len(videos), unit="video") as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = [pool.submit(video.thinned, dataset.stride, dataset.min_difference) for video in videos]
        try:
            for video, future in zip(videos, waiting, strict=True):
                thinned.append(future.result())
                progress.update(len(video))
        except BaseException:  # so that neither Ctrl-C nor an error waits for the rest
            pool.shutdown(cancel_futures=True)
            raise
    return thinned


def _thumbnail(path: str, data: memoryview | None) -> np.ndarray:
    """A picture in grey, float32 (THUMBNAIL, THUMBNAIL) in 0 to 255. Raises UserError."""
    try:
        with open_image(read_regular(path) if data is None else data) as image:
            image.draft("L", (THUMBNAIL, THUMBNAIL))  # a JPEG is decoded no larger than needed
            return np.asarray(image.convert("L").resize((THUMBNAIL, THUMBNAIL)), np.float32)
    except IMAGE_ERRORS as error:
        raise UserError(f"{path}: cannot be read as an image ({shortened(str(error))}); {MEND}") from None


# --- where they are -----------------------------------------------------------------------------------------------


def _of_pack(folder: str, wanted: Sequence[str]) -> list[Video]:
    try:
        pack = open_pack(folder, wanted)
    except UserError as error:
        raise UserError(str(error).replace("--packs", _FLAG, 1)) from None
    clips = [files for _, files in sorted(pack.files(pack.clips).items()) if files.record and not files.record.bad]
    videos = [
        Video(files.video_id, files.frames[name], packed=files, stream=name)
        for name in wanted
        for files in clips
        if len(files.frames[name].numbers)
    ]
    if not videos:
        held = {
            name: sum(len(files.frames[name].numbers) for files in clips) for name in _PICTURED if name in pack.streams
        }
        raise UserError(f"{_FLAG} {folder}: the pack has no frame of {' or '.join(wanted)}{_but(held)}")
    return videos


def _of_folder(folder: str, wanted: Sequence[str]) -> list[Video]:
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "no such folder"
        raise UserError(f"{_FLAG} {folder}: {what}")
    called = (
        os.path.basename(path(folder)) for path in (os.path.abspath, os.path.realpath)
    )  # of a link, its own first
    own = next((name for name in called if name in _PICTURED), "")
    streams: Counter[str] = Counter()
    others: Counter[str] = Counter()
    videos = []
    for directory, stream, names in _walk(folder, own):
        pictures: list[str] = []
        rest: list[str] = []
        for name in names:
            (pictures if name.lower().endswith(KINDS) else rest).append(name)
        others.update(os.path.splitext(name)[1].lower() or "other" for name in rest)
        streams[stream] += len(pictures)
        videos += [replace(video, stream=stream) for video in _group(directory, pictures)]
    named = any(streams)
    chosen = [video for video in videos if video.stream in (wanted if named else ("",))]
    if chosen:
        return chosen
    if named:
        raise UserError(f"{_FLAG} {folder}: has no picture of {' or '.join(wanted)}{_but(streams)}")
    held = ", ".join(f"{count} {kind} file{'s' * (count > 1)}" for kind, count in others.most_common(3))
    raise UserError(f"{_FLAG} {folder}: holds no pictures but {held or 'nothing'}; they end in {', '.join(KINDS[:4])}")


_PICTURED = tuple(row.name for row in IMAGES)


def _but(held: Mapping[str, int]) -> str:
    others = ", ".join(name for name in _PICTURED if held.get(name))
    return f", but of {others}; see --stream" if others else ""


def _walk(folder: str, stream: str) -> Iterator[tuple[str, str, list[str]]]:
    """Every folder with its stream and the names of its files, in order. Links are followed; hidden ones are not."""
    waiting, seen = [(folder, stream)], set()
    while waiting:
        directory, stream = waiting.pop()
        status = os.stat(directory)
        if (place := (status.st_dev, status.st_ino)) in seen:
            continue
        seen.add(place)
        files: list[str] = []
        below: list[str] = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        (below if entry.is_dir() else files).append(entry.name)
        except OSError as error:
            raise UserError(f"{_FLAG} {directory}: cannot be read ({error.strerror})") from None
        yield directory, stream, sorted(files)
        for name in sorted(below, reverse=True):
            waiting.append((os.path.join(directory, name), name if name in _PICTURED else stream))


def _group(directory: str, names: Sequence[str]) -> Iterator[Video]:
    """The pictures of a folder: the frames of each video, then those that are none."""
    frames: dict[str, list[tuple[int, str]]] = {}
    loose = []
    for name in names:
        if match := FRAME.fullmatch(name):
            frames.setdefault(match[1], []).append((frame_number(directory, match), name))
        else:
            loose.append(name)
    for video_id, found in frames.items():
        found.sort()
        numbers = np.array([number for number, _ in found], np.int64)
        usual = all(name == f"{video_id}_f{number:06d}.jpg" for number, name in found)
        yield Video(video_id, Frames(directory, numbers, None if usual else tuple(name for _, name in found)))
    if loose:
        yield Video(directory, Frames(directory, np.arange(len(loose)), tuple(loose)), loose=True)
