"""Random changes of whole clips on the device: one box, one light and one speed for all frames of a clip.

Each is drawn for every clip of a training batch, from the batch's key. Filling rows and frames stay what they are.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from slt_jax.data.colours import brighten, change_contrast, saturate
from slt_jax.data.schema import PAD_MASK
from slt_jax.streams import IMAGES, MASKED, POSE, STREAMS

ASPECT = 4 / 3  # of the widest box; the highest has its inverse
PIXELS = ("crop_scale", "color")  # what needs pictures, and cannot be done to features of them


def augment(batch: Mapping[str, Array], key: Array, settings: Mapping[str, Any]) -> dict[str, Array]:
    """A loaded batch, its flips done, changed as section `data.augmentation` asks; see `config_rules.AUGMENTATION`.

    Frames are uint8 (B, T, H, W, 3) and stay so.
    """
    arrays = dict(batch)
    keys = dict(zip(("time", "pictures", "hands", "pose"), jax.random.split(key, 4), strict=True))
    if settings.get("speed") or settings.get("drop_frames"):
        arrays |= retimed(arrays, keys["time"], settings.get("speed") or (1.0, 1.0), settings.get("drop_frames", 0.0))
    if settings.get("cut_end"):
        arrays[PAD_MASK] = without_end(arrays[PAD_MASK], jax.random.fold_in(key, 4), settings["cut_end"])
    if settings.get("crop_scale") or settings.get("color"):
        for number, stream in enumerate(IMAGES):
            if stream.name in arrays:
                drawn = jax.random.fold_in(keys["pictures"], number)
                arrays[stream.name] = changed_pictures(arrays[stream.name], drawn, settings)
    if settings.get("drop_hands"):
        arrays |= without_a_hand(arrays, keys["hands"], settings["drop_hands"])
    if settings.get("jitter_pose") and POSE.name in arrays:
        arrays[POSE.name] = shaken(arrays[POSE.name], keys["pose"], settings["jitter_pose"])
    return arrays


# --- time ---------------------------------------------------------------------------------------------------------


def retimed(batch: Mapping[str, Array], key: Array, speed: tuple[float, float], dropped: float) -> dict[str, Array]:
    """All streams and masks of each clip, played at a speed uniform in `speed`, with frames left out.

    A clip that is played slowly shows frames twice, but never loses its end: it is slowed down as far as there is room.
    Each frame is left out with probability `dropped`, the others move together; at least one stays.
    """
    real = batch[PAD_MASK]
    clips, frames = real.shape
    count = real.sum(1)
    pace, leave = jax.random.split(key)
    factor = jax.random.uniform(pace, (clips,), minval=speed[0], maxval=speed[1])
    factor = jnp.maximum(factor, count / frames)
    length = jnp.clip(jnp.round(count / factor), 1, frames).astype(jnp.int32)
    # The middles of the new frames, spread over the old ones.
    places = jnp.floor((jnp.arange(frames) + 0.5) * (count / length)[:, None]).astype(jnp.int32)
    places = jnp.minimum(places, jnp.maximum(count - 1, 0)[:, None])
    kept = jnp.arange(frames) < length[:, None]
    if dropped:
        draws = jax.random.uniform(leave, kept.shape)
        best = jnp.where(kept, draws, -1).argmax(1)  # stays in any case
        kept &= (draws >= dropped) | (jnp.arange(frames) == best[:, None])
        order = jnp.argsort(~kept, axis=1, stable=True)
        places, kept = (jnp.take_along_axis(array, order, 1) for array in (places, kept))
    untouched = count == 0  # a filling row
    places = jnp.where(untouched[:, None], jnp.arange(frames), places)
    arrays = {name for stream in STREAMS for name in stream.arrays if name in batch}
    shown = {name: jax.vmap(lambda clip, at: clip[at])(batch[name], places) for name in arrays}
    return shown | {PAD_MASK: kept & ~untouched[:, None]}


def without_end(real: Array, key: Array, probability: float) -> Array:
    """The mask of real frames (B, T) in which some clips have lost their end; at least one frame stays.

    What is left is a uniform share. The text stays whole: a model so learns how little the beginning of a clip says.
    """
    whether, share = jax.random.split(key)
    clips, frames = real.shape
    left = jnp.maximum(jnp.ceil(real.sum(1) * jax.random.uniform(share, (clips,))), 1)
    cut = jax.random.bernoulli(whether, probability, (clips,))
    return real & (~cut[:, None] | (jnp.arange(frames) < left[:, None]))


# --- pictures -----------------------------------------------------------------------------------------------------


def changed_pictures(frames: Array, key: Array, settings: Mapping[str, Any]) -> Array:
    """Frames (B, T, H, W, 3) of one stream, each clip cut to one box and in one light."""
    where, light = jax.random.split(key)
    pixels = frames.astype(jnp.float32) / 255
    if settings.get("crop_scale"):
        pixels = cut_to_boxes(pixels, where, settings["crop_scale"])
    if settings.get("color"):
        strength = settings["color"]
        factors = jax.random.uniform(light, (3, len(frames), 1, 1, 1, 1), minval=1 - strength, maxval=1 + strength)
        pixels = pixels.swapaxes(-1, -2)
        for change, factor in zip((brighten, change_contrast, saturate), factors, strict=True):
            pixels = change(pixels, factor)
        pixels = pixels.swapaxes(-1, -2)
    return jnp.round(255 * jnp.clip(pixels, 0, 1)).astype(jnp.uint8)


def cut_to_boxes(pixels: Array, key: Array, scale: tuple[float, float]) -> Array:
    """Each clip of (B, T, H, W, 3) cut to a box and enlarged to what it was, antialiased.

    The area of a box is uniform in `scale`, its aspect log-uniform between 3/4 and 4/3 as far as it fits (Szegedy et
    al., 2015).
    """
    high, wide = pixels.shape[2:4]
    draws = jax.random.uniform(key, (4, len(pixels)))
    area = scale[0] + (scale[1] - scale[0]) * draws[0]
    widest = jnp.minimum(jnp.log(ASPECT), -jnp.log(area))
    stretch = jnp.exp(widest * (2 * draws[1] - 1) / 2)
    sides = jnp.stack([jnp.sqrt(area) / stretch, jnp.sqrt(area) * stretch], 1)  # shares of height and width
    corner = (1 - sides) * draws[2:].T * jnp.array([high, wide])

    def cut(clip: Array, side: Array, start: Array) -> Array:
        shape = clip.shape
        return jax.image.scale_and_translate(clip, shape, (1, 2), 1 / side, -start / side, "linear")

    return jax.vmap(cut)(pixels, sides, corner)


# --- hands and poses ----------------------------------------------------------------------------------------------


def without_a_hand(batch: Mapping[str, Array], key: Array, probability: float) -> dict[str, Array]:
    """In some clips one hand, either with equal probability, is hidden in all frames."""
    hands = [stream for stream in MASKED if stream.mask in batch]
    which, whether = jax.random.split(key)
    clips = len(batch[PAD_MASK])
    chosen = jax.random.randint(which, (clips,), 0, max(len(hands), 1))
    hidden = jax.random.bernoulli(whether, probability, (clips,))
    return {
        hand.mask: batch[hand.mask] | (hidden & (chosen == number))[:, None]
        for number, hand in enumerate(hands) if hand.mask
    }  # fmt: skip


def shaken(pose: Array, key: Array, deviation: float) -> Array:
    """Poses (B, T, 3L) with Gaussian noise on x and y, in the unit of the poses; confidences stay."""
    points = pose.reshape(*pose.shape[:-1], -1, 3)
    noise = deviation * jax.random.normal(key, (*points.shape[:-1], 2))
    return points.at[..., :2].add(noise).reshape(pose.shape)
