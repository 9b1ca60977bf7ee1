"""The multi-stream encoder: from face, two hands and pose to one vector per frame, in context.

face   (B,T,H,W,3) - ViT ------------------- projector -------------------------------.
hand_l (B,T,H,W,3) - ViT - 0 where missing - projector - 0 where either hand is missing -+- fusion - positions -.
hand_r (B,T,H,W,3) - ViT - 0 where missing - projector - 0 where either hand is missing -+                      |
pose   (B,T,3L) ---------- 0 where unsure -- projector -------------------------------'    temporal encoder <---'
                                                                                           (B,T,d_model)
                     |                           |                                  |             |
stages:              backbone                    projected                          fused         encoded

The streams are the rows of `slt_jax.streams`; another row is another line of this figure.
"""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from slt_jax.config import ModelConfig
from slt_jax.models.backbones import BackboneSizes, build_backbone
from slt_jax.models.fusion import Fusion, Positions, StreamProjector
from slt_jax.models.layers import split
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.temporal import TemporalEncoder
from slt_jax.streams import IMAGES, STREAMS, Stream

# The encoder's attributes, in the order of the figure and of torch's `state_dict`.
ENCODER_PARTS = (
    *(stream.backbone for stream in IMAGES),
    *(stream.projector for stream in STREAMS),
    "fusion",
    "positional",
    "temporal",
)


class Stages(NamedTuple):
    """What the encoder computes, stage by stage. Mappings are by the stream's name."""

    backbone: dict[str, Array]  # features (B, T, embed_dim) of the image streams, 0 where missing
    projected: dict[str, Array]  # (B, T, projector_dim) of every stream, before a pair is hidden
    fused: Array  # (B, T, d_model), with positions
    encoded: Array  # (B, T, d_model)


class MultiStreamEncoder(nnx.Module):
    """The encoder of all streams. `backbones` are ViT sizes or classes for each image stream, by its name."""

    def __init__(
        self,
        config: ModelConfig,
        backbones: Mapping[str, BackboneSizes],
        *,
        dtype=jnp.float32,
        memory: Memory = KEEP_ALL,
        rngs: nnx.Rngs,
    ):
        width = config.projector_dim
        for stream in IMAGES:
            backbone = build_backbone(backbones[stream.name], dtype=dtype, memory=memory, rngs=rngs)
            setattr(self, stream.backbone, backbone)
        for stream in STREAMS:
            projector = None
            features = self.backbone(stream).embed_dim if stream.images else 3 * config.pose_landmarks
            if not (stream.images and projects_by_identity(config, stream, features)):
                projector = StreamProjector(features, width, config.projector_dropout, dtype=dtype, rngs=rngs)
            setattr(self, stream.projector, nnx.data(projector))
        self.fusion = Fusion(len(STREAMS) * width, config.d_model, config.fusion_dropout, dtype=dtype, rngs=rngs)
        self.positional = Positions(config.sequence_length, config.d_model, dtype=dtype, rngs=rngs)
        self.temporal = TemporalEncoder(
            config.d_model,
            config.temporal_nhead,
            config.temporal_layers,
            config.temporal_dim_feedforward,
            config.temporal_dropout,
            dtype=dtype,
            memory=memory,
            rngs=rngs,
        )
        self.dtype = dtype
        self.memory = memory

    def backbone(self, stream: Stream) -> nnx.Module:
        """The backbone of an image stream: images (N, H, W, 3) to features (N, embed_dim)."""
        return getattr(self, stream.backbone)

    def projector(self, stream: Stream) -> StreamProjector | None:
        """The projector of a stream; None if its features are fused as they are."""
        return getattr(self, stream.projector)

    def __call__(self, batch: Mapping[str, Array], *, key: Array | None = None) -> Array:
        """Encoded frames (B, T, d_model); see `stages` for the inputs."""
        return self.stages(batch, key=key).encoded

    def stages(self, batch: Mapping[str, Array], *, key: Array | None = None) -> Stages:
        """The forward pass. Under `jax.jit`, a stage that nobody reads is not computed.

        Inputs are `face`, `hand_l`, `hand_r` (B, T, H, W, 3) and `pose` (B, T, 3L). The images of a stream may have
        become features (B, T, embed_dim) before, by its backbone. Optional bool masks: `pad_mask` (B, T) True = real
        frame; `miss_mask_hl`, `miss_mask_hr` (B, T) True = hand missing; `pose_conf_mask` (B, T, L) True = keep the
        landmark. `key` turns dropout on.
        """
        *stream_keys, fusion_key, temporal_key = split(key, len(STREAMS) + 2)
        features = {stream.name: self._features(stream, batch) for stream in STREAMS}
        projected = {
            stream.name: self._projected(stream, features[stream.name], stream_key)
            for stream, stream_key in zip(STREAMS, stream_keys, strict=True)
        }
        shown = [zero_where(hidden(stream, batch), projected[stream.name]) for stream in STREAMS]
        with jax.named_scope("fusion"):
            fused = self.positional(self.fusion(shown, key=fusion_key))
        with jax.named_scope("temporal"):
            encoded = self.temporal(fused, batch.get("pad_mask"), key=temporal_key)
        return Stages({stream.name: features[stream.name] for stream in IMAGES}, projected, fused, encoded)

    def _features(self, stream: Stream, batch: Mapping[str, Array]) -> Array:
        mask = batch.get(stream.mask)
        if not stream.images:
            return zero_unsure_landmarks(batch[stream.name], mask).astype(self.dtype)
        with jax.named_scope(stream.backbone):
            return zero_where(mask, frame_features(self.backbone(stream), batch[stream.name], self.memory))

    def _projected(self, stream: Stream, features: Array, key: Array | None) -> Array:
        projector = self.projector(stream)
        if projector is None:
            return features
        with jax.named_scope(stream.projector):
            return projector(features, key=key)


