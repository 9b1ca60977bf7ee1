"""Views against other code: Pillow, torch, colorsys, and torchvision's formulas in float64."""

import colorsys
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from slt_jax.models.images import normalise
from slt_jax.pretraining import views as made
from slt_jax.pretraining.settings import Augmentation

ROOT = Path(__file__).resolve().parents[2]
SMALL = Augmentation(image_size=28, local_crop_size=14, num_local_crops=3)
# Nothing but boxes.
PLAIN = dataclasses.replace(
    SMALL, color_jitter_prob=0.0, grayscale_prob=0.0, gaussian_blur_prob=0.0, solarize_prob=0.0, rotation=0.0
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape)


def drawn(count=4, per_image=2, seed=0, **fixed):
    """What `views` draws, (count, per_image) each."""
    values = noise(len(made.DRAWN), count, per_image, seed=seed).astype(np.float32)
    return {name: jnp.array(values[n]) for n, name in enumerate(made.DRAWN)} | {
        name: jnp.full((count, per_image), value, jnp.float32) for name, value in fixed.items()
    }


def planar(pixels):
    """(..., H, W, 3) to (..., H, 3, W)."""
    return jnp.array(np.swapaxes(pixels, -1, -2), jnp.float32)


def usual(pixels):
    return np.swapaxes(np.asarray(pixels, np.float64), -1, -2)


def run(pictures, settings, hflip=0.0, seed=0, dtype=jnp.float32):
    """The views as arrays of numpy."""
    compiled = jax.jit(lambda pictures, key: made.views_per_image(pictures, key, settings, hflip, dtype))
    return [np.asarray(array) for array in compiled(pictures, jax.random.key(seed))]


# --- boxes, mirrors, blur and rotation ----------------------------------------------------------------------------


def test_boxes_have_their_area_and_aspect_and_lie_inside():
    scale = (0.3, 1.0)
    left, top, width, height = (np.asarray(part, np.float64) for part in made.boxes(drawn(5000, 4), scale))
    area, aspect = width * height, width / height
    assert 0.3 <= area.min() < 0.301
    assert 0.999 < area.max() <= 1 + 1e-6
    np.testing.assert_allclose(area.mean(), 0.65, atol=0.01)  # uniform
    np.testing.assert_allclose(np.quantile(area, [0.25, 0.75]), [0.475, 0.825], atol=0.015)
    assert min(left.min(), top.min()) >= 0
    assert max((left + width).max(), (top + height).max()) <= 1 + 1e-6
    free = aspect[area < 0.7]  # larger ones may not fit
    np.testing.assert_allclose([free.min(), free.max()], [3 / 4, 4 / 3], rtol=0.01)
    np.testing.assert_allclose(np.median(free), 1, atol=0.02)
    np.testing.assert_allclose(np.quantile(np.log(free), 0.75), np.log(4 / 3) / 2, atol=0.01)


@pytest.mark.parametrize("size", [10, 24, 40])
def test_resizing_is_torchs_and_pillows(size):
    picture = noise(24, 24)
    weights = made.resizing(jnp.array(12.0), jnp.array(24 / size), size, 24)
    ours = np.asarray(weights, np.float64) @ picture @ np.asarray(weights, np.float64).T
    theirs = torch.nn.functional.interpolate(
        torch.tensor(picture)[None, None], (size, size), mode="bicubic", antialias=True, align_corners=False
    )[0, 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    x0, y0, x1, y1 = 3.3, 5.1, 20.2, 16.6
    pillow = Image.fromarray(picture.astype(np.float32)).resize(
        (size, size), Image.Resampling.BICUBIC, (x0, y0, x1, y1)
    )
    rows, columns = (
        np.asarray(made.resizing(jnp.array((a + b) / 2), jnp.array((b - a) / size), size, 24), np.float64)
        for a, b in ((y0, y1), (x0, x1))
    )
    np.testing.assert_allclose(rows @ picture @ columns.T, np.asarray(pillow), atol=2e-5)


def test_the_whole_picture_is_the_normalised_picture():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)
    settings = dataclasses.replace(PLAIN, global_crop_scale=[1.0, 1.0], num_local_crops=0)
    whole, local = run(pictures, settings)
    assert local.shape == (3, 0, 14, 14, 3)
    np.testing.assert_allclose(whole, np.stack([normalise(pictures)] * 2, 1), atol=1e-4)
    mirrored, _ = run(pictures, settings, 1.0)
    np.testing.assert_allclose(mirrored, whole[..., ::-1, :], atol=1e-5)


