"""Greedy and beam search that number tokens exactly as HuggingFace's `generate` (transformers 5.23) does.

One compiled function per model structure, shape and setting: weights are arguments, the loop is a `while_loop` over
the decoder's key/value cache, and only the final trimming happens on the host.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from slt_jax.models.families import max_positions
from slt_jax.models.seq2seq import Cache

NEVER = -1.0e9  # HuggingFace's score of what must not win but stays comparable

Step = Callable[[Array, Array, Cache], tuple[Array, Cache]]


@dataclass(frozen=True)
class Settings:
    """Everything about a search that is compiled in."""

    start: int
    pad: int
    eos: tuple[int, ...]
    max_length: int
    min_length: int
    num_beams: int
    early_stopping: bool | Literal["never"]
    length_penalty: float
    no_repeat_ngram_size: int
    forced_bos: int | None
    forced_eos: tuple[int, ...]


def generate(
    model: nnx.Module,
    encoded: Array,
    encoder_mask: Array | None = None,
    *,
    num_beams: int = 1,
    min_length: int = 0,
    max_length: int = 128,
    max_new_tokens: int | None = None,
    early_stopping: bool | Literal["never"] = False,
    length_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    forced_bos_token_id: int | None = None,
    forced_eos_token_id: int | Sequence[int] | None = None,
    decoder_start_token_id: int | None = None,
    pad_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
) -> np.ndarray:
    """Token ids (B, <= max_length), int32, of frames `encoded` (B, T, d_model); the start token is the first.

    `max_length` counts the start token, `max_new_tokens` does not and wins; a decoder with fewer positions ends where
    they do. What is None comes from `model.config`; `forced_eos_token_id=()` turns off a forced end that the config
    asks for. See `seq2seq` for what `model` must offer; without `decode_step` the whole prefix is run for every token.
    """
    config = getattr(model, "config", {})

    def setting(value, name: str, default=None):
        return value if value is not None else config.get(name) if config.get(name) is not None else default

    eos = _as_tuple(setting(eos_token_id, "eos_token_id", ()))
    start = setting(decoder_start_token_id, "decoder_start_token_id", config.get("bos_token_id"))
    pad = setting(pad_token_id, "pad_token_id", eos[0] if eos else None)
    if start is None or pad is None:
        raise ValueError("generation needs decoder_start_token_id and pad_token_id, as arguments or in the config")
    max_length = max_length if max_new_tokens is None else max_new_tokens + 1
    if (positions := max_positions(config)) is not None:
        max_length = min(max_length, positions + 1)
    if max_length < 2 or num_beams < 1:
        raise ValueError(f"max_length {max_length} must be at least 2 and num_beams {num_beams} at least 1")
    settings = Settings(
        start=start,
        pad=pad,
        eos=eos,
        max_length=max_length,
        min_length=min_length,
        num_beams=num_beams,
        early_stopping=early_stopping,
        length_penalty=float(setting(length_penalty, "length_penalty", 1.0)),
        no_repeat_ngram_size=setting(no_repeat_ngram_size, "no_repeat_ngram_size", 0),
        forced_bos=setting(forced_bos_token_id, "forced_bos_token_id"),
        forced_eos=_as_tuple(setting(forced_eos_token_id, "forced_eos_token_id", ())),
    )
    graph, state = nnx.split(model)
    tokens, length = _generate(graph, settings, state, encoded, encoder_mask)
    return np.asarray(tokens)[:, : int(length)]


def _as_tuple(ids: int | Sequence[int]) -> tuple[int, ...]:
    return (ids,) if isinstance(ids, int) else tuple(ids)


@partial(jax.jit, static_argnums=(0, 1))
def _generate(graph, settings: Settings, state, encoded: Array, encoder_mask: Array | None) -> tuple[Array, Array]:
    """Tokens (B, max_length) and how many columns of them HuggingFace would return."""
    with jax.default_matmul_precision("highest"):
        model = nnx.merge(graph, state)
        # The last token is never fed back, so it needs no place in the cache.
        step, cache = _stepper(model, encoded, encoder_mask, settings.max_length - 1)
        search = greedy_search if settings.num_beams == 1 else beam_search
        return search(step, cache, encoded.shape[0], settings)


def _stepper(model: nnx.Module, encoded: Array, encoder_mask: Array | None, length: int) -> tuple[Step, Cache]:
    """The decoder's own step and cache, or for one without: the whole prefix again, with its tokens as the cache."""
    if hasattr(model, "decode_step"):
        return model.decode_step, model.init_cache(encoded, encoder_mask, length)

    def step(tokens: Array, position: Array, cache: Cache) -> tuple[Array, Cache]:
        prefix = cache["self"].at[:, position].set(tokens)
        return model(cache["encoded"], cache["encoder_mask"], prefix)[:, position], cache | {"self": prefix}

    tokens = jnp.zeros((encoded.shape[0], length), jnp.int32)
    return step, {"self": tokens, "encoded": encoded, "encoder_mask": encoder_mask}


