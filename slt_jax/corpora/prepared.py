"""A prepared corpus: its clips in splits, and what is known about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slt_jax.corpora.audit import Audit
from slt_jax.corpora.subtitled import Corpus, CorpusClip
from slt_jax.data.contract import Examined


@dataclass
class Prepared:
    """A corpus in splits. `splits` hold the clips that can be trained on."""

    corpus: Corpus
    splits: dict[str, list[CorpusClip]]
    examined: dict[str, Examined] = field(default_factory=dict)
    records: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # the extraction's record of each clip
    shared_footage: list[list[str]] = field(default_factory=list)  # videos kept in one split as they show the same
    cut: list[str] = field(default_factory=list)  # videos that --keep-split left in several splits
    written: list[Path] = field(default_factory=list)
    audit: Audit | None = None  # what there was before the extraction

    @property
    def failed(self) -> int:
        """How many clips could not be extracted."""
        return sum(drop.reason == "extraction failed" for drop in self.corpus.drops)

    @property
    def lost_share(self) -> float:
        """The rows that are lost, before the extraction or in it, as a fraction of the corpus's own."""
        lost = len(self.corpus.lost)
        return lost / max(self.corpus.rows - len(self.corpus.drops) + lost, 1)
