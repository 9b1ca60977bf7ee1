"""What the policies settle of hypotheses that come one after another."""

import pytest

from slt_jax.decoding.policies import FixedWindow, LocalAgreement, WaitK, Word
from slt_jax.errors import UserError


def words(text: str, *probabilities: float) -> list[Word]:
    said = text.split()
    return [Word(*pair) for pair in zip(said, [*probabilities, *[1.0] * len(said)], strict=False)]


SAID = [words("la"), words("la casa"), words("la casa roja"), words("la cosa roja")]


def counts(policy) -> list[int]:
    return [policy.settled(SAID[:number]) for number in range(1, len(SAID) + 1)]


def test_words_are_settled_that_hypotheses_agree_on():
    assert counts(LocalAgreement()) == [0, 1, 2, 1]
    assert counts(LocalAgreement(3)) == [0, 0, 1, 1]
    assert counts(LocalAgreement(hold=1)) == [0, 1, 2, 1]
    assert LocalAgreement(hold=1).settled([words("a b"), words("a b")]) == 1
    assert LocalAgreement().settled([words("a b"), []]) == 0


def test_nothing_is_settled_after_a_word_that_is_not_sure():
    unsure, sure = words("la casa roja", 0.9, 0.4, 0.9), words("la casa roja", 0.9, 0.7, 0.9)
    assert LocalAgreement(sure=0.6).settled([sure, unsure]) == 1
    assert LocalAgreement(sure=0.6).settled([unsure, sure]) == 3


def test_words_are_settled_one_by_one():
    assert counts(WaitK(1)) == [1, 2, 3, 3]
    assert counts(WaitK(3)) == [0, 0, 1, 2]
    assert counts(FixedWindow(2.0)) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: LocalAgreement(1), "n 1"), (lambda: LocalAgreement(hold=-1), "hold -1"), (lambda: WaitK(0), "k 0"),
        (lambda: FixedWindow(0.0), "window 0"),
        (lambda: LocalAgreement(sure=1.5), "sure 1.5"), (lambda: FixedWindow(float("nan")), "window nan"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(make, named):
    with pytest.raises(UserError, match=named):
        make()