@pytest.mark.parametrize("rotation", [0.0, 10.0, 40.0])
def test_a_turned_box_shows_what_lies_there(rotation):
    """In a picture of its own coordinates every pixel says where it comes from."""
    side, size = 64, 24
    across = (np.arange(side) + 0.5) / side
    picture = np.stack([*np.meshgrid(across, across), np.full((side, side), 0.5)], -1)
    settings = dataclasses.replace(PLAIN, rotation=rotation)
    draws = drawn(3, 5)
    cut = jax.jit(lambda sources, draws: made.cut(sources, draws, size, (0.3, 0.9), 0.0, settings))
    shown = usual(cut(planar(np.stack([picture] * 3)), draws))
    left, top, width, height = (np.asarray(part, np.float64)[..., None, None] for part in made.boxes(draws, (0.3, 0.9)))
    angle = np.radians(rotation * (2 * np.asarray(draws["angle"], np.float64) - 1))[..., None, None]
    u, v = np.meshgrid(*[(np.arange(size) - (size - 1) / 2) / size] * 2)
    x = left + width / 2 + width * (np.cos(angle) * u - np.sin(angle) * v)
    y = top + height / 2 + height * (np.sin(angle) * u + np.cos(angle) * v)
    inside = (np.minimum(x, y) > 3 / side) & (np.maximum(x, y) < 1 - 3 / side)
    assert inside.mean() > 0.8
    for channel, place in enumerate((x, y)):
        # The weights of a smaller picture waver a little; 0.002 is an eighth of a pixel.
        np.testing.assert_allclose(shown[..., channel][inside], place[inside], atol=2e-3)
        # Beyond the edge it goes on with the colours of the edge.
        np.testing.assert_allclose(shown[..., channel], np.clip(place, 0, 1), atol=2.5 / side)
    np.testing.assert_allclose(shown[..., 2], 0.5, atol=1e-5)  # no empty corners


def test_pixels_between_pixels_are_linear_and_far_shifts_arrive():
    row, shifts = noise(64), np.linspace(-11, 11, 45)
    by = made.reach(11)
    assert by == [4, 4, 2]  # 24 shifts
    rows = jnp.array(np.tile(row, (len(shifts), 1)), jnp.float32)
    ours = made.shifted(rows, jnp.array(shifts[:, None], jnp.float32), -1, by)
    places = np.arange(32) + 16 + shifts[:, None]
    np.testing.assert_allclose(ours, np.interp(places, np.arange(64), row), atol=1e-5)


@pytest.mark.parametrize("sigma", [made.NO_BLUR, 0.3, 0.9, 2.0])
def test_blur_is_a_gaussian_with_mirrored_edges(sigma):
    picture = noise(20, 20)
    offsets = np.arange(-12, 13)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    padded = np.pad(picture, 12, mode="reflect")
    lines = np.apply_along_axis(np.convolve, 0, padded, taps / taps.sum(), "valid")
    expected = np.apply_along_axis(np.convolve, 1, lines, taps / taps.sum(), "valid")
    weights = np.asarray(made.blurring(jnp.array(sigma), 20), np.float64)
    np.testing.assert_allclose(weights @ picture @ weights.T, expected, atol=1e-6)


def test_sigma_is_dinov2s_at_its_size_and_in_proportion_elsewhere():
    settings = dataclasses.replace(SMALL, image_size=224, gaussian_blur_prob=0.5)
    draws = drawn(500, 4)
    sigma = np.asarray(made.blur_sigma(draws, settings))
    blurred = sigma > made.NO_BLUR
    np.testing.assert_allclose(blurred.mean(), 0.5, atol=0.05)
    assert 0.1 <= sigma[blurred].min() < 0.12
    assert 1.98 < sigma[blurred].max() <= 2
    half = np.asarray(made.blur_sigma(draws, dataclasses.replace(settings, image_size=112)))
    np.testing.assert_allclose(half[blurred], sigma[blurred] / 2, rtol=1e-5)


# --- colours ------------------------------------------------------------------------------------------------------


def luma(pixels):
    return pixels @ [0.2989, 0.587, 0.114]


def test_brightness_contrast_and_saturation_are_torchvisions():
    pixels = noise(2, 6, 6, 3)
    for factor in (0.0, 0.6, 1.0, 1.4):
        mean = luma(pixels).mean((1, 2), keepdims=True)[..., None]
        expected = {
            made.brighten: factor * pixels,
            made.change_contrast: factor * pixels + (1 - factor) * mean,
            made.saturate: factor * pixels + (1 - factor) * luma(pixels)[..., None],
        }
        for change, values in expected.items():
            np.testing.assert_allclose(usual(change(planar(pixels), factor)), values.clip(0, 1), atol=1e-6)


def test_hue_is_turned_in_hsv():
    pixels = noise(6, 6, 3)
    pixels[0] = pixels[0, :, :1]  # greys have no hue
    pixels[1, :, 1] = pixels[1, :, 0]  # two colours alike
    pixels[2, 0], pixels[2, 1] = 0, 1
    for turn in (-0.5, -0.1, 0.0, 0.07, 0.5):
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels.reshape(-1, 3)]
        expected = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in hsv]
        ours = usual(made.turn_hue(planar(pixels), jnp.full((1, 1), turn)))
        np.testing.assert_allclose(ours, np.reshape(expected, pixels.shape), atol=2e-6)


