"""Videos beside their sentences: torch's loss, what is no negative, what is left out, and what cannot be compared."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from slt_jax.config import build_config, build_section
from slt_jax.data.text import IGNORE
from slt_jax.errors import UserError
from slt_jax.training.contrastive import (
    HEAD,
    SCALE,
    check_text_encoder,
    contrastive_loss,
    contrastive_params,
    contrastive_state,
    mean_of,
    unit,
)

TEXTS = [[5, 6, 1], [5, 7, 1], [5, 6, 1], [8, 1, IGNORE], [IGNORE] * 3]  # the first is the third; the last fills up


def given(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return *rng.standard_normal((2, len(TEXTS), 6)), np.array(TEXTS)


def torchs(video, text, scale, pairs_left_out):
    """CLIP's loss in float64, where the pairs left out stand in no denominator."""
    video, text = (torch.nn.functional.normalize(side, dim=1) for side in (video, text))
    logits = scale.exp() * video @ text.T
    for i, j in pairs_left_out:
        logits[i, j] = logits[j, i] = -torch.inf
    own = torch.arange(len(logits))
    return (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2


def test_loss_and_gradients_are_torchs_and_the_same_sentence_is_no_negative():
    video, text, labels = given()
    scale = np.log(1 / 0.07)

    def ours(video, text, scale):
        total, clips, _ = contrastive_loss(unit(video), unit(text), scale, jnp.asarray(labels))
        return total / clips

    arguments = [jnp.asarray(array, jnp.float32) for array in (video, text, scale)]
    loss, gradients = jax.value_and_grad(ours, argnums=(0, 1, 2))(*arguments)
    real = len(TEXTS) - 1
    there = [torch.tensor(array, requires_grad=True) for array in (video[:real], text[:real], scale)]
    theirs = torchs(*there, [(0, 2)])
    theirs.backward()
    assert float(loss) == pytest.approx(theirs.item(), rel=1e-5)
    for gradient, array in zip(gradients, there, strict=True):
        np.testing.assert_allclose(gradient[:real] if gradient.ndim else gradient, array.grad, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gradients[0][real:], 0)
    np.testing.assert_array_equal(gradients[1][real:], 0)


def test_partners_that_are_found_are_counted_each_way():
    labels = jnp.array([[2], [3], [4], [IGNORE]])
    video = jnp.eye(4)
    text = jnp.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # the second and third are exchanged
    _, clips, found = contrastive_loss(video, text, jnp.float32(0), labels)
    assert (clips, found) == (3, 1)


def test_one_clip_alone_has_no_loss():
    total, clips, _ = contrastive_loss(jnp.ones((1, 3)), jnp.ones((1, 3)), jnp.float32(1), jnp.array([[4, 1]]))
    assert (total, clips) == (0, 1)


def test_padding_is_left_out_of_means():
    states = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    keep = np.array([[True, True, False, False], [True] * 4, [False] * 4])
    means = mean_of(jnp.asarray(np.where(keep[..., None], states, np.nan)), jnp.asarray(keep))
    np.testing.assert_allclose(means, [states[0, :2].mean(0), states[1].mean(0), np.zeros(5)], rtol=1e-6)
    gradient = jax.grad(lambda x: unit(mean_of(x, jnp.asarray(keep))).sum())(jnp.asarray(states))
    assert np.isfinite(gradient).all()


def test_the_head_keeps_its_weights_in_torchs_layout():
    params = contrastive_params(4, seed=1)
    state = contrastive_state(params)
    assert state.keys() == {f"{HEAD}.video.weight", f"{HEAD}.text.weight", SCALE}
    np.testing.assert_array_equal(state[f"{HEAD}.text.weight"], params[f"{HEAD}.text.kernel"].T)
    assert state[SCALE] == pytest.approx(np.log(1 / 0.07))
    again = contrastive_params(4, seed=2, saved=state)
    assert all((again[path] == params[path]).all() for path in params)
    assert contrastive_params(8, seed=2, saved=state)[f"{HEAD}.text.kernel"].shape == (8, 8)
    assert contrastive_state({"encoder.x": 1}) == {}


@pytest.mark.parametrize(
    ("decoder", "texts", "said"),
    [
        ({"decoder_class": "my.module:Decoder"}, ["a", "b"], "my.module:Decoder has no text encoder"),
        ({"model_type": "t5", "num_layers": 0}, ["a", "b"], "the text encoder of the decoder has no layers"),
        ({"model_type": "t5", "num_layers": 2}, ["a", "a"], "all training clips have the same text"),
    ],
)
def test_what_cannot_be_compared_is_said(decoder, texts, said):
    with pytest.raises(UserError, match=f"^training.objectives.contrastive: {said}"):
        check_text_encoder(SimpleNamespace(decoder=decoder), texts)


@pytest.mark.parametrize(
    ("data", "training", "said"),
    [
        ({"batch_size": 1}, {}, "training.objectives.contrastive .* --batch-size 1 leaves nothing"),
        ({"batch_size": 2, "val_batch_size": 1}, {}, "--val-batch-size 1 leaves nothing"),
        ({}, {"best_metric": "bleu", "eval_bleu_every": 1}, "--best-metric bleu .* translation no weight"),
    ],
)
def test_settings_that_leave_nothing_to_compare_are_refused(data, training, said):
    objectives = {"contrastive": 1}
    with pytest.raises(UserError, match=said):
        build_config({"data": data, "training": {"objectives": objectives} | training})
    assert build_section("training", {"objectives": {"contrastive": 1, "gloss_ctc": 0.5}}).objectives
