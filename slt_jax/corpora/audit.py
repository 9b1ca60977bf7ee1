"""What a corpus holds, counted before anything long runs."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

from slt_jax.corpora.subtitled import Corpus, CorpusClip

LOST = 0.05  # of the rows; more is an error without --allow-missing
SHOWN = 3
_REPEATED, _EMPTY = "id used before", "no text"


@dataclass(frozen=True)
class Audit:
    """Facts about a corpus, each a name and what was found."""

    facts: tuple[tuple[str, str], ...]
    lost: int
    rows: int

    @property
    def lost_share(self) -> float:
        """Lost rows of the corpus's own, as a fraction."""
        return self.lost / max(self.rows, 1)


def audit(corpus: Corpus, splits: Mapping[str, Sequence[CorpusClip]], published: Mapping[str, int]) -> Audit:
    """Count what there is. `published` has the rows that the authors tell of each split; empty where they do not."""
    clips, lost = corpus.clips, corpus.lost
    rows = corpus.rows - (len(corpus.drops) - len(lost))
    durations = [clip.duration for clip in clips if clip.duration is not None]
    texts = Counter(clip.text for clip in clips)
    reasons = Counter(drop.reason for drop in corpus.drops)
    left_out = f", {corpus.rows - rows:,} not counted, as its authors do" if rows < corpus.rows else ""
    facts = [
        ("rows", f"{corpus.rows:,}{left_out}"),
        ("clips found", f"{len(clips):,} of {rows:,} rows, {len(lost):,} lost ({len(lost) / max(rows, 1):.1%})"),
        *((f"not used: {reason}", f"{count:,}") for reason, count in reasons.most_common()),
        ("duration", _spread(durations, len(clips))),
        ("empty texts", f"{reasons[_EMPTY]:,}"),
        ("repeated ids", f"{reasons[_REPEATED]:,}"),
        ("texts that occur twice or more", f"{sum(count for count in texts.values() if count > 1):,} clips, "
                                           f"{sum(count > 1 for count in texts.values()):,} texts"),
        *_of_splits(splits, published),
        ("languages", _counted(clip.extra.get("lang") or "not told" for clip in clips)),
        ("scripts", _counted(_script(clip.text) for clip in clips)),
    ]  # fmt: skip
    return Audit(tuple(facts), len(lost), rows)


def _of_splits(splits: Mapping[str, Sequence[CorpusClip]], published: Mapping[str, int]):
    given = {split: clips for split, clips in splits.items() if clips}
    for split, clips in given.items():
        rows = f" of {published[split]:,} that are published" if split in published else ""
        yield f"split {split}", f"{len(clips):,} clips{rows}"
    names = list(given)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            pair = f"{one} and {other}"
            yield f"videos in both {pair}", _shared(given[one], given[other], lambda clip: clip.recording)
            yield (
                f"signers in both {pair}",
                _shared(given[one], given[other], lambda clip: clip.extra.get("signer", "")),
            )
            texts = {clip.text for clip in given[one]}
            repeated = sum(clip.text in texts for clip in given[other])
            yield f"texts of {other} that {one} has", f"{repeated:,} of {len(given[other]):,} clips"


def _shared(ones: Sequence[CorpusClip], others: Sequence[CorpusClip], key) -> str:
    both = sorted({key(clip) for clip in ones} & {key(clip) for clip in others} - {""})
    if not any(key(clip) for clip in ones):
        return "not told"
    shown = f" ({', '.join(both[:SHOWN])}{', ...' if len(both) > SHOWN else ''})" if both else ""
    return f"{len(both):,}{shown}" if both else "none"


def _spread(durations: Sequence[float], clips: int) -> str:
    if not durations:
        return "not known before extraction"
    total = sum(durations)
    length = f"{total / 3600:,.1f} h" if total >= 3600 else f"{total / 60:,.1f} min"
    known = "" if len(durations) == clips else f" of the {len(durations):,} clips whose length is known"
    return f"{length}{known}; {min(durations):.1f} to {max(durations):.1f} s, median {median(durations):.1f} s"


def _counted(values) -> str:
    return ", ".join(f"{value} {count:,}" for value, count in Counter(values).most_common(8)) or "none"


def _script(text: str) -> str:
    """The script of most letters."""
    names = Counter(_script_of(letter) for letter in text[:80] if letter.isalpha())
    return names.most_common(1)[0][0] if names else "no letters"


@cache
def _script_of(letter: str) -> str:
    """As Unicode names it, where Han is CJK."""
    name = unicodedata.name(letter, "?").split()[0].capitalize()
    return "Han" if name == "Cjk" else name
