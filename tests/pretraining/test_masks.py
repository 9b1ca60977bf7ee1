"""Masks hide what they are asked to hide, in blocks."""

import jax
import numpy as np
import pytest

from slt_jax.pretraining.masks import draw_masks, mask_counts, masked_places


def test_each_view_loses_as_many_patches_as_dealt():
    counts = mask_counts(40, 256, 0.5, 0.1, 0.5)
    masks = np.asarray(draw_masks(jax.random.key(0), counts, (16, 16)))
    assert masks.shape == (40, 256)
    assert sorted(masks.sum(axis=1)) == sorted(counts)
    assert (counts == 0).sum() == 20  # half of the views are whole
    assert counts[counts > 0].min() >= 0.1 * 256 - 1
    assert counts.max() <= 0.5 * 256
    assert counts.sum() / 256 / 20 == pytest.approx(0.3, abs=0.01)  # the mean of 0.1 and 0.5
    other = np.asarray(draw_masks(jax.random.key(1), counts, (16, 16)))
    assert (other.sum(axis=1) != masks.sum(axis=1)).any()  # dealt anew


def test_hidden_patches_lie_together():
    """Of the neighbours of hidden patches far more are hidden than by chance, as rectangles hide them."""
    masks = np.asarray(draw_masks(jax.random.key(3), np.full(64, 77), (16, 16))).reshape(64, 16, 16)
    pairs = masks[:, :, 1:] & masks[:, :, :-1]
    alone = pairs.sum() / masks[:, :, 1:].sum()
    assert alone > 0.6  # by chance 0.3


@pytest.mark.parametrize(("grid", "count"), [((2, 2), 1), ((4, 4), 16), ((3, 5), 0), ((3, 5), 7)])
def test_small_grids(grid, count):
    masks = np.asarray(draw_masks(jax.random.key(0), np.full(6, count), grid))
    assert (masks.sum(axis=1) == count).all()


def test_places_of_hidden_patches():
    masks = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]], bool)
    places, valid = map(np.asarray, masked_places(jax.numpy.asarray(masks), 3))
    assert valid.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 0]]
    assert places[0, :2].tolist() == [1, 2]
    assert places[2, :2].tolist() == [0, 3]
