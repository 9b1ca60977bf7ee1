"""The sheet of views shows each crop beside its own views."""

import numpy as np

from slt_jax.pretraining.settings import Augmentation
from slt_jax.pretraining.sheet import GAP, views_sheet


def test_each_row_is_a_crop_and_its_views():
    plain = Augmentation(
        image_size=28, local_crop_size=14, num_local_crops=2, color_jitter_prob=0.0, grayscale_prob=0.0,
        gaussian_blur_prob=0.0, solarize_prob=0.0, rotation=0.0,
    )  # fmt: skip
    colours = np.array([[200, 40, 40], [40, 40, 200]], np.uint8)
    crops = np.broadcast_to(colours[:, None, None], (2, 32, 32, 3))
    sheet = np.asarray(views_sheet(crops, plain, 0.0, cell=40)).astype(int)
    for row, colour in enumerate(colours.astype(int)):
        line = sheet[24 + row * (40 + GAP) + 10]
        for x in (20, 64, 108, 3 * 44 + 10, 3 * 44 + 24 + 10):
            assert abs(line[x] - colour).max() <= 1
