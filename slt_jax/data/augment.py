"""Turn a loaded batch into the model's inputs on the device: pure JAX, meant to be jitted.

Flips are drawn by the loader (`flip`), mixed streams here. `valid` says which rows are clips and not filling.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from slt_jax.data.clip_augment import augment
from slt_jax.data.clips import flip_permutation
from slt_jax.data.schema import PAD_MASK
from slt_jax.models.images import normalise
from slt_jax.streams import BY_NAME, IMAGES, MASKED, POSE, STREAMS, Stream


def prepare(
    batch: Mapping[str, Array],
    key: Array | None = None,
    *,
    mix_streams: Mapping[str, float] | None = None,
    augmentation: Mapping[str, Any] | None = None,
    dtype=jnp.float32,
    raw: bool = False,
) -> dict[str, Array]:
    """Turn loaded frames, uint8 (B, T, H, W, 3), and masks into normalised, flipped and mixed frames and their masks.

    Features of frozen backbones (B, T, width) may take the place of frames and stay as they are: the loader has read
    mirrored ones for flipped rows. `key=None` is evaluation: nothing is changed or mixed. `raw` frames stay uint8, a
    quarter of the memory: the model normalises them itself.
    """
    arrays = flip(batch)
    if key is not None and augmentation:
        arrays = augment(arrays, jax.random.fold_in(key, len(STREAMS)), augmentation)
    if key is not None and mix_streams:
        arrays = mix(arrays, key, mix_streams)
    if not raw:
        frames = {stream.name: arrays[stream.name] for stream in IMAGES if stream.name in arrays}
        arrays |= {name: normalise(array, dtype) for name, array in frames.items() if array.ndim == 5}
    return arrays


def flip(batch: Mapping[str, Array]) -> dict[str, Array]:
    """Mirror the rows whose `flip` is set, and remove `flip`.

    A left hand becomes a right hand, with its mask; in the pose x becomes 1 - x and left and right landmarks swap. For
    numbers of landmarks whose sides are not known nothing is flipped (the loader draws no flips then, and says so).
    """
    arrays = dict(batch)
    chosen = arrays.pop("flip", None)
    landmarks = arrays[POSE.mask].shape[-1] if POSE.name in arrays else 0
    permutation = flip_permutation(landmarks)
    if chosen is None or (permutation is None and landmarks):
        return arrays

    def put(name: str, mirrored: Array) -> None:
        original = batch[name]
        arrays[name] = jnp.where(chosen.reshape(-1, *[1] * (original.ndim - 1)), mirrored, original)

    def there(stream: Stream) -> bool:
        return stream.name in batch and stream.mirror in batch  # of a lone hand the loader draws no flips

    for stream in filter(there, IMAGES):
        if batch[stream.name].ndim == 5:  # features are not mirrored here
            put(stream.name, batch[stream.mirror][..., ::-1, :])
    for stream in filter(there, MASKED):
        put(stream.mask, batch[BY_NAME[stream.mirror].mask])
    if not landmarks:
        return arrays
    order = jnp.array(permutation)
    pose = batch[POSE.name].reshape(*batch[POSE.name].shape[:-1], landmarks, 3)
    put(POSE.name, pose.at[..., 0].set(1 - pose[..., 0])[..., order, :].reshape(batch[POSE.name].shape))
    put(POSE.mask, batch[POSE.mask][..., order])
    return arrays


def mix(batch: Mapping[str, Array], key: Array, mix_streams: Mapping[str, float]) -> dict[str, Array]:
    """With its probability, permute a stream and its masks among the valid rows of the batch."""
    arrays = dict(batch)
    valid = arrays.get("valid", jnp.ones(len(arrays[PAD_MASK]), bool))
    for number, stream in enumerate(STREAMS):
        probability = mix_streams.get(stream.name)
        if not probability:
            continue
        decide, shuffle = jax.random.split(jax.random.fold_in(key, number))
        mixed = jax.random.bernoulli(decide, probability)
        rows = jnp.where(mixed, permute_valid(shuffle, valid), jnp.arange(len(valid)))
        arrays |= {name: jnp.take(arrays[name], rows, axis=0) for name in stream.arrays}
    return arrays


def permute_valid(key: Array, valid: Array) -> Array:
    """A random permutation of the rows that leaves invalid rows in place."""
    places = jnp.argsort(~valid, stable=True)  # the valid rows, then the others
    dealt = jnp.argsort(jnp.where(valid, jax.random.uniform(key, valid.shape), 2.0), stable=True)  # these in new order
    return jnp.zeros(len(valid), dealt.dtype).at[places].set(dealt)
