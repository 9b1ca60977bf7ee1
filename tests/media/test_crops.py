"""Squares about a face or a hand: never squeezed, padded at the borders, calm over time."""

import io

import numpy as np
import pytest
from PIL import Image

from slt_jax.media.crops import Square, blurred, cut, encoded, smoothed


def board(height: int = 60, width: int = 80) -> np.ndarray:
    """Every pixel tells its row and column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 200)], axis=-1).astype(np.uint8)


def test_a_square_inside_is_cut_as_it_is():
    np.testing.assert_array_equal(cut(board(), Square(30, 20, 16), 16), board()[12:28, 22:38])


@pytest.mark.parametrize("place", [(0, 0), (79, 59), (-30, 20), (30, 500)])
def test_what_lies_outside_is_black(place):
    crop = cut(board(), Square(*place, 20), 20)
    left, top = place[0] - 10, place[1] - 10
    for row in (0, 7, 13, 19):
        for column in (0, 7, 13, 19):
            y, x = top + row, left + column
            inside = 0 <= y < 60 and 0 <= x < 80
            assert crop[row, column].tolist() == ([y, x, 200] if inside else [0, 0, 0])


def test_the_aspect_is_kept():
    image = np.zeros((60, 80, 3), np.uint8)
    rows, columns = np.mgrid[:60, :80]
    image[(rows - 30) ** 2 + (columns - 40) ** 2 < 15**2] = 255
    crop = cut(image, Square(40, 30, 50), 100)
    lit = crop[..., 0] > 127
    assert crop.shape == (100, 100, 3)
    assert abs(int(lit.any(0).sum()) - int(lit.any(1).sum())) <= 1
    points = np.array([[10, 10], [20, 40]])
    assert Square.around(points, 1.5) == Square(15.0, 25.0, 45.0)


def test_smoothing_calms_and_does_not_lag():
    rng = np.random.default_rng(0)
    noisy = [Square(2.0 * t + rng.normal(0, 1), 30, 20 + rng.normal(0, 2)) for t in range(60)]
    calm = [smoothed(noisy, t, centre=2.0, side=2.0) for t in range(60)]
    middle = slice(5, 55)
    steps = [np.std(np.diff([s.x for s in squares][middle])) for squares in (noisy, calm)]
    assert steps[1] < 0.3 * steps[0]
    assert np.std([s.side for s in calm][middle]) < 0.7 * np.std([s.side for s in noisy][middle])
    assert np.mean([s.x - 2.0 * t for t, s in enumerate(calm)][middle]) == pytest.approx(0, abs=0.5)


def test_smoothing_stops_at_gaps():
    squares = [Square(0, 0, 10), None, Square(50, 50, 30), Square(50, 50, 30)]
    assert smoothed(squares, 0, centre=2.0, side=2.0) == Square(0, 0, 10)
    assert smoothed(squares, 1, centre=2.0, side=2.0) is None
    alike = smoothed(squares, 2, centre=2.0, side=2.0)
    assert (alike.x, alike.y, alike.side) == pytest.approx((50, 50, 30))


def test_a_blurred_face_has_no_features():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    hidden = blurred(image, Square(40, 30, 32))
    assert image[20:40, 30:50].std() > 70
    assert hidden[20:40, 30:50].std() < 12
    np.testing.assert_array_equal(hidden[:, :20], image[:, :20])
    assert blurred(image, Square(-100, 30, 32)) is image


def test_formats():
    crop = np.full((16, 16, 3), (200, 30, 60), np.uint8)
    for image_format, tolerance in (("jpg", 3), ("png", 0)):
        with Image.open(io.BytesIO(encoded(crop, image_format))) as image:
            assert image.format == {"jpg": "JPEG", "png": "PNG"}[image_format]
            np.testing.assert_allclose(np.asarray(image), crop, atol=tolerance)