def projects_by_identity(config: ModelConfig, stream: Stream, embed_dim: int) -> bool:
    """Whether the features of an image stream go to the fusion as they are, as v9's hub ones do."""
    given = config.projector
    kind = given.get(stream.key, "auto") if isinstance(given, Mapping) else given
    return kind == "identity" or (kind == "auto" and config.projector_dim == embed_dim)


def frame_features(backbone: nnx.Module, frames: Array, memory: Memory = KEEP_ALL) -> Array:
    """(B, T, H, W, 3), uint8 or normalised, to (B, T, embed_dim): every frame is an image of its own.

    Features (B, T, embed_dim) stay as they are.
    """
    if frames.ndim == 3:
        return frames
    b, t = frames.shape[:2]
    return memory.stream(backbone, frames.reshape(b * t, *frames.shape[2:])).reshape(b, t, -1)


def zero_unsure_landmarks(pose: Array, keep: Array | None) -> Array:
    """(B, T, 3L) with x, y and confidence of the landmarks outside `keep` (B, T, L) set to 0."""
    return pose if keep is None else pose * jnp.repeat(keep, 3, axis=-1)


def zero_where(mask: Array | None, features: Array) -> Array:
    """(B, T, features) with the frames of `mask` (B, T) set to 0."""
    return features if mask is None else jnp.where(mask[..., None], 0, features)


def hidden(stream: Stream, batch: Mapping[str, Array]) -> Array | None:
    """(B, T) True where a stream of the same pair is missing; None for a stream by itself, or without masks."""
    masks = [batch[mask] for mask in stream.hiding_masks if batch.get(mask) is not None]
    return reduce(or_, masks) if masks else None


def initial_positions(pos_embed: Array, length: int) -> Array:
    """v9's start of the frame positions: the face backbone's patch positions, cut or zero-padded to (length, d)."""
    patches = pos_embed[0, 1:][:length]
    return jax.lax.pad(patches, 0.0, [(0, length - len(patches), 0), (0, 0, 0)])
