"""Frozen backbones see every frame once: check whether they can, and compute the features missing on disk."""

import hashlib
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from slt_jax.base.console import Progress, say
from slt_jax.config import Config
from slt_jax.data.clip_augment import PIXELS
from slt_jax.data.clip_files import BadClip, ClipFiles
from slt_jax.data.feature_cache import Features, Stale, fingerprint, open_folder
from slt_jax.data.loader import Loader
from slt_jax.errors import UserError
from slt_jax.models.images import normalise
from slt_jax.models.params import Params, Structure
from slt_jax.runtime.sharding import Layout, place_batch
from slt_jax.streams import BY_NAME, IMAGES, Stream
from slt_jax.training.state import TrainState

# Images that go through a backbone together, a device; fewer where a training batch has fewer. On a CPU few stay in its
# caches: 128 take 2.2 times the CPU time of 8 by 8 (ViT-S/14, 224 px, float32).
IMAGES_AT_ONCE, CPU_IMAGES_AT_ONCE = 128, 8
DECODED = 64  # images decoded side by side


def read_from_cache(
    config: Config,
    folder: Path,
    structure: Structure,
    state: TrainState,
    layout: Layout,
    loaders: Sequence[Loader],
    stopped: Callable[[], bool],
) -> None:
    """Have the loaders read features of frozen backbones if `data.feature_cache` allows it, and compute missing ones.

    `folder` is where "auto" keeps them. Ends early if `stopped()` says so; what is done is kept. Raises UserError if a
    folder was asked for and not all backbones are frozen, or if it cannot be written.
    """
    asked, skip = config.data.feature_cache, config.data.skip_bad_clips
    if asked == "none":
        return
    if reason := _obstacle(config, structure, state):
        if asked != "auto":
            raise UserError(f"--feature-cache {asked}: {reason}")
        return
    folder = folder if asked == "auto" else Path(asked).expanduser()
    params = state.params
    prefixes = tuple(stream.backbone_prefix for stream in IMAGES)
    params |= layout.gather({path: array for path, array in params.items() if path.startswith(prefixes)})
    programs = {stream.name: _program(structure, stream) for stream in IMAGES}
    kinds, settings = _describe(programs, params, config.model.image_size)
    subfolder, differences = open_folder(folder, settings)
    features = Features(subfolder, kinds)

    wanted: dict[str, tuple[ClipFiles, bool]] = {}
    for loader in loaders:
        for files in loader.files:
            flips = wanted[files.video_id][1] if files.video_id in wanted else False
            wanted[files.video_id] = files, flips or loader.flips
    missing = _missing(features, list(wanted.values()), stopped, skip_bad_clips=skip)
    _announce(folder, len(wanted), missing, differences)
    images = CPU_IMAGES_AT_ONCE if jax.default_backend() == "cpu" else IMAGES_AT_ONCE
    rows = min(images * layout.mesh.shape["data"], config.data.batch_size * config.model.sequence_length)
    compute = _Compute(programs, params, layout.mesh, rows, config.model.image_size)
    _fill(features, missing, compute, stopped, skip_bad_clips=skip)
    for loader in loaders:
        loader.read_features(features)


def features_are_read(config: Config, structure: Structure, state: TrainState) -> bool:
    """Whether training sees features of frozen backbones instead of images."""
    return config.data.feature_cache != "none" and _obstacle(config, structure, state) is None


def _obstacle(config: Config, structure: Structure, state: TrainState) -> str | None:
    """Why features cannot be computed once and for all; None if they can."""
    if config.training.teacher:
        return "the teacher (training.teacher) sees the pictures; leave out the cache"
    if changed := [key for key in PIXELS if config.data.augmentation.get(key)]:
        return f"data.augmentation.{changed[0]} changes the pictures, so their features change; leave out the cache"
    if jax.process_count() > 1:
        return f"features are kept by runs of one process, and here are {jax.process_count()}; leave out the cache"
    if not all(any(path.startswith(stream.backbone_prefix) for path in state.params) for stream in IMAGES):
        return "features are kept for models of all streams, and this one has some (model.streams); leave out the cache"
    for stream in IMAGES:
        backbone = stream.backbone_key
        if any(path.startswith(stream.backbone_prefix) for path in state.trained):
            flag = f"--{stream.freeze_key.replace('_', '-')}"
            return f"{backbone} trains, so its features change; give {flag}, or leave out the cache"
        if _normalises_by_batch(structure, state, stream):
            return f"{backbone} normalises over a batch, so no image has features of its own; leave out the cache"
    return None


