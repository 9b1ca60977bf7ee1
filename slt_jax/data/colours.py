"""Changes of a picture's colours, as torchvision makes them. Pictures lie as (..., row, colour, column), in [0, 1]."""

import jax.numpy as jnp
from jax import Array

GREY = (0.2989, 0.587, 0.114)  # ITU-R 601, with torchvision's digits
_COLOUR = -2  # axis


def brighten(pixels: Array, factor: Array) -> Array:
    """Multiply the pixels (..., rows, 3, columns)."""
    return jnp.clip(factor * pixels, 0, 1)


def change_contrast(pixels: Array, factor: Array) -> Array:
    """Move the pixels away from the mean of their grey picture, or towards it."""
    mean = grey(pixels).mean((-3, -1), keepdims=True)
    return jnp.clip(factor * pixels + (1 - factor) * mean, 0, 1)


def saturate(pixels: Array, factor: Array) -> Array:
    """Move each pixel away from its grey, or towards it."""
    return jnp.clip(factor * pixels + (1 - factor) * grey(pixels), 0, 1)


def grey(pixels: Array) -> Array:
    """Luma, (..., rows, 1, columns)."""
    red, green, blue = _colours(pixels)
    return jnp.expand_dims(GREY[0] * red + GREY[1] * green + GREY[2] * blue, _COLOUR)


def turn_hue(pixels: Array, turn: Array) -> Array:
    """Turn the hue in HSV, `turn` in whole circles, (..., 1, 1) without an axis of colour."""
    red, green, blue = _colours(pixels)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(chroma == 0, 1, chroma)
    # The largest is not found by equality: a compiler may round a colour in two ways, and none would be equal.
    hue = jnp.where(
        (red >= green) & (red >= blue), (green - blue) / safe,
        jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    ) + 6 * turn  # fmt: skip

    def colour(start: int) -> Array:
        place = hue + start
        place -= 6 * jnp.floor(place / 6)  # a remainder, which CPUs are slow at
        return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return jnp.stack([colour(5), colour(3), colour(1)], _COLOUR)


def _colours(pixels: Array) -> tuple[Array, Array, Array]:
    return pixels[..., 0, :], pixels[..., 1, :], pixels[..., 2, :]
