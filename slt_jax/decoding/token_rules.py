"""Which tokens may come next: minimal length, forced starts and ends, no repeated n-grams."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from slt_jax.decoding.search import ResolvedSearch

# In each row the start token (n,) and the tokens to be said first (n, p), -1 after the last; None: as the search says.
Beginnings = tuple[Int[ArrayLike, " n"], Int[ArrayLike, "n p"]] | None


def is_eos(ids: Int[Array, "*shape"], search: ResolvedSearch) -> Bool[Array, "*shape"]:
    """Which of `ids` end a text."""
    return jnp.isin(ids, jnp.asarray(search.eos, jnp.int32))


def restrict(
    scores: Float[Array, "n vocab"],
    tokens: Int[Array, "n max_length"],
    length: Int[Array, ""],
    search: ResolvedSearch,
    forced: Int[ArrayLike, "n p"] | None = None,
) -> Float[Array, "n vocab"]:
    """`scores` of the token after `tokens[:, :length]`, -inf if forbidden, in HuggingFace's order.

    `forced`, of `Beginnings`, take the place of the search's forced first token.
    """
    vocab = scores.shape[-1]
    if search.no_repeat_ngram_size > 0:
        scores = jnp.where(repeats(tokens, length, search.no_repeat_ngram_size, vocab), -jnp.inf, scores)
    if search.min_length > 0 and search.eos:
        scores = jnp.where(is_eos(jnp.arange(vocab), search) & (length < search.min_length), -jnp.inf, scores)
    if forced is not None:
        scores = jnp.where(*_forced(jnp.asarray(forced), length, vocab), scores)
    elif search.forced_bos is not None:
        scores = jnp.where(length == 1, only((search.forced_bos,), vocab), scores)
    if search.forced_eos:
        scores = jnp.where(length == search.max_length - 1, only(search.forced_eos, vocab), scores)
    return scores


def only(ids: tuple[int, ...], vocab: int) -> Float[Array, " {vocab}"]:
    """Scores that leave no choice but `ids`."""
    return jnp.full(vocab, -jnp.inf).at[jnp.asarray(ids)].set(0.0)


def _forced(
    forced: Int[Array, "n p"], length: Int[Array, ""], vocab: int
) -> tuple[Bool[Array, "n 1"], Float[Array, "n {vocab}"]]:
    """Which rows have no choice, and the scores that leave them none."""
    open_end = jnp.pad(forced, ((0, 0), (0, 1)), constant_values=-1)
    due = open_end[:, jnp.minimum(length - 1, forced.shape[1])][:, None]
    return due >= 0, jnp.where(jnp.arange(vocab) == due, 0.0, -jnp.inf)


def repeats(
    tokens: Int[Array, "rows max_length"], length: Int[Array, ""], n: int, vocab: int
) -> Bool[Array, "rows {vocab}"]:
    """Tokens that would complete an n-gram that `tokens[:, :length]` already has."""
    rows, max_length = tokens.shape
    if n > max_length:
        return jnp.zeros((rows, vocab), bool)
    starts = jnp.arange(max(0, max_length - n + 1))
    suffix = jax.lax.dynamic_slice_in_dim(tokens, length - (n - 1), n - 1, axis=1)
    same = jnp.broadcast_to(starts + n <= length, (rows, len(starts)))
    for i in range(n - 1):
        same &= tokens[:, starts + i] == suffix[:, i : i + 1]
    last = jnp.where(same, tokens[:, starts + n - 1], vocab)  # a spare column for windows that do not match
    banned = jnp.zeros((rows, vocab + 1), bool).at[jnp.arange(rows)[:, None], last].set(True)
    return banned[:, :vocab]