def _normalises_by_batch(structure: Structure, state: TrainState, stream: Stream) -> bool:
    def look(params: Params) -> None:
        modules = (module for _, module in nnx.iter_modules(structure.merge(params).encoder.backbone(stream)))
        batch_norms.extend(module for module in modules if isinstance(module, nnx.BatchNorm))

    batch_norms: list[nnx.BatchNorm] = []
    jax.eval_shape(look, state.params)
    return not all(norm.use_running_average for norm in batch_norms)


def _program(structure: Structure, stream: Stream) -> jax.stages.Wrapped:
    """(params, images uint8 (N, H, W, 3)) -> features (N, width), as the training step computes them."""

    def features(params: Params, images: Array) -> Array:
        return structure.merge(params).encoder.backbone(stream)(normalise(images))

    return jax.jit(features)


def _describe(
    programs: Mapping[str, jax.stages.Wrapped], params: Params, image_size: int
) -> tuple[dict[str, tuple[int, np.dtype]], dict[str, Any]]:
    """Width and dtype of each stream's features, and everything that they depend on except the clip."""
    kinds: dict[str, tuple[int, np.dtype]] = {}
    settings: dict[str, Any] = {"format": 1, "image size": image_size}
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), params)
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.uint8)
    for stream in IMAGES:
        lowered = programs[stream.name].lower(shapes, image)
        width, dtype = lowered.out_info.shape[1], np.dtype(lowered.out_info.dtype)
        kinds[stream.name] = width, dtype
        settings[f"precision of {stream.key}"] = dtype.name
        settings[f"weights of {stream.key}"] = _weights_hash(params, stream.backbone_prefix)
        # The whole computation, a custom backbone's code and the normalisation of images included.
        settings[f"program of {stream.key}"] = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    return kinds, settings


