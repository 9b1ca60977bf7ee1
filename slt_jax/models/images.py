"""ImageNet's normalisation, which DINOv2 and v9 were trained with."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

# In the order red, green, blue.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise(
    images: UInt8[Array | np.ndarray, "*n h w 3"],
    dtype=jnp.float32,
    mean: Sequence[float] = IMAGE_MEAN,
    std: Sequence[float] = IMAGE_STD,
) -> Float[Array, "*n h w 3"]:
    """uint8 to mean 0 and deviation 1 of pictures like ImageNet's, or like those of this `mean` and `std`."""
    means, deviations = jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)
    return ((jnp.asarray(images, jnp.float32) / 255 - means) / deviations).astype(dtype)
