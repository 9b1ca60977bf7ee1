"""The corpora of the field: a row each. Its file reads what their authors publish."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slt_jax.corpora import how2sign, phoenix14t
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
}