def _weights_hash(params: Mapping[str, Array], prefix: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in params if path.startswith(prefix)):
        array = np.ascontiguousarray(params[path])
        digest.update(f"{path}\0{array.dtype}\0{array.shape}\n".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Missing:
    files: ClipFiles
    reasons: dict[bool, str]  # mirrored or not: why the file of that kind is to be computed


def _missing(
    features: Features, wanted: Sequence[tuple[ClipFiles, bool]], stopped: Callable[[], bool], *, skip_bad_clips: bool
) -> list[_Missing]:
    """The clips without usable files, and why. Every file is read, as a damaged one must not turn up later."""
    missing = []
    with Progress("looking at kept features", len(wanted), unit="clip") as progress:
        for files, flips in wanted:
            if stopped():
                break
            progress.update(1)
            try:
                features.fingerprints[files.video_id] = fingerprint(files)
            except BadClip as error:
                if not skip_bad_clips:
                    raise
                features.problems[files.video_id] = str(error)
                continue
            reasons = {}
            for mirrored in (False, True)[: 1 + flips]:
                try:
                    features.read(files, mirrored)
                except Stale as error:
                    reasons[mirrored] = str(error)
            if reasons:
                missing.append(_Missing(files, reasons))
    return missing


def _announce(folder: Path, clips: int, missing: Sequence[_Missing], differences: Sequence[str]) -> None:
    text = f"frozen backbones: features of {clips - len(missing)} clips are in {folder}"
    if missing:
        reasons = Counter(next(iter(clip.reasons.values())) for clip in missing)
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        text += f", of {len(missing)} are computed ({listed})"
    if differences:
        # Where the rest is the same, only the program tells them apart: another JAX, or a backbone's own code.
        named = [name for name in differences if not name.startswith("program")] or differences
        text += f"; those of earlier runs do not fit: other {', '.join(named)}"
    say(text)


# --- the pass over the frames -------------------------------------------------------------------------------------


@dataclass
class _Clip:
    """A clip that is being computed."""

    files: ClipFiles
    arrays: dict[bool, dict[str, np.ndarray]]  # plain and mirrored: the features of each stream
    left: int  # images that have no features yet


@dataclass
class _Compute:
    """Sends images of any number of clips through the backbones, `rows` at a time, and puts features in place."""

    programs: Mapping[str, jax.stages.Wrapped]
    params: Params
    mesh: Mesh
    rows: int
    image_size: int
    _images: dict[str, np.ndarray] = field(default_factory=dict)
    _places: dict[str, list[tuple[_Clip, np.ndarray, int]]] = field(default_factory=dict)
    _running: deque[tuple[Array, list]] = field(default_factory=deque)

    def add(self, stream: str, image: np.ndarray, clip: _Clip, out: np.ndarray, row: int) -> Iterator[_Clip]:
        """The image's features by the backbone of `stream` become `out[row]`; gives the clips that are whole now."""
        if stream not in self._images:
            # New every time: a CPU device may use the memory where it is.
            self._images[stream] = np.zeros((self.rows, self.image_size, self.image_size, 3), np.uint8)
            self._places[stream] = []
        places = self._places[stream]
        self._images[stream][len(places)] = image
        places.append((clip, out, row))
        if len(places) == self.rows:
            yield from self._start(stream)

    def flush(self) -> Iterator[_Clip]:
        """The rest."""
        for stream in list(self._images):
            yield from self._start(stream)
        yield from self._collect(keep=0)

    def _start(self, stream: str) -> Iterator[_Clip]:
        images = place_batch({"images": self._images.pop(stream)}, self.mesh)["images"]
        self._running.append((self.programs[stream](self.params, images), self._places.pop(stream)))
        yield from self._collect(keep=1)  # while the device computes, the next images are decoded

    def _collect(self, keep: int) -> Iterator[_Clip]:
        while len(self._running) > keep:
            features, places = self._running.popleft()
            for feature, (clip, out, row) in zip(np.asarray(features), places, strict=False):
                out[row] = feature
                clip.left -= 1
                if clip.left == 0:
                    yield clip


def _fill(
    features: Features,
    missing: Sequence[_Missing],
    compute: _Compute,
    stopped: Callable[[], bool],
    *,
    skip_bad_clips: bool,
) -> None:
    def keep(done: Iterator[_Clip]) -> None:
        for clip in done:
            for mirrored, arrays in clip.arrays.items():
                features.write(clip.files, mirrored, arrays)
            progress.update(1)

    if not missing:
        return
    with Progress("features", len(missing), unit="clip") as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for wanted in missing:
            arrays = {
                mirrored: {
                    stream: np.empty(shape, features.kinds[stream][1])
                    for stream, shape in features.shapes(wanted.files, mirrored).items()
                }
                for mirrored in wanted.reasons
            }
            try:
                files = wanted.files.loaded()
                clip = _Clip(files, arrays, sum(len(a) for kind in arrays.values() for a in kind.values()))
                for stream, row, image in _images(files, compute.image_size, pool):
                    if stopped():
                        return
                    for mirrored in clip.arrays:
                        seen, backbone = (image[:, ::-1], BY_NAME[stream].mirror) if mirrored else (image, stream)
                        keep(compute.add(backbone, seen, clip, clip.arrays[mirrored][backbone], row))
            except BadClip as error:
                if not skip_bad_clips:
                    raise
                features.problems[wanted.files.video_id] = str(error)
        keep(compute.flush())


def _images(files: ClipFiles, size: int, pool: ThreadPoolExecutor) -> Iterator[tuple[str, int, np.ndarray]]:
    """(stream, row, image) of all streams, in row 0 a black one. Raises BadClip."""

    def decode(place: tuple[str, int]) -> tuple[str, int, np.ndarray]:
        stream, row = place
        image = np.zeros((size, size, 3), np.uint8)
        if row:
            files.frames[stream].decode(files.video_id, row - 1, image)
        return stream, row, image

    places = ((name, row) for name, frames in files.frames.items() for row in range(1 + len(frames.numbers)))
    while some := list(itertools.islice(places, DECODED)):
        yield from pool.map(decode, some)