def generate_tokens(model: nnx.Module, encoded: Array, encoder_mask: Array | None, **options) -> np.ndarray:
    """Token ids (B, <= max_length) by the decoder's own `generate` where it has one, else by ours."""
    if hasattr(model, "generate"):
        return np.asarray(model.generate(encoded, encoder_mask, **options))
    return generate(model, encoded, encoder_mask, **options)


def greedy_search(step: Step, cache: Cache, batch: int, s: Settings) -> tuple[Array, Array]:
    def unfinished(carry):
        length, _, finished, _ = carry
        return (length < s.max_length) & ~finished.all()

    def extend(carry):
        length, tokens, finished, cache = carry
        logits, cache = step(tokens[:, length - 1], length - 1, cache)
        best = jnp.argmax(restrict(logits, tokens, length, s), axis=-1).astype(jnp.int32)
        best = jnp.where(finished, s.pad, best)
        return length + 1, tokens.at[:, length].set(best), finished | is_eos(best, s), cache

    tokens = jnp.full((batch, s.max_length), s.pad, jnp.int32).at[:, 0].set(s.start)
    carry = jnp.int32(1), tokens, jnp.zeros(batch, bool), cache
    length, tokens, _, _ = jax.lax.while_loop(unfinished, extend, carry)
    return tokens, length


def beam_search(step: Step, cache: Cache, batch: int, s: Settings) -> tuple[Array, Array]:
    """Running beams race; finished ones are kept aside, ranked by score / length ** length_penalty.

    Each step looks at enough candidates that `num_beams` can run on even if every beam finds an end.
    """
    beams = s.num_beams
    candidates = max(2, 1 + len(s.eos)) * beams
    first_beams = jnp.arange(candidates) < beams
    # On the host in float64, rounded once, as Python's numbers are in HuggingFace's code. Length 0 never occurs.
    penalty = jnp.asarray([1.0, *(float(n) ** s.length_penalty for n in range(1, s.max_length + 1))], jnp.float32)
    # HuggingFace's own fill, which takes a pad of 0 for "none".
    fill = (s.pad or s.eos[0]) if s.eos else -1
    cache = jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), cache)

    tokens = jnp.full((batch, beams, s.max_length), fill, jnp.int32).at[:, :, 0].set(s.start)
    carry = {
        "length": jnp.int32(1),
        "running": tokens,
        # All beams start alike: only the first may be extended, or they would stay alike.
        "running_scores": jnp.full((batch, beams), NEVER).at[:, 0].set(0.0),
        "finished": tokens,
        "finished_scores": jnp.full((batch, beams), NEVER),
        "finished_lengths": jnp.zeros((batch, beams), jnp.int32),
        "is_finished": jnp.zeros((batch, beams), bool),
        "can_improve": jnp.ones((batch, 1), bool),
        "go_on": jnp.bool_(True),
        "cache": cache,
    }

    def extend(c):
        length = c["length"]
        flat = c["running"].reshape(batch * beams, s.max_length)
        logits, cache = step(flat[:, length - 1], length - 1, c["cache"])
        scores = restrict(jax.nn.log_softmax(logits), flat, length, s)
        vocab = scores.shape[-1]

        # The best continuations over all beams of a sentence.
        totals = scores.reshape(batch, beams, vocab) + c["running_scores"][:, :, None]
        top_scores, top = jax.lax.top_k(totals.reshape(batch, beams * vocab), candidates)
        parents, ids = top // vocab, (top % vocab).astype(jnp.int32)
        top_tokens = pick(c["running"], parents).at[:, :, length].set(ids)
        ends = is_eos(ids, s) | (length + 1 >= s.max_length)

        # Those that did not end run on.
        open_scores = top_scores + ends.astype(jnp.float32) * NEVER
        chosen = jax.lax.top_k(open_scores, beams)[1]
        from_beam = (pick(parents, chosen) + beams * jnp.arange(batch)[:, None]).reshape(-1)
        running_scores = pick(open_scores, chosen)

        # Those that ended among the first `num_beams` compete with the finished ones.
        just_ended = ends & first_beams
        full = c["is_finished"].all(axis=-1, keepdims=True) & (s.early_stopping is True)
        ended_scores = top_scores / penalty[length]
        for excluded in (full, ~c["can_improve"], ~just_ended):
            ended_scores = ended_scores + excluded.astype(jnp.float32) * NEVER
        merged_scores = jnp.concatenate([c["finished_scores"], ended_scores], axis=1)
        best = jax.lax.top_k(merged_scores, beams)[1]

        def merge(kept, new):
            return pick(jnp.concatenate([kept, new], axis=1), best)

        finished_scores = merge(c["finished_scores"], ended_scores)
        is_finished = merge(c["is_finished"], just_ended)

        # Could the best running beam still beat the worst finished one?
        longest = s.max_length - 1 if s.early_stopping == "never" and s.length_penalty > 0 else length
        worst = jnp.where(is_finished, finished_scores.min(axis=1, keepdims=True), NEVER)
        can_improve = c["can_improve"] & (running_scores[:, :1] / penalty[longest] > worst).any(-1, keepdims=True)
        all_full = is_finished.all() & (s.early_stopping is True)
        return {
            "length": length + 1,
            "running": pick(top_tokens, chosen),
            "running_scores": running_scores,
            "finished": merge(c["finished"], top_tokens),
            "finished_scores": finished_scores,
            "finished_lengths": merge(c["finished_lengths"], jnp.full((batch, candidates), length)),
            "is_finished": is_finished,
            "can_improve": can_improve,
            "go_on": can_improve.any() & ~all_full & ~ends.all(),
            "cache": cache | {"self": jax.tree.map(lambda x: x[from_beam], cache["self"])},
        }

    c = jax.lax.while_loop(lambda c: c["go_on"], extend, carry)
    return c["finished"][:, 0], 1 + c["finished_lengths"][:, 0].max()


