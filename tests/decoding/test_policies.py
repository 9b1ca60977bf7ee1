"""What the policies settle of hypotheses that come one after another."""

import pytest

from slt_jax.decoding.policies import FixedWindow, LocalAgreement, WaitK
from slt_jax.errors import UserError

SAID = [["la"], ["la", "casa"], ["la", "casa", "roja"], ["la", "cosa", "roja"]]


def counts(policy) -> list[int]:
    return [policy.settled(SAID[:number]) for number in range(1, len(SAID) + 1)]


def test_words_are_settled_that_hypotheses_agree_on():
    assert counts(LocalAgreement()) == [0, 1, 2, 1]
    assert counts(LocalAgreement(3)) == [0, 0, 1, 1]
    assert counts(LocalAgreement(hold=1)) == [0, 1, 2, 1]
    assert LocalAgreement(hold=1).settled([["a", "b"], ["a", "b"]]) == 1
    assert LocalAgreement().settled([["a", "b"], []]) == 0


def test_words_are_settled_one_by_one():
    assert counts(WaitK(1)) == [1, 2, 3, 3]
    assert counts(WaitK(3)) == [0, 0, 1, 2]
    assert counts(FixedWindow(2.0)) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: LocalAgreement(1), "n 1"), (lambda: LocalAgreement(hold=-1), "hold -1"), (lambda: WaitK(0), "k 0"),
        (lambda: FixedWindow(0.0), "window 0"), (lambda: FixedWindow(float("nan")), "window nan"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(make, named):
    with pytest.raises(UserError, match=named):
        make()
