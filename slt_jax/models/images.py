"""ImageNet's normalisation, which DINOv2 and v9 were trained with."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

# In the order red, green, blue.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise(images: UInt8[Array | np.ndarray, "*n h w 3"], dtype=jnp.float32) -> Float[Array, "*n h w 3"]:
    """uint8 to ImageNet's mean 0 and deviation 1."""
    mean, std = jnp.array(IMAGE_MEAN, jnp.float32), jnp.array(IMAGE_STD, jnp.float32)
    return ((jnp.asarray(images, jnp.float32) / 255 - mean) / std).astype(dtype)
