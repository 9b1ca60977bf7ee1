"""Greedy and beam search that give exactly the tokens of HuggingFace's `generate` (transformers 5.23).

One compiled function per model structure, shape and search: weights are arguments, the loop over the tokens runs on the
device, and only the final trimming happens on the host.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Int32, Shaped

from slt_jax.data.text import RowStarts
from slt_jax.decoding.beam_search import beam_search
from slt_jax.decoding.search import ResolvedSearch, Search
from slt_jax.decoding.steps import Steps, search_in_stages, steps_of
from slt_jax.decoding.token_rules import Beginnings, is_eos, restrict
from slt_jax.errors import UserError
from slt_jax.models.seq2seq import Cache, FrameMask, Frames


def generate_tokens(
    model: nnx.Module,
    encoded: Float[Array | np.ndarray, "b t d_model"],
    encoder_mask: Shaped[Array | np.ndarray, "b t"] | None,
    search: Search,
    rows: RowStarts | None = None,
) -> Int[np.ndarray, "b length"]:
    """Token ids from the decoder's own `generate` if it has one, else from ours.

    Raises UserError if its own is to begin otherwise in each of the `rows`.
    """
    if hasattr(model, "generate"):
        if rows is not None:
            raise UserError(
                f"--prefix and several languages: {type(model).__name__} has a generate of its own, which takes the "
                f"same beginning for all rows; take it out of the class, or train one language without a prefix"
            )
        return np.asarray(model.generate(encoded, encoder_mask, **search.options()))
    return generate(model, encoded, encoder_mask, search, rows)


def generate(
    model: nnx.Module,
    encoded: Float[Array | np.ndarray, "b t d_model"],
    encoder_mask: Shaped[Array | np.ndarray, "b t"] | None,
    search: Search,
    rows: RowStarts | None = None,
) -> Int32[np.ndarray, "b length"]:
    """Token ids, at most `max_length` a clip; the start token is the first.

    `rows` say how each begins, in place of the search's start and forced first token. See `seq2seq` for what `model`
    must offer. Without `decode_step`, the whole prefix is run again for every token.
    Raises ValueError as `Search.resolved` does.
    """
    tokens, length = _generate(*_arguments(model, encoded, encoder_mask, search, rows))
    return np.asarray(tokens)[:, : int(length)]


def compile_search(
    model: nnx.Module,
    encoded: jax.ShapeDtypeStruct,
    encoder_mask: jax.ShapeDtypeStruct | None,
    search: Search,
    rows: RowStarts | None = None,
) -> None:
    """Compile what `generate` runs for arrays of these shapes."""
    _generate.lower(*_arguments(model, encoded, encoder_mask, search, rows)).compile()


def _arguments(model: nnx.Module, encoded, encoder_mask, search: Search, rows: RowStarts | None) -> tuple:
    graph, state = nnx.split(model)
    resolved = search.resolved(getattr(model, "config", {}))
    starts = None if rows is None else beginnings(resolved, rows)
    return graph, resolved, state, encoded, encoder_mask, starts


@partial(jax.jit, static_argnums=(0, 1))
def _generate(
    graph, search: ResolvedSearch, state, encoded: Frames, encoder_mask: FrameMask, rows: Beginnings = None
) -> tuple[Int32[Array, "b {search.max_length}"], Int32[Array, ""]]:
    """Tokens, and how many columns of them HuggingFace would return."""
    with jax.default_matmul_precision("highest"):
        return find_tokens(nnx.merge(graph, state), search, encoded, encoder_mask, rows)


def find_tokens(
    model: nnx.Module, search: ResolvedSearch, encoded: Frames, encoder_mask: FrameMask, rows: Beginnings = None
) -> tuple[Int32[Array, "b {search.max_length}"], Int32[Array, ""]]:
    """`generate` inside a compiled function: tokens, and how many columns of them HuggingFace would return."""
    find = greedy_search if search.num_beams == 1 else beam_search
    return find(steps_of(model, encoded, encoder_mask, search), encoded.shape[0], search, rows)


def beginnings(search: ResolvedSearch, rows: RowStarts) -> Beginnings:
    """How each of the rows begins, by the search's own start where it does not say."""
    return np.where(rows.first < 0, search.start, rows.first), rows.forced


class Greedy(NamedTuple):
    """The state of a greedy search."""

    length: Int[Array, ""]  # how many tokens each sentence has
    tokens: Int[Array, "b max_length"]
    finished: Bool[Array, " b"]
    cache: Cache


def greedy_search(
    steps: Steps, batch: int, search: ResolvedSearch, rows: Beginnings = None
) -> tuple[Int[Array, "{batch} {search.max_length}"], Int[Array, ""]]:
    """Tokens, and how many columns of them HuggingFace would return."""
    first, forced = (search.start, None) if rows is None else rows

    def extend(now: Greedy) -> Greedy:
        logits, cache = steps.step(now.tokens[:, now.length - 1], now.length - 1, now.cache)
        best = jnp.argmax(restrict(logits, now.tokens, now.length, search, forced), axis=-1).astype(jnp.int32)
        best = jnp.where(now.finished, search.pad, best)
        tokens = now.tokens.at[:, now.length].set(best)
        return Greedy(now.length + 1, tokens, now.finished | is_eos(best, search), cache)

    tokens = jnp.full((batch, search.max_length), search.pad, jnp.int32).at[:, 0].set(first)
    begin = Greedy(jnp.int32(1), tokens, jnp.zeros(batch, bool), steps.cache)
    end = search_in_stages(lambda now: ~now.finished.all(), extend, begin, steps)
    return end.tokens, end.length
