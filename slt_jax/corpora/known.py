"""The corpora of the field: a row each. Its file reads what their authors publish."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slt_jax.corpora import csl_daily, how2sign, openasl, phoenix14t, youtube_asl
from slt_jax.corpora.subtitled import Corpus


@dataclass(frozen=True)
class KnownCorpus:
    """How to read a corpus, and how many rows its authors publish in each split."""

    title: str
    read: Callable[[Path, Sequence[str]], Corpus]
    published: Mapping[str, int]


CORPORA = {
    "how2sign": KnownCorpus("How2Sign", how2sign.read, how2sign.PUBLISHED),
    "phoenix14t": KnownCorpus("RWTH-PHOENIX-Weather 2014T", phoenix14t.read, phoenix14t.PUBLISHED),
    "csl-daily": KnownCorpus("CSL-Daily", csl_daily.read, csl_daily.PUBLISHED),
    "youtube-asl": KnownCorpus("YouTube-ASL", youtube_asl.read, youtube_asl.PUBLISHED),
    "openasl": KnownCorpus("OpenASL", openasl.read, openasl.PUBLISHED),
}
