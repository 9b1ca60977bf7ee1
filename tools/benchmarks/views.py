"""How fast views are made: by slt_jax in one compiled program, and by Pillow on the host. One core: taskset -c 1."""

import random
import time

import jax
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from slt_jax.pretraining.settings import Augmentation
from slt_jax.pretraining.views import SIGMA, SIGMA_SIZE, views_per_image

SIZES = {
    "2 x 224 + 4 x 98 px": (32, 224, Augmentation()),
    "2 x 56 + 6 x 28 px": (64, 64, Augmentation(image_size=56, local_crop_size=28, num_local_crops=6)),
}


def views_speed(repeats: int = 3) -> dict[str, dict[str, float]]:
    """Crops per second of processor time, by sizes and then by who makes the views."""
    found = {}
    for name, (batch, side, settings) in SIZES.items():
        crops = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
        compiled = jax.jit(lambda images, key, own=settings: views_per_image(images, key, own, 0.0))
        key = jax.random.key(0)
        pictures = [Image.fromarray(crop) for crop in crops]
        found[name] = {
            "slt_jax": batch / _seconds(lambda: jax.block_until_ready(compiled(crops, key)), repeats),  # noqa: B023
            "Pillow": batch / _seconds(lambda: [_pillow(picture, settings) for picture in pictures], repeats),  # noqa: B023
        }
    return found


def _seconds(make, repeats: int) -> float:
    make()
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        make()
        taken.append(time.process_time() - start)
    return min(taken)


def _pillow(crop: Image.Image, settings: Augmentation) -> list[np.ndarray]:
    """The views of one crop, float32, as people write them with Pillow."""
    sizes = [(settings.image_size, settings.global_crop_scale, settings.solarize_prob)] * 2
    sizes += [(settings.local_crop_size, settings.local_crop_scale, 0.0)] * settings.num_local_crops
    return [_pillow_view(crop, *size, settings) for size in sizes]


def _pillow_view(crop: Image.Image, size: int, scale, solarize: float, settings: Augmentation) -> np.ndarray:
    side = crop.width
    area, stretch = random.uniform(*scale) * side**2, np.exp(random.uniform(-1, 1) * np.log(4 / 3) / 2)
    width, height = min(side, area**0.5 * stretch), min(side, area**0.5 / stretch)
    left, top = random.uniform(0, side - width), random.uniform(0, side - height)
    view = crop.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    view = view.rotate(random.uniform(-settings.rotation, settings.rotation), Image.Resampling.BILINEAR)
    if random.random() < settings.color_jitter_prob:
        for kind, strength in (
            (ImageEnhance.Brightness, settings.brightness),
            (ImageEnhance.Contrast, settings.contrast),
            (ImageEnhance.Color, settings.saturation),
        ):
            view = kind(view).enhance(random.uniform(1 - strength, 1 + strength))
        hue, *rest = view.convert("HSV").split()
        turn = round(255 * random.uniform(-settings.hue, settings.hue))
        view = Image.merge("HSV", (hue.point(lambda value: (value + turn) % 256), *rest)).convert("RGB")
    if random.random() < settings.grayscale_prob:
        view = view.convert("L").convert("RGB")
    if random.random() < settings.gaussian_blur_prob:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(*SIGMA) * settings.image_size / SIGMA_SIZE))
    if random.random() < solarize:
        view = ImageOps.solarize(view, 128)
    return ((np.asarray(view, np.float32) / 255 - settings.mean) / settings.std).astype(np.float32)
