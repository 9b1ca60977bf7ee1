"""How a search goes on token by token: the decoder's step, its cache, and stages with a longer cache each.

Every step reads its whole cache, and beam search moves it, filled or not. Most texts end long before the longest that
is allowed, so the first stage has a short one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from slt_jax.decoding.search import ResolvedSearch
from slt_jax.models.seq2seq import Cache, DecodeStep, FrameMask, Frames, Position, cache_for_beams, has_cache

FIRST = 32  # tokens that the first stage's cache holds; that of each further one holds four times as many


class Steps(NamedTuple):
    """How a decoder goes on, token by token."""

    step: DecodeStep
    cache: Cache  # of the first stage, empty, with a row for each beam
    grow: Callable[[Cache, int], Cache]
    lengths: tuple[int, ...]  # how many tokens the cache of each stage holds


class Progress(Protocol):
    """The state of a search: a NamedTuple with these fields."""

    @property
    def length(self) -> Int[Array, ""]:
        """How many tokens there are."""

    @property
    def cache(self) -> Cache:
        """Of all tokens but the last."""

    def _replace(self, *, cache: Cache) -> Self: ...


State = TypeVar("State", bound=Progress)


def steps_of(model: nnx.Module, encoded: Frames, encoder_mask: FrameMask, search: ResolvedSearch) -> Steps:
    """The steps of `model` after these frames. Without `decode_step`, each runs the whole prefix."""
    longest = search.max_length - 1  # the last token is never fed back
    decoder: Any = model if has_cache(model) else WholePrefix(model)
    grows = hasattr(decoder, "grow_cache")
    lengths = stage_lengths(longest) if grows else (longest,)
    cache = cache_for_beams(decoder, decoder.init_cache(encoded, encoder_mask, lengths[0]), search.num_beams)
    return Steps(decoder.decode_step, cache, decoder.grow_cache if grows else lambda cache, _: cache, lengths)


def stage_lengths(longest: int) -> tuple[int, ...]:
    """How many tokens the cache holds in each stage, up to the `longest` text."""
    lengths, length = [], FIRST
    while 2 * length <= longest + 1:  # less would not be worth a program of its own
        lengths.append(length)
        length *= 4
    return (*lengths, longest)


def search_in_stages(
    go_on: Callable[[State], Bool[Array, ""]], extend: Callable[[State], State], state: State, steps: Steps
) -> State:
    """`extend` the `state` while it may `go_on`, with a longer cache whenever it is full."""
    for room in steps.lengths:
        if room > steps.lengths[0]:
            state = state._replace(cache=steps.grow(state.cache, room))
        state = _stage(go_on, extend, state, room)
    return state


def _stage(
    go_on: Callable[[State], Bool[Array, ""]], extend: Callable[[State], State], state: State, room: int
) -> State:
    def fits(now: State) -> Bool[Array, ""]:  # a step writes the last of `length` tokens into the cache
        return go_on(now) & (now.length <= room)

    return jax.lax.while_loop(fits, extend, state)


class WholePrefix:
    """A decoder without a cache, as if it had one: of tokens."""

    def __init__(self, model: nnx.Module):
        self.model = model

    def init_cache(self, encoded: Frames, encoder_mask: FrameMask, max_length: int) -> Cache:
        """No tokens, and what they look at."""
        tokens = jnp.zeros((encoded.shape[0], max_length), jnp.int32)
        return {"self": tokens, "encoded": encoded, "encoder_mask": encoder_mask}

    def grow_cache(self, cache: Cache, max_length: int) -> Cache:
        """Room for more tokens."""
        tokens = cache["self"]
        return cache | {"self": jnp.pad(tokens, ((0, 0), (0, max_length - tokens.shape[1])))}

    def decode_step(
        self, tokens: Int[Array, " b"], position: Position, cache: Cache
    ) -> tuple[Float[Array, "b vocab"], Cache]:
        """Logits after `tokens` at `position`, and the cache with them in it."""
        prefix = cache["self"].at[:, position].set(tokens)
        return self.model(cache["encoded"], cache["encoder_mask"], prefix)[:, position], cache | {"self": prefix}
