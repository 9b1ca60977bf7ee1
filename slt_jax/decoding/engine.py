"""The compiled half of live translation: frames to features, windows of features to tokens, for any number of streams.

There is one shape of each program for each batch size, so that everything can be compiled before the first signer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from convert.checkpoint import Blueprint
from slt_jax.config import ModelConfig
from slt_jax.data.schema import CLIP_ARRAYS, BatchSizes
from slt_jax.data.text import IGNORE, RowStarts, decode, end_token
from slt_jax.decoding.generate import beginnings, find_tokens, generate_tokens
from slt_jax.decoding.search import ResolvedSearch, Search
from slt_jax.decoding.token_rules import Beginnings
from slt_jax.errors import UserError
from slt_jax.models.params import Structure
from slt_jax.streams import HANDS, chosen

LiveFrames = Mapping[str, np.ndarray]  # one signer's next frames: the arrays of a batch without their first axis


class Model(Protocol):
    """What an engine needs of a `Translator`."""

    config: ModelConfig
    blueprint: Blueprint
    params: Mapping[str, ArrayLike]
    structure: Structure


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, and the probability that the model gives each after those before it."""

    ids: list[int]
    probabilities: list[float]


@dataclass(frozen=True)
class Window:
    """The features (n, d_model) of the frames of a sentence, and the tokens that its text must begin with."""

    features: np.ndarray
    settled: tuple[int, ...] = ()


class Engine:
    """One model at the service of any number of streams.

    `chunk` frames are looked at together, `fps` of them are a second, and `batch_sizes` are how many chunks or windows
    are computed at once: what is fewer is filled up. `start` says how texts begin, where the decoder's configuration
    does not. With `v9_hand_masks` no hand is shown, as in v9's training. Threads may share an engine.
    Raises UserError for settings out of range and a model without a decoder.
    """

    def __init__(
        self,
        translator: Model,
        tokenizer: Any,
        *,
        fps: float,
        search: Search,
        start: RowStarts | None = None,
        batch_sizes: Sequence[int] = (1,),
        chunk: int = 8,
        v9_hand_masks: bool = False,
    ):
        if translator.blueprint.decoder is None:
            raise UserError("this checkpoint holds an encoder without a decoder: it cannot translate a stream")
        if not 0 < fps <= 1000:
            raise UserError(f"fps {fps:g}: must be above 0 and at most 1000")
        if chunk < 1 or not batch_sizes or min(batch_sizes) < 1:
            raise UserError(f"chunk {chunk} and batch_sizes {tuple(batch_sizes)}: must be at least 1")
        self.config, self.tokenizer, self.fps, self.chunk = translator.config, tokenizer, fps, chunk
        self.batch_sizes, self.search = tuple(sorted({*batch_sizes})), search
        self.lock = RLock()
        self._structure, self._params = translator.structure, translator.params
        self._decoder: nnx.Module = self._structure.merge(self._params).decoder.model
        self._hidden = frozenset(stream.mask for stream in HANDS) if v9_hand_masks else frozenset()
        self.arrays = {a.name: a for a in CLIP_ARRAYS if a.stream in chosen(self.config.streams)}
        self.own_generate = hasattr(self._decoder, "generate")
        self._first, self._room = -1, 0
        self._resolved: ResolvedSearch | None = None  # None where the decoder has a search of its own
        self._prompt: tuple[int, ...] = ()
        self._ends: tuple[int, ...] = (end_token(tokenizer),)
        if not self.own_generate:
            self._resolved = resolved = search.resolved(getattr(self._decoder, "config", {}))
            self._prompt = () if resolved.forced_bos is None else (resolved.forced_bos,)
            self._ends, self._room = resolved.eos, resolved.max_length - 1
        if start is not None:
            self._first, (row, *_) = int(start.first[0]), start.forced
            self._prompt = tuple(int(token) for token in row if token >= 0)
        self._start = start

    def compile(self) -> None:
        """Compile every program, so that no signer waits for it."""
        sizes = BatchSizes(1, 1, self.config.image_size, self.config.pose_landmarks)
        frames = {name: np.zeros(array.shape(sizes)[1:], array.dtype) for name, array in self.arrays.items()}
        for size in self.batch_sizes:
            features = self.features([frames] * size)
            self.tokens([Window(features[0])] * size)

    def features(self, chunks: Sequence[LiveFrames]) -> list[np.ndarray]:
        """The features (n, d_model) of each of `chunks`, of 1 to `chunk` frames: what a frame is by itself.

        Images are uint8 (n, H, W, 3), or float32 of the same shape and normalised.
        """
        found: dict[int, np.ndarray] = {}
        for floats in (False, True):
            places = [n for n, frames in enumerate(chunks) if _has_floats(frames) == floats]
            for some, size in self._batches(places):
                inputs = {}
                for array in self.arrays.values():
                    rows = [chunks[place][array.name] for place in some]
                    kind = np.float32 if floats and array.images else array.dtype
                    filled = np.zeros((size, self.chunk, *rows[0].shape[1:]), kind)
                    for row, values in zip(filled, rows, strict=False):
                        row[: len(values)] = True if array.name in self._hidden else values
                    inputs[array.name] = filled
                with self.lock:
                    seen = np.asarray(_frames(self._structure, self._params, inputs))
                first = next(iter(self.arrays))
                found |= {place: row[: len(chunks[place][first])] for place, row in zip(some, seen, strict=False)}
        return [found[place] for place in range(len(chunks))]

    def tokens(self, windows: Sequence[Window]) -> list[Tokens]:
        """The tokens of each window's text, those that it must begin with included; no prompt, no end.

        A decoder with a `generate` of its own is sure of everything.
        """
        found: list[Tokens] = []
        for some, size in self._batches(range(len(windows))):
            rows = [windows[place] for place in some]
            rows += rows[:1] * (size - len(rows))  # which takes no more steps than the text itself
            with self.lock:
                tokens, probabilities = self._tokens(rows)
            pairs = zip(tokens.tolist(), probabilities.tolist(), strict=True)
            found += [self._bare(*pair) for pair in pairs][: len(some)]
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return decode(self.tokenizer, np.array([tokens], np.int32).reshape(1, -1))[0]

    def beginnings(self, tokens: Sequence[int]) -> list[str]:
        """The texts of the first token, the first two, and so on."""
        rows = np.tril(np.ones((len(tokens), len(tokens)), bool))
        return decode(self.tokenizer, np.where(rows, np.array(tokens, np.int32), IGNORE))

    def _tokens(self, rows: Sequence[Window]) -> tuple[np.ndarray, np.ndarray]:
        length = self.config.sequence_length
        frames = np.zeros((len(rows), length, rows[0].features.shape[1]), np.float32)
        mask = np.zeros((len(rows), length), bool)
        for row, window in enumerate(rows):
            shown = window.features[:length]
            frames[row, : len(shown)], mask[row, : len(shown)] = shown, True
        encoded = _encode(self._structure, self._params, frames, mask)
        if self._resolved is None:
            tokens = generate_tokens(self._decoder, encoded, mask, self.search, self._start)
            return tokens, np.ones((len(rows), tokens.shape[1] - 1), np.float32)
        first, forced = np.full(len(rows), self._first, np.int32), np.full((len(rows), self._room), -1, np.int32)
        for row, window in enumerate(rows):
            said = (*self._prompt, *window.settled)[: self._room]
            forced[row, : len(said)] = said
        starts = beginnings(self._resolved, RowStarts(first, forced))
        tokens, sure = _texts(self._structure, self._resolved, self._params, encoded, mask, starts)
        return np.asarray(tokens), np.asarray(sure)

    def _bare(self, tokens: list[int], probabilities: list[float]) -> Tokens:
        """Without what comes before the text and after it. Probabilities begin with that of the second token."""
        first = 1 + len(self._prompt)
        end = next((place for place, token in enumerate(tokens) if place >= first and token in self._ends), len(tokens))
        return Tokens(tokens[first:end], probabilities[first - 1 : end - 1])

    def _batches(self, places: Sequence[int]) -> list[tuple[Sequence[int], int]]:
        """`places` in parts, each with the batch size that holds it with the fewest fillers."""
        batches, first = [], 0
        while (left := len(places) - first) > 0:
            size = next((size for size in self.batch_sizes if size >= left), self.batch_sizes[-1])
            batches.append((places[first : first + size], size))
            first += size
        return batches


