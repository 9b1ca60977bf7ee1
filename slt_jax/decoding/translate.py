"""Turn the clips of a loader into texts. `slt-eval` does it with a whole split, training with a few of its clips.

decoder = compiled.structure.merge(params).decoder.model
batches = BatchDecoder(partial(compiled.encode, params), decoder, mesh, Search(max_length=128))
predictions = translate(loader, batches, tokenizer, limit=5)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from slt_jax.base.console import Progress
from slt_jax.data.loader import Batch, Loader
from slt_jax.data.text import IGNORE, RowStarts, decode
from slt_jax.decoding.generate import generate_tokens
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import clip_chrf
from slt_jax.decoding.search import Search
from slt_jax.runtime import hosts
from slt_jax.runtime.sharding import place_batch


@dataclass
class BatchDecoder:
    """Turn loaded batches into token ids.

    `encode` maps the batch, placed on `mesh`, to encoded frames (B, T, d_model) and which of them are real (B, T).
    `starts` says how rows of these languages begin (`Prompts.starts`), and what all must begin with is left out of the
    result. With `warm_up`, the first batch of a shape runs twice. The second run is timed, and what the first took
    longer is added to `compile_seconds`.
    """

    encode: Callable[[Mapping[str, Array]], tuple[Array, Array]]
    decoder: nnx.Module
    mesh: Mesh
    search: Search
    starts: Callable[[Sequence[str]], RowStarts | None] = lambda langs: None
    warm_up: bool = False
    compile_seconds: float = field(default=0.0, init=False)
    _warm: set[tuple] = field(default_factory=set, init=False)

    def __call__(self, batch: Batch) -> tuple[np.ndarray, float]:
        """Token ids (B, <= max_length) and the seconds from host memory to host memory."""
        shape = tuple(sorted((name, array.shape) for name, array in batch.arrays.items()))
        if not self.warm_up or shape in self._warm:
            return self._timed(batch)
        _, first = self._timed(batch)
        tokens, seconds = self._timed(batch)
        self._warm.add(shape)
        self.compile_seconds += max(first - seconds, 0.0)
        return tokens, seconds

    def _timed(self, batch: Batch) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        encoded, frames = self.encode(place_batch(batch.arrays, self.mesh))
        rows = self.starts(batch.langs)
        tokens = np.asarray(generate_tokens(self.decoder, encoded, frames, self.search, rows))
        tokens = tokens if rows is None else without_prompt(tokens, rows)
        return tokens, time.perf_counter() - start


def without_prompt(tokens: np.ndarray, rows: RowStarts) -> np.ndarray:
    """Token ids (B, length) with -100 for those that each row had to say first."""
    said = np.pad(rows.forced >= 0, ((0, 0), (1, tokens.shape[1])))[:, : tokens.shape[1]]
    return np.where(said, IGNORE, tokens)


def translate(
    loader: Loader,
    batches: BatchDecoder,
    tokenizer,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Prediction]:
    """Translate the clips of a loader in its order, each once, at most `limit`. Filler rows are left out.

    Ends early if `stopped()` says so.
    """
    predictions: list[Prediction] = []
    loaded = loader.epoch()
    for batch in progress.wait(loaded) if progress else loaded:
        tokens, seconds = batches(batch)
        valid, of_process = np.flatnonzero(batch.arrays["valid"]), []
        for row, text in zip(valid, decode(tokenizer, tokens[valid]), strict=True):
            reference, latency = batch.texts[row], 1000 * seconds / len(valid)
            chrf = clip_chrf(reference, text)
            of_process.append(Prediction(batch.video_ids[row], reference, text, latency, chrf))
        predictions += [Prediction(**p) for p in hosts.gathered(list(map(asdict, of_process)))]
        if progress:
            progress.update(len(valid))
        if stopped() or (limit is not None and len(predictions) >= limit):
            break
    return predictions[:limit]
