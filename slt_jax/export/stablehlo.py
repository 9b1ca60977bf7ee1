"""The encoder as a `jax.export` artefact: weights inside, B and T free, for the CPU, GPUs and TPUs.

`jax.export.deserialize(bytes).call(inputs)` maps the ONNX file's inputs, by name, to its outputs. Any backbone will do.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, export

from slt_jax.decoding.inference import Translator
from slt_jax.export.encoder import FLAGS, HEADS, IMAGES, encoder_inputs
from slt_jax.models.multistream import MultiStreamEncoder, frame_features, project, zero_where

PLATFORMS = ("cpu", "cuda", "tpu")


def encoder_artefact(translator: Translator) -> bytes:
    """The serialised program. B is free, T at most the model's `sequence_length`."""
    structure, params = translator._structure, translator.params
    longest = translator.config.sequence_length
    batch, frames = export.symbolic_shape("B, T", constraints=[f"T <= {longest}"])
    sides = {"B": batch, "T": frames}
    inputs = {
        name: jax.ShapeDtypeStruct(tuple(sides.get(side, side) for side in shape), dtype)
        for name, (dtype, shape) in encoder_inputs(translator.blueprint).items()
    }

    @jax.jit
    def encode(inputs: dict[str, Array]) -> dict[str, Array]:
        with jax.default_matmul_precision("highest"):
            return _outputs(structure.merge(params).encoder, inputs)

    return bytes(export.export(encode, platforms=PLATFORMS)(inputs).serialize())


def _outputs(encoder: MultiStreamEncoder, inputs: dict[str, Array]) -> dict[str, Array]:
    """What the ONNX file gives, from the encoder's parts."""
    missing = {"hand_l": inputs["miss_mask_hl"], "hand_r": inputs["miss_mask_hr"]}
    backbones = encoder.face_backbone, encoder.hand_backbone_left, encoder.hand_backbone_right
    projectors = encoder.face_projector, encoder.hand_left_projector, encoder.hand_right_projector
    heads = []
    for name, backbone, projector in zip(IMAGES, backbones, projectors, strict=True):
        frames = inputs[name].transpose(0, 1, 3, 4, 2)
        features = zero_where(missing.get(name), frame_features(image_by_image(backbone), frames))
        heads.append(project(projector, features, None))
    heads.append(project(encoder.pose_projector, inputs["pose"], None))

    either = missing["hand_l"] | missing["hand_r"]
    face, left, right, pose = heads
    streams = [face, zero_where(either, left), zero_where(either, right), pose]
    encoded = encoder.temporal(encoder.positional(encoder.fusion(streams)), inputs["pad_mask"])
    flags = (mask.astype(jnp.float32) for mask in (either, ~inputs["pad_mask"]))
    return {"encoded": encoded} | dict(zip(HEADS + FLAGS, (*heads, *flags), strict=True))


def image_by_image(backbone: nnx.Module):
    """`backbone`, unaware of the batch: Python's `len` cannot give a free size, and modules may ask for it."""
    return jax.vmap(lambda image: backbone(image[None])[0])
