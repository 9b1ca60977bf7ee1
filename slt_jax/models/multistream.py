"""The multi-stream encoder: face, two hands and pose become one vector a frame, in context.

face   (B,T,H,W,3) - ViT ------------------- projector -------------------------------.
hand_l (B,T,H,W,3) - ViT - 0 where missing - projector - 0 where either hand is missing -+- fusion - positions -.
hand_r (B,T,H,W,3) - ViT - 0 where missing - projector - 0 where either hand is missing -+                      |
pose   (B,T,3L) ---------- 0 where unsure -- projector -------------------------------'    temporal encoder <---'
                                                                                           (B,T,d_model)
"""

from collections.abc import Mapping

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


class MultiStreamEncoder(nnx.Module):
    """`backbones` say what the face, left-hand and right-hand streams see with: ViT sizes or classes."""

    def __init__(
        self,
        config: ModelConfig,
        backbones: tuple[BackboneSizes, ...],
        *,
        dtype=jnp.float32,
        memory: Memory = KEEP_ALL,
        rngs: nnx.Rngs,
    ):
        face, left, right = (build_backbone(sizes, dtype=dtype, memory=memory, rngs=rngs) for sizes in backbones)
        width = config.projector_dim

        def projector(in_features: int) -> StreamProjector:
            return StreamProjector(in_features, width, config.projector_dropout, dtype=dtype, rngs=rngs)

        def image_projector(stream: str, backbone: nnx.Module) -> StreamProjector | None:
            return None if projects_by_identity(config, stream, backbone.embed_dim) else projector(backbone.embed_dim)

        self.face_backbone = face
        self.hand_backbone_left = left
        self.hand_backbone_right = right
        self.face_projector = nnx.data(image_projector("face", face))
        self.hand_left_projector = nnx.data(image_projector("hand_left", left))
        self.hand_right_projector = nnx.data(image_projector("hand_right", right))
        self.pose_projector = projector(3 * config.pose_landmarks)
        self.fusion = Fusion(4 * width, config.d_model, config.fusion_dropout, dtype=dtype, rngs=rngs)
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

    def __call__(self, batch: Mapping[str, Array], *, key: Array | None = None) -> Array:
        """Frames (B, T, d_model) from `face`, `hand_l`, `hand_r` (B, T, H, W, 3) and `pose` (B, T, 3L).

        The images of a stream may have become features (B, T, embed_dim) before, by its backbone.
        Optional bool masks: `pad_mask` (B, T) True = real frame; `miss_mask_hl`, `miss_mask_hr` (B, T) True = hand
        missing; `pose_conf_mask` (B, T, L) True = keep the landmark. `key` turns dropout on.
        """
        face_key, left_key, right_key, pose_key, fusion_key, temporal_key = split(key, 6)
        left_missing, right_missing = batch.get("miss_mask_hl"), batch.get("miss_mask_hr")

        face = frame_features(self.face_backbone, batch["face"], self.memory)
        left = zero_where(left_missing, frame_features(self.hand_backbone_left, batch["hand_l"], self.memory))
        right = zero_where(right_missing, frame_features(self.hand_backbone_right, batch["hand_r"], self.memory))
        pose = zero_unsure_landmarks(batch["pose"], batch.get("pose_conf_mask")).astype(self.dtype)

        face = project(self.face_projector, face, face_key)
        left = project(self.hand_left_projector, left, left_key)
        right = project(self.hand_right_projector, right, right_key)
        pose = project(self.pose_projector, pose, pose_key)

        either_missing = union(left_missing, right_missing)
        left, right = zero_where(either_missing, left), zero_where(either_missing, right)

        frames = self.positional(self.fusion([face, left, right, pose], key=fusion_key))
        return self.temporal(frames, batch.get("pad_mask"), key=temporal_key)


def projects_by_identity(config: ModelConfig, stream: str, embed_dim: int) -> bool:
    """Whether features of `face`, `hand_left` or `hand_right` go to the fusion as they are, as v9's hub ones do."""
    given = config.projector
    kind = given.get(stream, "auto") if isinstance(given, Mapping) else given
    return kind == "identity" or (kind == "auto" and config.projector_dim == embed_dim)


def frame_features(backbone: nnx.Module, frames: Array, memory: Memory = KEEP_ALL) -> Array:
    """(B, T, H, W, 3), uint8 or normalised, to (B, T, embed_dim): every frame is an image of its own.

    Features (B, T, embed_dim) stay as they are.
    """
    if frames.ndim == 3:
        return frames
    b, t = frames.shape[:2]
    return memory.stream(backbone, frames.reshape(b * t, *frames.shape[2:])).reshape(b, t, -1)


def project(projector: StreamProjector | None, features: Array, key: Array | None) -> Array:
    return features if projector is None else projector(features, key=key)


def zero_unsure_landmarks(pose: Array, keep: Array | None) -> Array:
    """(B, T, 3L) with x, y and confidence of the landmarks outside `keep` (B, T, L) set to 0."""
    return pose if keep is None else pose * jnp.repeat(keep, 3, axis=-1)


def zero_where(mask: Array | None, features: Array) -> Array:
    """(B, T, features) with the frames of `mask` (B, T) set to 0."""
    return features if mask is None else jnp.where(mask[..., None], 0, features)


def union(first: Array | None, second: Array | None) -> Array | None:
    return second if first is None else first if second is None else first | second


def initial_positions(pos_embed: Array, length: int) -> Array:
    """v9's start of the frame positions: the face backbone's patch positions, cut or zero-padded to (length, d)."""
    patches = pos_embed[0, 1:][:length]
    return jax.lax.pad(patches, 0.0, [(0, length - len(patches), 0), (0, 0, 0)])
