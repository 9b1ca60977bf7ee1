"""Beam search as HuggingFace's `generate` (transformers 5.23) does it, in a loop that XLA compiles.

Running beams race; finished ones are kept aside, ranked by score / length ** length_penalty.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from slt_jax.decoding.search import ResolvedSearch
from slt_jax.decoding.steps import Steps, search_in_stages
from slt_jax.decoding.token_rules import Beginnings, is_eos, restrict
from slt_jax.models.seq2seq import Cache, DecodeStep

NEVER = -1.0e9  # HuggingFace's score of what must not win but stays comparable


class Beams(NamedTuple):
    """The state of a search over `b` sentences with `k` beams each."""

    length: Int[Array, ""]  # how many tokens the running beams have
    running: Int[Array, "b k max_length"]
    running_scores: Float[Array, "b k"]
    finished: Int[Array, "b k max_length"]
    finished_scores: Float[Array, "b k"]
    finished_lengths: Int[Array, "b k"]
    is_finished: Bool[Array, "b k"]
    can_improve: Bool[Array, "b 1"]  # may a running beam still beat a finished one?
    go_on: Bool[Array, ""]
    cache: Cache


class Candidates(NamedTuple):
    """The `n` best continuations of each sentence over all its beams, best first."""

    tokens: Int[Array, "b n max_length"]
    scores: Float[Array, "b n"]
    parents: Int[Array, "b n"]  # the beams that they continue
    ends: Bool[Array, "b n"]


def beam_search(
    steps: Steps, batch: int, search: ResolvedSearch, rows: Beginnings = None
) -> tuple[Int[Array, "{batch} {search.max_length}"], Int[Array, ""]]:
    """Tokens, and how many columns of them HuggingFace would return."""
    # On the host in float64, rounded once, as Python's numbers are in HuggingFace's code. Length 0 never occurs.
    lengths = range(1, search.max_length + 1)
    penalty = jnp.asarray([1.0, *(float(n) ** search.length_penalty for n in lengths)], jnp.float32)

    first, forced = (None, None) if rows is None else (jnp.repeat(jnp.asarray(x), search.num_beams, 0) for x in rows)

    def extend(beams: Beams) -> Beams:
        candidates, cache = _continue(steps.step, beams, search, forced)
        beams = _keep_finished(beams, candidates, penalty, search)
        beams = _run_on(beams, candidates, cache)
        return _judge(beams, candidates, penalty, search)

    beams = search_in_stages(lambda now: now.go_on, extend, _first_beams(steps.cache, batch, search, first), steps)
    return beams.finished[:, 0], 1 + beams.finished_lengths[:, 0].max()


def _first_beams(cache: Cache, batch: int, search: ResolvedSearch, first: Array | None) -> Beams:
    shape = batch, search.num_beams
    start = search.start if first is None else first.reshape(shape)
    # HuggingFace's own fill, which takes a pad of 0 for "none".
    fill = (search.pad or search.eos[0]) if search.eos else -1
    tokens = jnp.full((*shape, search.max_length), fill, jnp.int32).at[:, :, 0].set(start)
    return Beams(
        length=jnp.int32(1),
        running=tokens,
        # All beams start alike: only the first may be extended, or they would stay alike.
        running_scores=jnp.full(shape, NEVER).at[:, 0].set(0.0),
        finished=tokens,
        finished_scores=jnp.full(shape, NEVER),
        finished_lengths=jnp.zeros(shape, jnp.int32),
        is_finished=jnp.zeros(shape, bool),
        can_improve=jnp.ones((batch, 1), bool),
        go_on=jnp.bool_(True),
        cache=cache,
    )


def _continue(step: DecodeStep, beams: Beams, search: ResolvedSearch, forced: Array | None) -> tuple[Candidates, Cache]:
    """So many candidates that `num_beams` can run on even if every beam finds an end; the cache is the beams'."""
    batch, width, max_length = beams.running.shape
    flat = beams.running.reshape(batch * width, max_length)
    logits, cache = step(flat[:, beams.length - 1], beams.length - 1, beams.cache)
    scores = restrict(jax.nn.log_softmax(logits), flat, beams.length, search, forced)
    vocab = scores.shape[-1]

    totals = scores.reshape(batch, width, vocab) + beams.running_scores[:, :, None]
    count = max(2, 1 + len(search.eos)) * width
    top_scores, top = jax.lax.top_k(totals.reshape(batch, width * vocab), count)
    parents, ids = top // vocab, (top % vocab).astype(jnp.int32)
    tokens = _pick(beams.running, parents).at[:, :, beams.length].set(ids)
    ends = is_eos(ids, search) | (beams.length + 1 >= search.max_length)
    return Candidates(tokens, top_scores, parents, ends), cache


