"""The encoder as a `jax.export` artefact: weights inside, B and T free, for the CPU, GPUs and TPUs.

`jax.export.deserialize(bytes).call(inputs)` maps the ONNX file's inputs, by name, to its outputs. Any backbone will do.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, export

from slt_jax.decoding.inference import Translator
from slt_jax.export.encoder import encoder_inputs
from slt_jax.models.multistream import MultiStreamEncoder
from slt_jax.streams import BY_NAME, IMAGES, STREAMS

PLATFORMS = ("cpu", "cuda", "tpu")


def encoder_artefact(translator: Translator) -> bytes:
    """The serialised program. B is free, T at most the model's `sequence_length`."""
    structure, params = translator.structure, translator.params
    longest = translator.config.sequence_length
    batch, frames = export.symbolic_shape("B, T", constraints=[f"T <= {longest}"])
    inputs = {
        name: jax.ShapeDtypeStruct((batch, frames, *shape[2:]), dtype)
        for name, (dtype, shape) in encoder_inputs(translator.blueprint).items()
    }

    @jax.jit
    def encode(inputs: dict[str, Array]) -> dict[str, Array]:
        with jax.default_matmul_precision("highest"):
            return _outputs(structure.merge(params).encoder, inputs)

    return bytes(export.export(encode, platforms=PLATFORMS)(inputs).serialize())


def _outputs(encoder: MultiStreamEncoder, inputs: dict[str, Array]) -> dict[str, Array]:
    """What the ONNX file gives, from the encoder's stages."""
    seen = {stream.name: image_by_image(encoder.backbone(stream), inputs[stream.name]) for stream in IMAGES}
    stages = encoder.stages(inputs | seen)
    heads = {stream.head: stages.projected[stream.name] for stream in STREAMS}
    left, right = (inputs[mask] for mask in BY_NAME["hand_l"].hiding_masks)
    flags = {"hand_mask": left | right, "padding_mask": ~inputs["pad_mask"]}
    return {"encoded": stages.encoded} | heads | {name: flag.astype(jnp.float32) for name, flag in flags.items()}


def image_by_image(backbone: nnx.Module, frames: Array) -> Array:
    """Features (B, T, embed_dim) of frames (B, T, 3, H, W) by a backbone that is unaware of the batch.

    Python's `len` cannot give a free size, and modules may ask for it.
    """
    b, t, *shape = frames.shape
    images = frames.reshape(b * t, *shape).transpose(0, 2, 3, 1)
    return jax.vmap(lambda image: backbone(image[None])[0])(images).reshape(b, t, -1)
