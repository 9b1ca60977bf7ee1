"""Glosses as a second target: torch's loss, paths and their glosses, and what cannot be aligned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from slt_jax.config import build_section
from slt_jax.data.glosses import BLANK, UNKNOWN, Glosses, collapsed
from slt_jax.data.metadata import ClipRow
from slt_jax.errors import UserError
from slt_jax.training.gloss_ctc import gloss_loss

FRAMES = [9, 6, 4, 3, 7]
GLOSSES = [[2, 3, 4], [3, 3], [5], [2, 2], []]  # of the fourth, three frames spell exactly one path


def test_loss_and_gradient_are_torchs():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 9, 6)).astype(np.float32)
    labels = np.full((5, 9), BLANK, np.int32)
    for row, glosses in zip(labels, GLOSSES, strict=True):
        row[: len(glosses)] = glosses
    frames = np.arange(9) < np.array(FRAMES)[:, None]

    def ours(logits):
        total, clips = gloss_loss(logits, jnp.asarray(frames), jnp.asarray(labels))
        return total / clips

    loss, gradient = jax.value_and_grad(ours)(logits)
    there = torch.tensor(logits[:4], requires_grad=True)
    probabilities = there.log_softmax(-1).transpose(0, 1)
    flat = torch.tensor([gloss for glosses in GLOSSES for gloss in glosses])
    lengths = torch.tensor([len(glosses) for glosses in GLOSSES[:4]])
    theirs = torch.nn.functional.ctc_loss(probabilities, flat, torch.tensor(FRAMES[:4]), lengths, reduction="mean")
    theirs.backward()
    assert float(loss) == pytest.approx(theirs.item(), rel=1e-5)
    np.testing.assert_allclose(gradient[:4], there.grad, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(gradient[4], 0)  # without glosses it does not count


def test_a_clip_with_fewer_frames_than_its_glosses_need_does_not_count():
    logits = jnp.zeros((2, 4, 5))
    frames = jnp.array([[True, True, False, False]] * 2)
    labels = jnp.array([[2, 2, 0, 0], [2, 3, 0, 0]])  # between two of a kind a path needs a blank
    total, clips = gloss_loss(logits, frames, labels)
    assert clips == 1
    assert np.isfinite(total)
    gradient = jax.grad(lambda x: gloss_loss(x, frames, labels)[0])(logits)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient).all()


def test_paths_and_labels():
    assert collapsed(np.array([0, 2, 2, 0, 2, 3, 3, 0])) == [2, 2, 3]
    assert collapsed(np.array([4, 4, 4])) == [4]
    assert collapsed(np.array([0, 0])) == []
    clips = [ClipRow("a", "x", extra={"gloss": "YO MATE"}), ClipRow("b", "y", extra={"orth": "MATE  QUERER MATE"}),
             ClipRow("c", "z"), ClipRow("d", "w", extra={"glosses": "PAN YO"})]  # fmt: skip
    known = Glosses.of(clips[:3])
    assert known.names == ("MATE", "QUERER", "YO")
    assert known.size == 5
    expected = [[4, 2, 0], [2, 3, 2], [0, 0, 0], [UNKNOWN, 4, 0]]
    assert known.labels(clips, 3).tolist() == expected
    assert known.labels(clips, 2).tolist()[1] == [0, 0]
    with pytest.raises(UserError, match="no glosses"):
        Glosses.of(clips[2:3])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"translation": 1, "gloss": 1}, "unknown objective 'gloss'; did you mean 'gloss_ctc'"),
        ({"translation": 1, "gloss_ctc": -1}, "must be a weight between 0 and 1000, not -1"),
        ({"gloss_ctc": 1}, "translation has no weight"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        build_section("training", {"objectives": given})
