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

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Key, Num, Shaped

from slt_jax.config import ModelConfig
from slt_jax.models.backbones import BackboneSizes, build_backbone
from slt_jax.models.fusion import Fusion, Positions, StreamProjector
from slt_jax.models.layers import split
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.temporal import TemporalEncoder
from slt_jax.streams import IMAGES, STREAMS, Stream, images_of, streams_of

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

    backbone: dict[str, Float[Array, "b t embed_dim"]]  # features of the image streams, 0 where missing
    projected: dict[str, Float[Array, "b t projector_dim"]]  # of every stream, before a pair is hidden
    fused: Float[Array, "b t d_model"]  # with positions
    encoded: Float[Array, "b t d_model"]


class MultiStreamEncoder(nnx.Module):
    """The encoder of the streams that `config` has.

    `backbones` are ViT sizes or classes for each image stream, by its name.
    """

    def __init__(
        self,
        config: ModelConfig,
        backbones: Mapping[str, BackboneSizes],
        *,
        dtype=jnp.float32,
        memory: Memory = KEEP_ALL,
        rngs: nnx.Rngs,
    ):
        width, self.streams = config.projector_dim, streams_of(config)
        for stream in images_of(config):
            backbone = build_backbone(backbones[stream.name], dtype=dtype, memory=memory, rngs=rngs)
            setattr(self, stream.backbone, backbone)
        for stream in self.streams:
            projector = None
            features = self.backbone(stream).embed_dim if stream.images else 3 * config.pose_landmarks
            if not (stream.images and projects_by_identity(config, stream, features)):
                projector = StreamProjector(features, width, config.projector_dropout, dtype=dtype, rngs=rngs)
            setattr(self, stream.projector, nnx.data(projector))
        self.fusion = Fusion(len(self.streams) * width, config.d_model, config.fusion_dropout, dtype=dtype, rngs=rngs)
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

    def backbone(self, stream: Stream) -> Any:
        """The backbone of an image stream: images (N, H, W, 3) to features (N, embed_dim)."""
        return getattr(self, stream.backbone)

    def projector(self, stream: Stream) -> StreamProjector | None:
        """The projector of a stream; None if its features are fused as they are."""
        return getattr(self, stream.projector)

    def __call__(
        self, batch: Mapping[str, Shaped[Array, "b ..."]], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b t d_model"]:
        """Encoded frames (B, T, d_model); see `stages` for the inputs."""
        return self.stages(batch, key=key).encoded

    def stages(self, batch: Mapping[str, Shaped[Array, "b ..."]], *, key: Key[Array, ""] | None = None) -> Stages:
        """The forward pass. Under `jax.jit`, a stage that nobody reads is not computed.

        Inputs are `face`, `hand_l`, `hand_r` (B, T, H, W, 3) and `pose` (B, T, 3L). The images of a stream may have
        become features (B, T, embed_dim) before, by its backbone. Optional bool masks: `pad_mask` (B, T) True = real
        frame; `miss_mask_hl`, `miss_mask_hr` (B, T) True = hand missing; `pose_conf_mask` (B, T, L) True = keep the
        landmark. `key` turns dropout on.
        """
        *frame_keys, temporal_key = split(key, len(self.streams) + 2)
        seen = self._seen(batch, frame_keys)
        fused, encoded = self._in_context(seen.fused, batch.get("pad_mask"), temporal_key)
        return seen._replace(fused=fused, encoded=encoded)

    def frames(self, batch: Mapping[str, Shaped[Array, "b ..."]]) -> Float[Array, "b t d_model"]:
        """What is computed of each frame by itself, so that it need not be computed again as a window slides.

        Inputs are those of `stages`; `in_context` goes on from here.
        """
        return self._seen(batch, split(None, len(self.streams) + 1)).fused

    def in_context(
        self, frames: Float[Array, "b t d_model"], pad_mask: Bool[Array, "b t"] | None
    ) -> Float[Array, "b t d_model"]:
        """Encoded frames (B, T, d_model) from `frames`, the first of which is the window's first."""
        return self._in_context(frames, pad_mask, None)[1]

    def _seen(self, batch: Mapping[str, Array], keys: Sequence[Key[Array, ""] | None]) -> Stages:
        """The stages of frames by themselves; `fused` is without positions, and nothing is encoded yet."""
        *stream_keys, fusion_key = keys
        features = {stream.name: self._features(stream, batch) for stream in self.streams}
        projected = {
            stream.name: self._projected(stream, features[stream.name], stream_key)
            for stream, stream_key in zip(self.streams, stream_keys, strict=True)
        }
        own = {name: array for name, array in batch.items() if name in {stream.mask for stream in self.streams}}
        shown = [zero_where(hidden(stream, own), projected[stream.name]) for stream in self.streams]
        with jax.named_scope("fusion"):
            fused = self.fusion(shown, key=fusion_key)
        backbone = {stream.name: features[stream.name] for stream in self.streams if stream.images}
        return Stages(backbone, projected, fused, fused)

    def _in_context(
        self, fused: Float[Array, "b t d"], pad_mask: Bool[Array, "b t"] | None, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t d"]]:
        with jax.named_scope("fusion"):
            fused = self.positional(fused)
        with jax.named_scope("temporal"):
            return fused, self.temporal(fused, pad_mask, key=key)

    def _features(self, stream: Stream, batch: Mapping[str, Array]) -> Float[Array, "b t d"]:
        mask = batch.get(stream.mask)
        if not stream.images:
            return zero_unsure_landmarks(batch[stream.name], mask).astype(self.dtype)
        with jax.named_scope(stream.backbone):
            return zero_where(mask, frame_features(self.backbone(stream), batch[stream.name], self.memory))

    def _projected(
        self, stream: Stream, features: Float[Array, "b t d"], key: Key[Array, ""] | None
    ) -> Float[Array, "b t projector_dim"]:
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


def frame_features(
    backbone: Callable[[Array], Array], frames: Num[Array, "b t *image"], memory: Memory = KEEP_ALL
) -> Float[Array, "b t embed_dim"]:
    """(B, T, H, W, 3), uint8 or normalised, to features: every frame is an image of its own.

    Features (B, T, embed_dim) stay as they are.
    """
    if frames.ndim == 3:
        return frames
    b, t = frames.shape[:2]
    return memory.stream(backbone, frames.reshape(b * t, *frames.shape[2:])).reshape(b, t, -1)


def zero_unsure_landmarks(
    pose: Float[Array, "b t coordinates"], keep: Bool[Array, "b t landmarks"] | None
) -> Float[Array, "b t coordinates"]:
    """x, y and confidence of the landmarks outside `keep` set to 0."""
    return pose if keep is None else pose * jnp.repeat(keep, 3, axis=-1)


def zero_where(mask: Bool[Array, "b t"] | None, features: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """The frames of `mask` set to 0."""
    return features if mask is None else jnp.where(mask[..., None], 0, features)


def hidden(stream: Stream, batch: Mapping[str, Array]) -> Bool[Array, "b t"] | None:
    """True where a stream of the same pair is missing; None for a stream by itself, or without masks."""
    masks = [batch[mask] for mask in stream.hiding_masks if batch.get(mask) is not None]
    return reduce(or_, masks) if masks else None


def initial_positions(pos_embed: Float[Array, "1 n d"], length: int) -> Float[Array, "{length} d"]:
    """v9's start of the frame positions: the face backbone's patch positions, cut or padded with zeros."""
    patches = pos_embed[0, 1:][:length]
    return jax.lax.pad(patches, 0.0, [(0, length - len(patches), 0), (0, 0, 0)])