def _keep_finished(beams: Beams, candidates: Candidates, penalty: Float[Array, " n"], search: ResolvedSearch) -> Beams:
    """Those that ended among the first `num_beams` candidates compete with the finished ones."""
    batch, width, _ = beams.running.shape
    count = candidates.ends.shape[1]
    just_ended = candidates.ends & (jnp.arange(count) < width)
    full = beams.is_finished.all(axis=-1, keepdims=True) & (search.early_stopping is True)
    scores = candidates.scores / penalty[beams.length]
    for excluded in (full, ~beams.can_improve, ~just_ended):
        scores = scores + excluded.astype(jnp.float32) * NEVER
    best = jax.lax.top_k(jnp.concatenate([beams.finished_scores, scores], axis=1), width)[1]

    def merge(kept: Array, new: Array) -> Array:
        return _pick(jnp.concatenate([kept, new], axis=1), best)

    return beams._replace(
        finished=merge(beams.finished, candidates.tokens),
        finished_scores=merge(beams.finished_scores, scores),
        finished_lengths=merge(beams.finished_lengths, jnp.full((batch, count), beams.length)),
        is_finished=merge(beams.is_finished, just_ended),
    )


def _run_on(beams: Beams, candidates: Candidates, cache: Cache) -> Beams:
    """The best candidates that did not end are the next beams."""
    batch, width, _ = beams.running.shape
    scores = candidates.scores + candidates.ends.astype(jnp.float32) * NEVER
    chosen = jax.lax.top_k(scores, width)[1]
    rows = (_pick(candidates.parents, chosen) + width * jnp.arange(batch)[:, None]).reshape(-1)
    return beams._replace(
        length=beams.length + 1,
        running=_pick(candidates.tokens, chosen),
        running_scores=_pick(scores, chosen),
        cache=cache | {"self": jax.tree.map(lambda x: x[rows], cache["self"])},
    )


def _judge(beams: Beams, candidates: Candidates, penalty: Float[Array, " n"], search: ResolvedSearch) -> Beams:
    """Could the best running beam still beat the worst finished one?"""
    length = beams.length - 1  # of the finished ones that came last
    longest = search.max_length - 1 if search.early_stopping == "never" and search.length_penalty > 0 else length
    worst = jnp.where(beams.is_finished, beams.finished_scores.min(axis=1, keepdims=True), NEVER)
    reachable = beams.running_scores[:, :1] / penalty[longest]
    can_improve = beams.can_improve & (reachable > worst).any(-1, keepdims=True)
    all_full = beams.is_finished.all() & (search.early_stopping is True)
    return beams._replace(can_improve=can_improve, go_on=can_improve.any() & ~all_full & ~candidates.ends.all())


def _pick(x: Shaped[Array, "b k *rest"], beams: Int[Array, "b n"]) -> Shaped[Array, "b n *rest"]:
    """Rows `beams` of `x`."""
    return jnp.take_along_axis(x, beams.reshape(*beams.shape, *[1] * (x.ndim - 2)), axis=1)
