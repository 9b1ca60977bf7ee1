"""The whole model: the multi-stream encoder in front of a sequence-to-sequence decoder."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Key, Shaped

from slt_jax.config import ModelConfig
from slt_jax.models.backbones import BackboneSizes
from slt_jax.models.decoders import build_decoder, shift_right
from slt_jax.models.layers import split
from slt_jax.models.multistream import MultiStreamEncoder
from slt_jax.models.remat import KEEP_ALL, Memory


class SignTranslator(nnx.Module):
    """`encoder` and `decoder`, named as in v9's checkpoints.

    `backbones` say what each image stream sees with, by the stream's name; `decoder` is from `decoder_settings`, None
    builds the encoder alone.
    """

    def __init__(
        self,
        config: ModelConfig,
        backbones: Mapping[str, BackboneSizes],
        decoder: Mapping[str, Any] | None,
        *,
        dtype=jnp.float32,
        memory: Memory = KEEP_ALL,
        rngs: nnx.Rngs,
    ):
        self.encoder = MultiStreamEncoder(config, backbones, dtype=dtype, memory=memory, rngs=rngs)
        if decoder is not None:
            self.decoder = Decoder(build_decoder(decoder, dtype=dtype, memory=memory, rngs=rngs))

    def __call__(
        self, batch: Mapping[str, Shaped[Array, "b ..."]], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b s vocab"]:
        """Teacher-forced logits, float32; see `MultiStreamEncoder.stages` for the inputs.

        `labels` (B, S) int with -100 = ignore; `decoder_attention_mask` (B, S), by default where labels are not -100.
        """
        return self.joint(batch, key=key)[0]

    def joint(
        self, batch: Mapping[str, Shaped[Array, "b ..."]], *, key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "b s vocab"], Float[Array, "b t d_model"]]:
        """The logits, and the encoded frames that the decoder has seen."""
        encoder_key, decoder_key = split(key, 2)
        encoded = self.encoder(batch, key=encoder_key)
        labels = batch["labels"]
        model = self.decoder.model
        with jax.named_scope("decoder"):
            logits = model(
                encoded,
                batch.get("pad_mask"),
                shift_right(model, labels),
                batch.get("decoder_attention_mask", labels != -100),
                key=decoder_key,
            )
        return logits, encoded


class Decoder(nnx.Module):
    """Only the name between `decoder` and the HuggingFace model in v9's state dict."""

    def __init__(self, model: nnx.Module):
        self.model = model
