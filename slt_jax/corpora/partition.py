"""Assign whole videos to splits: by shares of the clips, with clips of every length in each split."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np

from slt_jax.decoding.scores import choose_scoring
from slt_jax.errors import UserError

LENGTHS = 6  # classes of clip length, each with the same number of clips
TRIES = 40  # assignments that the best is chosen from
# Two videos show the same if they share at least so many sentences, of so many words, and this part of the shorter one.
# In LSA-T, a compilation of earlier programmes shares a quarter or more with each of them, all other pairs at most 3 %.
SHARED, WORDS, PART = 5, 5, 0.1
CHARACTERS = 10  # in place of words, where the texts put no spaces between them
COMMON = 20  # a sentence in more videos than this is a set phrase


def same_footage(texts: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Group the videos that show parts of each other, judging by their sentences; most groups are one video.

    If one group would hold more than half of the clips, the sentences are repeated by design, as when several people
    sign the same list. Then every video is its own group.
    """
    scoring = choose_scoring(text for lines in texts.values() for text in lines)
    least = WORDS if scoring.spaces else CHARACTERS
    sentences = {video: {text for text in lines if len(scoring.words(text)) >= least} for video, lines in texts.items()}
    videos_of = defaultdict(list)
    for video in sorted(sentences):
        for text in sentences[video]:
            videos_of[text].append(video)
    shared: Counter[tuple[str, str]] = Counter()
    for videos in videos_of.values():
        if len(videos) <= COMMON:
            shared.update(combinations(videos, 2))
    group = {video: [video] for video in sorted(texts)}
    for (one, other), count in shared.items():
        enough = max(SHARED, PART * min(len(sentences[one]), len(sentences[other])))
        if count >= enough and group[one] is not group[other]:
            group[one] += group[other]
            for video in group[other]:
                group[video] = group[one]
    groups = [sorted(members) for video, members in group.items() if video == min(members)]
    sizes = [sum(len(texts[video]) for video in members) for members in groups]
    if max(sizes, default=0) > sum(sizes) / 2:
        return [[video] for video in sorted(texts)]
    return groups


def partition(videos: Mapping[str, Sequence[float | None]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of every video, from the lengths of its clips (seconds, None if unknown).

    `shares` are fractions of the clips. The result depends on names, lengths and `seed`, not on the order of the
    videos. Raises UserError if there are fewer videos than splits to fill.
    """
    wanted = [split for split, share in shares.items() if share > 0]
    if len(videos) < len(wanted):
        short = f"{len(videos)} video{'' if len(videos) == 1 else 's'}"
        left = ", ".join(wanted[len(videos) :])
        raise UserError(
            f"--splits: {short} cannot fill {len(wanted)} splits, since a video is never cut: {left} would be empty; "
            f"give it the share 0"
        )
    names = sorted(videos)
    counts = _counts([videos[name] for name in names])
    target = np.array([shares[split] for split in wanted])[:, None] * counts.sum(0)
    rng = np.random.default_rng(seed)
    tries = max(1, min(TRIES, 20_000 // max(1, len(names))))
    assignments = [_assign(counts, target, rng) for _ in range(tries)]
    best = min(assignments, key=lambda assigned: _cost(_sums(assigned, counts, len(target)), target).sum())
    return {name: wanted[split] for name, split in zip(names, best, strict=True)}


def _counts(lengths: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Clips of each video by class of length, (videos, classes); the last column counts all, so sizes count too."""
    known = np.array([length for video in lengths for length in video if length is not None])
    edges = np.unique(np.quantile(known, np.arange(1, LENGTHS) / LENGTHS)) if len(known) else np.zeros(0)
    counts = np.zeros((len(lengths), len(edges) + 3))
    for row, video in zip(counts, lengths, strict=True):
        for length in video:
            row[-2 if length is None else np.searchsorted(edges, length, side="right")] += 1
        row[-1] = len(video)
    return counts[:, counts.any(0)]


def _assign(counts: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign large videos first, each to the split it fits best; then move single videos while that helps."""
    order = np.argsort(-counts[:, -1] * rng.uniform(0.5, 1.5, len(counts)), kind="stable")
    assigned = np.full(len(counts), -1)
    sums = np.zeros_like(target)
    for video in order:
        split = int(np.argmin((_cost(sums + counts[video], target) - _cost(sums, target)).sum(1)))
        assigned[video] = split
        sums[split] += counts[video]
    while True:
        gains = _gains(assigned, counts, target)
        filled = np.bincount(assigned, minlength=len(target))
        gains[filled[assigned] == 1] = -np.inf  # a split keeps its only video
        if empty := set(np.flatnonzero(filled == 0)):
            gains[:, [split for split in range(len(target)) if split not in empty]] = -np.inf
        best_video, best_split = np.unravel_index(np.argmax(gains), gains.shape)
        if not empty and gains[best_video, best_split] <= 1e-9:
            return assigned
        assigned[best_video] = best_split


def _gains(assigned: np.ndarray, counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How much the cost falls if each video moves to each split, (videos, splits)."""
    sums = _sums(assigned, counts, len(target))
    cost = _cost(sums, target).sum(1)
    left = cost[assigned] - _cost(sums[assigned] - counts, target[assigned]).sum(1)
    joined = cost - np.stack([_cost(total + counts, goal).sum(1) for total, goal in zip(sums, target, strict=True)], 1)
    gains = left[:, None] + joined
    gains[np.arange(len(assigned)), assigned] = -np.inf
    return gains


def _sums(assigned: np.ndarray, counts: np.ndarray, splits: int) -> np.ndarray:
    return np.stack([counts[assigned == split].sum(0) for split in range(splits)])


def _cost(sums: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Chi-square: deviations count relative to what was wanted, so that small splits are filled as well."""
    return (sums - target) ** 2 / target