def _has_floats(frames: LiveFrames) -> bool:
    return any(frames[array.name].dtype != np.uint8 for array in CLIP_ARRAYS if array.images and array.name in frames)


@partial(jax.jit, static_argnums=0)
def _frames(structure: Structure, params: Mapping[str, Array], inputs: Mapping[str, Array]) -> Float[Array, "b t d"]:
    with jax.default_matmul_precision("highest"):
        return structure.merge(params).encoder.frames(inputs).astype(jnp.float32)


@partial(jax.jit, static_argnums=0)
def _encode(
    structure: Structure, params: Mapping[str, Array], frames: Float[Array, "b t d"], pad_mask: Bool[Array, "b t"]
) -> Float[Array, "b t d"]:
    with jax.default_matmul_precision("highest"):
        return structure.merge(params).encoder.in_context(frames, pad_mask)


@partial(jax.jit, static_argnums=(0, 1))
def _texts(
    structure: Structure,
    search: ResolvedSearch,
    params: Mapping[str, Array],
    encoded: Float[Array, "b t d"],
    pad_mask: Bool[Array, "b t"],
    starts: Beginnings,
) -> tuple[Int[Array, "b s"], Float[Array, "b s-1"]]:
    """Tokens, and the probability of each but the first after those before it."""
    with jax.default_matmul_precision("highest"):
        decoder = structure.merge(params).decoder.model
        tokens, _ = find_tokens(decoder, search, encoded, pad_mask, starts)
        logits = decoder(encoded, pad_mask, tokens[:, :-1], None)
        return tokens, jnp.take_along_axis(jax.nn.softmax(logits), tokens[:, 1:, None], axis=-1)[..., 0]
