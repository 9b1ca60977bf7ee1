"""When the words of a text that is still being signed are settled: shown for good, and never taken back.

A stream asks its policy after every new hypothesis about the running sentence. What is left is settled when it ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from slt_jax.errors import UserError


class Word(NamedTuple):
    """A word of a hypothesis, and the probability of its least probable token."""

    text: str
    probability: float = 1.0


Words = Sequence[Word]


@runtime_checkable
class Policy(Protocol):
    """When words are settled, and where sentences end."""

    @property
    def window(self) -> float | None:
        """The seconds of windows of even length; None where sentences end at pauses of the hands."""
        ...

    def settled(self, hypotheses: Sequence[Words]) -> int:
        """How many words of the last of `hypotheses` are settled. They are all about one sentence, oldest first."""
        ...


@dataclass(frozen=True)
class LocalAgreement:
    """Words are settled that the last `n` hypotheses agree on (Liu et al. 2020, LA-n), but for the last `hold`.

    None is settled, nor any after it, that the last hypothesis gives a probability below `sure`. A model that was
    trained on the beginnings of clips (`data.augmentation.cut_end`) knows what it cannot know yet.
    """

    n: int = 2
    hold: int = 0
    sure: float = 0.0
    window = None

    def __post_init__(self):
        if self.n < 2:
            raise UserError(f"LocalAgreement: n {self.n} must be at least 2, as one hypothesis agrees with itself")
        if self.hold < 0:
            raise UserError(f"LocalAgreement: hold {self.hold} must be 0 or more words")
        if not 0 <= self.sure <= 1:
            raise UserError(f"LocalAgreement: sure {self.sure:g} must be a probability, between 0 and 1")

    def settled(self, hypotheses: Sequence[Words]) -> int:
        """The words that the last `n` hypotheses begin with, without those that are held back."""
        if len(hypotheses) < self.n:
            return 0
        *others, last = hypotheses[-self.n :]
        said = [[word.text for word in words] for words in others]
        held, agreed = len(last) - self.hold, 0
        for word in last[: max(held, 0)]:
            if word.probability < self.sure or any(words[agreed : agreed + 1] != [word.text] for words in said):
                break
            agreed += 1
        return agreed


@dataclass(frozen=True)
class WaitK:
    """The first word is settled with the k-th hypothesis, and another with each that follows (Ma et al. 2019)."""

    k: int = 3
    window = None

    def __post_init__(self):
        if self.k < 1:
            raise UserError(f"WaitK: k {self.k} must be at least 1")

    def settled(self, hypotheses: Sequence[Words]) -> int:
        """One word less than `k` hypotheses in the beginning, then one more with each."""
        return min(max(len(hypotheses) - self.k + 1, 0), len(hypotheses[-1]))


@dataclass(frozen=True)
class FixedWindow:
    """Every `window` seconds are translated for themselves, whatever the hands do; nothing is settled before."""

    window: float = 3.0

    def __post_init__(self):
        if not 0 < self.window < float("inf"):
            raise UserError(f"FixedWindow: window {self.window:g} must be above 0 seconds")

    def settled(self, hypotheses: Sequence[Words]) -> int:
        """Nothing before the window's end."""
        return 0
