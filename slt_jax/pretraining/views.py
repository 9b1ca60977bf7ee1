"""The views of a crop, made on the device: random boxes, mirrored, blurred, turned, recoloured, solarised.

Resizing a box, mirroring and blurring are linear along the rows and along the columns. So all three are one matrix for
the rows and one for the columns of each view. A rotation is a shear of the rows, then one of the columns. Nothing
gathers pixels, which TPUs and vectorised CPUs are slow at. In between, pictures lie as (row, colour, column): no
product transposes them.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from slt_jax.data.colours import brighten, change_contrast, grey, saturate, turn_hue
from slt_jax.pretraining.settings import Augmentation

ASPECT = 4 / 3  # of the widest box; the highest has its inverse
SIGMA, SIGMA_SIZE = (0.1, 2.0), 224  # of the blur, in pixels, where global views are so large
NO_BLUR = 0.01  # a deviation, in pixels, at which neighbours weigh nothing in float32
SOLARIZED_FROM = 0.5
BITS = 2  # of a shift that a shear looks at together: fewer passes over the picture than with 1
# What is drawn for a view, each uniform in [0, 1). Others stay what they are if one is not used.
DRAWN = ("area", "aspect", "x", "y", "mirrored", "angle", "jittered", "brightness", "contrast", "saturation", "hue",
         "grey", "blurred", "sigma", "solarized")  # fmt: skip


def views_per_image(
    images: Array, key: Array, settings: Augmentation, hflip: float, dtype=jnp.float32
) -> tuple[Array, Array]:
    """Two global and L local views of each of `images`, uint8 (N, S, S, 3), normalised by mean and deviation.

    Returns (N, 2, G, G, 3) and (N, L, l, l, 3): a crop's views are where the crop is, and none travels between devices.
    Views are mirrored with probability `hflip`. Random numbers are drawn for the whole batch, so any number of devices
    gives the same views. Call it inside a compiled function.
    """
    sources = images.astype(jnp.float32).swapaxes(2, 3) / 255
    sizes = ((settings.image_size, 2, settings.global_crop_scale, settings.solarize_prob),
             (settings.local_crop_size, settings.num_local_crops, settings.local_crop_scale, 0.0))  # fmt: skip
    made = []
    for number, (size, count, scale, solarize) in enumerate(sizes):
        if not count:
            made.append(jnp.zeros((len(images), 0, size, size, 3), dtype))
            continue
        draws = jax.random.uniform(jax.random.fold_in(key, number), (len(images), count, len(DRAWN)))
        drawn = {name: draws[..., place] for place, name in enumerate(DRAWN)}
        pixels = recolour(cut(sources, drawn, size, scale, hflip, settings), drawn, settings)
        if solarize:
            chosen = (drawn["solarized"] < solarize)[..., None, None, None]
            pixels = jnp.where(chosen & (pixels >= SOLARIZED_FROM), 1 - pixels, pixels)
        mean, std = (jnp.array(values, jnp.float32) for values in (settings.mean, settings.std))
        made.append(((pixels.swapaxes(-1, -2) - mean) / std).astype(dtype))
    return made[0], made[1]


# --- boxes, mirrors, blur and rotation ----------------------------------------------------------------------------


def cut(
    sources: Array, drawn: dict[str, Array], size: int, scale: Sequence[float], hflip: float, settings: Augmentation
) -> Array:
    """The views in their first colours, float32 (N, V, size, 3, size) in [0, 1], of `sources`, (N, S, 3, S).

    The area of a box is uniform in `scale`, its aspect log-uniform between 3/4 and 4/3 as far as the box then fits into
    the picture. torchvision draws again where it does not, so its largest boxes are rarer.
    """
    side = sources.shape[1]
    left, top, width, height = (side * part for part in boxes(drawn, scale))
    steepest = math.radians(settings.rotation)
    angle = steepest * (2 * drawn["angle"] - 1)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    # Turned pictures are sheared ones, scaled. The scale belongs to the box; what shears move into view lies around it.
    down_by = reach(math.tan(steepest) * size / 2)
    high = size + math.prod(down_by) if steepest else size
    across_by = reach(math.sin(steepest) * math.cos(steepest) * high / 2)
    wide = size + math.prod(across_by) if steepest else size
    # An edge is repeated as far as the picture around a box at the edge can be turned into view.
    beyond = math.ceil(side * (wide / size / math.cos(steepest) - 1) / 2) if steepest else 0
    rows = resizing(top + height / 2, height / size * cosine, high, side, beyond)
    columns = resizing(left + width / 2, width / size / cosine, wide, side, beyond)
    if hflip:
        columns = jnp.where((drawn["mirrored"] < hflip)[..., None, None], columns[..., ::-1, :], columns)
    if settings.gaussian_blur_prob:
        sigma = blur_sigma(drawn, settings)
        rows, columns = blurring(sigma, high) @ rows, blurring(sigma, wide) @ columns
    pixels = jnp.einsum("nvoh,nhcw->nvocw", rows, sources)
    pixels = jnp.einsum("nvocw,nvpw->nvocp", pixels, columns)
    if steepest:
        down = jnp.arange(high)[:, None, None] - (high - 1) / 2
        pixels = shifted(pixels, (-sine * cosine)[..., None, None, None] * down, -1, across_by)
        across = jnp.arange(size) - (size - 1) / 2
        pixels = shifted(pixels, (sine / cosine)[..., None, None, None] * across, -3, down_by)
    return jnp.clip(pixels, 0, 1)  # bicubic weights overshoot


def boxes(drawn: dict[str, Array], scale: Sequence[float]) -> tuple[Array, Array, Array, Array]:
    """Left, top, width and height of the boxes, as shares of the picture's side."""
    area = scale[0] + (scale[1] - scale[0]) * drawn["area"]
    widest = jnp.minimum(math.log(ASPECT), -jnp.log(area))  # wider ones would not fit
    stretch = jnp.exp(widest * (2 * drawn["aspect"] - 1) / 2)
    width, height = jnp.sqrt(area) * stretch, jnp.sqrt(area) / stretch
    return drawn["x"] * (1 - width), drawn["y"] * (1 - height), width, height