def test_grey_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).convert("L"), np.float64) / 255
    np.testing.assert_allclose(made.grey(planar(pixels / 255))[..., 0, :], theirs, atol=0.7 / 255)


def test_jitter_has_torchvisions_ranges_and_its_probability():
    pictures = np.full((400, 1, 4, 4, 3), 0.25)
    settings = dataclasses.replace(PLAIN, color_jitter_prob=0.8, brightness=0.4, contrast=0.0, saturation=0.0, hue=0.0)
    factors = usual(made.recolour(planar(pictures), drawn(400, 1), settings))[:, 0, 0, 0, 0] / 0.25
    np.testing.assert_allclose((factors != 1).mean(), 0.8, atol=0.06)
    assert 0.6 <= factors.min() < 0.63
    assert 1.37 < factors.max() <= 1.4 + 1e-6
    coloured = np.tile([0.6, 0.2, 0.2], (400, 1, 4, 4, 1))
    settings = dataclasses.replace(settings, brightness=0.0, hue=0.1, color_jitter_prob=1.0)
    shown = usual(made.recolour(planar(coloured), drawn(400, 1), settings))[:, 0, 0, 0]
    hues = (np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in shown]) + 0.5) % 1 - 0.5
    assert -0.1 - 1e-6 <= hues.min() < -0.095
    assert 0.095 < hues.max() <= 0.1 + 1e-6


# --- all of it ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def make():
    return jax.jit(lambda pictures, key: made.views_per_image(pictures, key, SMALL, 0.5))


def test_the_key_decides(make, pictures):
    whole, local = make(pictures, jax.random.key(1))
    assert (whole.shape, local.shape) == ((4, 2, 28, 28, 3), (4, 3, 14, 14, 3))
    for again, first in zip(make(pictures, jax.random.key(1)), (whole, local), strict=True):
        np.testing.assert_array_equal(again, first)
    for other, first in zip(make(pictures, jax.random.key(2)), (whole, local), strict=True):
        assert (np.abs(np.asarray(other) - np.asarray(first)).mean((2, 3, 4)) > 0.05).all()
    assert np.abs(np.asarray(whole)[:, 0] - np.asarray(whole)[:, 1]).mean() > 0.1  # two views of the same pictures


def test_views_are_of_their_own_picture():
    pictures = np.broadcast_to(np.arange(4, dtype=np.uint8)[:, None, None, None] * 60, (4, 32, 32, 3))
    expected = np.asarray(normalise(pictures))[:, 0, 0]
    whole, local = run(pictures, PLAIN)
    for array, count in ((whole, 2), (local, 3)):
        np.testing.assert_allclose(array[:, :, 3, 3], np.stack([expected] * count, 1), atol=1e-4)


def test_probabilities_of_one_reach_every_view_they_are_for(pictures):
    plain = run(pictures, PLAIN)
    mean, std = np.array(PLAIN.mean), np.array(PLAIN.std)
    original = [array * std + mean for array in plain]
    solarized = run(pictures, dataclasses.replace(PLAIN, solarize_prob=1.0))
    away = abs(original[0] - 0.5) > 1e-5
    expected = np.where(original[0] >= 0.5, 1 - original[0], original[0])
    np.testing.assert_allclose((solarized[0] * std + mean)[away], expected[away], atol=1e-5)
    np.testing.assert_allclose(solarized[1], plain[1], atol=1e-5)  # only global views
    for grey, values in zip(run(pictures, dataclasses.replace(PLAIN, grayscale_prob=1.0)), original, strict=True):
        np.testing.assert_allclose(grey * std + mean, np.repeat(luma(values)[..., None], 3, -1), atol=1e-5)


def test_bfloat16_is_the_same_rounded(pictures):
    for rounded, exact in zip(run(pictures, PLAIN, dtype=jnp.bfloat16), run(pictures, PLAIN), strict=True):
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


PROGRAM = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from slt_jax.pretraining.settings import Augmentation
from slt_jax.pretraining.views import views_per_image
from slt_jax.runtime.sharding import device_mesh

settings = Augmentation(image_size=14, local_crop_size=7, num_local_crops=2)
images = np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), np.uint8)
make = jax.jit(lambda images, key: views_per_image(images, key, settings, 0.5))
one = make(images, jax.random.key(3))
mesh = device_mesh()
assert mesh.shape["data"] == 8
spread = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
compiled = make.lower(spread, jax.random.key(3)).compile()
for kind in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
    assert f" {kind}(" not in compiled.as_text() and f" {kind}-start(" not in compiled.as_text(), kind
for ours, theirs in zip(make(spread, jax.random.key(3)), one):
    assert ours.sharding.spec[0] == "data"
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)
"""


def test_eight_devices_make_the_views_of_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
