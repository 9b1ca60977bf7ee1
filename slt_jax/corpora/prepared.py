"""A prepared corpus: its clips in splits, and what was found out about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slt_jax.corpora.subtitled import Corpus, CorpusClip
from slt_jax.data.contract import Examined


@dataclass
class Prepared:
    """`splits` hold what can be trained on."""

    corpus: Corpus
    splits: dict[str, list[CorpusClip]]
    examined: dict[str, Examined] = field(default_factory=dict)
    records: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # what extraction said of each clip
    together: list[list[str]] = field(default_factory=list)  # videos in one split because they show the same
    cut: list[str] = field(default_factory=list)  # videos that --keep-split left in several
    written: list[Path] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(drop.reason == "extraction failed" for drop in self.corpus.drops)