def resizing(centre: Array, step: Array, size: int, side: int, beyond: int = 0) -> Array:
    """Weights (..., size, side) by which `size` pixels are made of `side` ones: bicubic, antialiased, as Pillow's.

    The new ones are `step` old ones apart, about `centre`. Up to `beyond` pixels outside, the edge is repeated.
    """
    places = centre[..., None] + (jnp.arange(size) - (size - 1) / 2) * step[..., None]
    pixels = jnp.arange(-beyond, side + beyond) + 0.5
    distance = jnp.abs(pixels - places[..., None]) / jnp.maximum(step, 1)[..., None, None]
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0))
    weights = weights / weights.sum(-1, keepdims=True)
    if not beyond:
        return weights
    inside = weights[..., beyond:-beyond]
    inside = inside.at[..., 0].add(weights[..., :beyond].sum(-1))
    return inside.at[..., -1].add(weights[..., -beyond:].sum(-1))


def blur_sigma(drawn: dict[str, Array], settings: Augmentation) -> Array:
    """The deviation of each view's blur in pixels, next to nothing for views that are not blurred.

    Uniform in 0.1 to 2 pixels, as DINOv2's, where global views have 224 pixels, and in proportion elsewhere.
    """
    least, most = (sigma * settings.image_size / SIGMA_SIZE for sigma in SIGMA)
    chosen = drawn["blurred"] < settings.gaussian_blur_prob
    return jnp.where(chosen, least + (most - least) * drawn["sigma"], NO_BLUR)


def blurring(sigma: Array, size: int) -> Array:
    """Weights (..., size, size) of a Gaussian blur. Pictures go on mirrored beyond their edges, as torchvision's.

    They reach as far as float32 does, where torchvision's end at a given number of pixels.
    """
    at, of = jnp.arange(size)[:, None], jnp.arange(size)
    last = size - 1
    weights = jnp.exp(-0.5 * ((at - of) / sigma[..., None, None]) ** 2)
    for mirrored, twice in ((at + of, of == 0), (2 * last - at - of, of == last)):
        weights += jnp.where(twice, 0, jnp.exp(-0.5 * (mirrored / sigma[..., None, None]) ** 2))
    return weights / weights.sum(-1, keepdims=True)


def reach(most: float) -> list[int]:
    """How many copies `shifted` chooses among, step by step, for shifts from -most to most: 2**BITS, less at last."""
    count, choices = math.ceil(2 * most) + 2, []
    while count > 1:
        choices.append(min(1 << BITS, count))
        count = -(-count // choices[-1])
    return choices


def shifted(pixels: Array, shift: Array, axis: int, choices: Sequence[int]) -> Array:
    """What lies `shift` pixels further on along `axis`, between pixels linearly. `shift` is one number along it.

    The result is shorter by the product of `choices`, half of it at either end, see `reach`. Step by step, the bits of
    a shift choose one of a few copies that lie side by side.
    """
    room = math.prod(choices)
    size, length = pixels.shape[axis] - room, pixels.shape[axis]
    shift = shift + room / 2
    whole = jnp.floor(shift).astype(jnp.int32)
    for step in reversed(range(len(choices))):
        worth = 1 << BITS * step
        length -= (choices[step] - 1) * worth
        chosen = whole >> BITS * step & (1 << BITS) - 1
        copies = [jax.lax.slice_in_dim(pixels, k * worth, k * worth + length, axis=axis) for k in range(choices[step])]
        pixels = copies[0]
        for k, copy in enumerate(copies[1:], 1):
            pixels = jnp.where(chosen == k, copy, pixels)
    before, after = (jax.lax.slice_in_dim(pixels, k, k + size, axis=axis) for k in (0, 1))
    return before + (after - before) * (shift - whole)


# --- colours ------------------------------------------------------------------------------------------------------


def recolour(pixels: Array, drawn: dict[str, Array], settings: Augmentation) -> Array:
    """Jitter brightness, contrast, saturation and hue, in this order (torchvision's is random), and make some grey."""
    jittered = drawn["jittered"] < settings.color_jitter_prob

    def factor(name: str, strength: float) -> Array:
        least = max(0.0, 1 - strength)
        value = least + (1 + strength - least) * drawn[name]
        return jnp.where(jittered, value, 1)[..., None, None, None]

    if settings.color_jitter_prob:
        if settings.brightness:
            pixels = brighten(pixels, factor("brightness", settings.brightness))
        if settings.contrast:
            pixels = change_contrast(pixels, factor("contrast", settings.contrast))
        if settings.saturation:
            pixels = saturate(pixels, factor("saturation", settings.saturation))
        if settings.hue:
            turn = jnp.where(jittered, settings.hue * (2 * drawn["hue"] - 1), 0)
            pixels = turn_hue(pixels, turn[..., None, None])
    if settings.grayscale_prob:
        pixels = jnp.where((drawn["grey"] < settings.grayscale_prob)[..., None, None, None], grey(pixels), pixels)
    return pixels