def pick(x: Array, beams: Array) -> Array:
    """(B, n, ...) rows `beams` (B, m) of `x` (B, beams, ...)."""
    return jnp.take_along_axis(x, beams.reshape(*beams.shape, *[1] * (x.ndim - 2)), axis=1)


# --- what may come next -------------------------------------------------------------------------------------------


def is_eos(ids: Array, s: Settings) -> Array:
    return jnp.isin(ids, jnp.asarray(s.eos, jnp.int32))


def restrict(scores: Array, tokens: Array, length: Array, s: Settings) -> Array:
    """`scores` (N, vocab) of the token after `tokens[:, :length]`, -inf where forbidden, in HuggingFace's order."""
    vocab = scores.shape[-1]
    if s.no_repeat_ngram_size > 0:
        scores = jnp.where(repeats(tokens, length, s.no_repeat_ngram_size, vocab), -jnp.inf, scores)
    if s.min_length > 0 and s.eos:
        scores = jnp.where(is_eos(jnp.arange(vocab), s) & (length < s.min_length), -jnp.inf, scores)
    if s.forced_bos is not None:
        scores = jnp.where(length == 1, only((s.forced_bos,), vocab), scores)
    if s.forced_eos:
        scores = jnp.where(length == s.max_length - 1, only(s.forced_eos, vocab), scores)
    return scores


def only(ids: tuple[int, ...], vocab: int) -> Array:
    """Scores (vocab,) that leave no choice but `ids`."""
    return jnp.full(vocab, -jnp.inf).at[jnp.asarray(ids)].set(0.0)


def repeats(tokens: Array, length: Array, n: int, vocab: int) -> Array:
    """Bool (N, vocab): tokens that would complete an n-gram that `tokens[:, :length]` (N, max_length) already has."""
    rows, max_length = tokens.shape
    starts = jnp.arange(max(0, max_length - n + 1))
    suffix = jax.lax.dynamic_slice_in_dim(tokens, length - (n - 1), n - 1, axis=1)
    same = jnp.broadcast_to(starts + n <= length, (rows, len(starts)))
    for i in range(n - 1):
        same &= tokens[:, starts + i] == suffix[:, i : i + 1]
    last = jnp.where(same, tokens[:, starts + n - 1], vocab)  # a column to spare for windows that do not match
    banned = jnp.zeros((rows, vocab + 1), bool).at[jnp.arange(rows)[:, None], last].set(True)
    return banned[:, :vocab]
