"""Videos and their sentences side by side: a symmetric InfoNCE loss, as GFSLT-VLP (Zhou et al., 2023) learns without
glosses. The decoder's own text encoder reads the sentences.

Its head stands beside the translator while it trains. v9 knows none, so files of v9's have it apart.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Key

from convert.checkpoint import Blueprint
from slt_jax.data.text import IGNORE
from slt_jax.errors import UserError
from slt_jax.models.families import text_encoders
from slt_jax.models.layers import linear, normal
from slt_jax.models.params import Leaf, random_weights
from slt_jax.training.objective import Inputs

HEAD = "contrastive_head"  # the attribute of the head, and what its paths begin with
STATE = "contrastive_state"  # its entry in a `.pt`
CONTRASTIVE = "contrastive"
KEY = f"training.objectives.{CONTRASTIVE}"
ACCURACY = "contrastive_accuracy"  # share of videos and sentences whose own partner is the most alike of the batch
SCALE = f"{HEAD}.logit_scale"
FIRST_SCALE, LARGEST_SCALE = math.log(1 / 0.07), math.log(100)  # CLIP's, as logarithms
SIDES = ("video", "text")


class ContrastiveHead(nnx.Module):
    """CLIP's: a projection of each side without bias, and the logarithm of what similarities are multiplied by."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        init = normal(width**-0.5)
        self.video = linear(width, width, use_bias=False, init=init, dtype=jnp.float32, rngs=rngs)
        self.text = linear(width, width, use_bias=False, init=init, dtype=jnp.float32, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.full((), FIRST_SCALE, jnp.float32))


def add_contrastive_head(model: nnx.Module, width: int, rngs: nnx.Rngs) -> None:
    """Give a translator of `width` the head."""
    model.contrastive_head = ContrastiveHead(width, rngs)  # type: ignore[attr-defined]


def contrastive_params(width: int, seed: int, saved: Any = None) -> dict[str, np.ndarray]:
    """The head's arrays by path: those of a checkpoint's `contrastive_state` where they fit, else new ones."""
    shapes = {f"{HEAD}.{side}.weight": (width, width) for side in SIDES} | {SCALE: ()}
    given = saved if isinstance(saved, Mapping) else {}
    if all(key in given and np.shape(given[key]) == shape for key, shape in shapes.items()):
        kernels = {side: np.asarray(given[f"{HEAD}.{side}.weight"], np.float32).T for side in SIDES}
        scale = np.asarray(given[SCALE], np.float32)
    else:
        head = ContrastiveHead(width, random_weights(seed))
        kernels = {"video": np.asarray(head.video.kernel[...]), "text": np.asarray(head.text.kernel[...])}
        scale = np.asarray(head.logit_scale[...])
    return {f"{HEAD}.{side}.kernel": np.ascontiguousarray(kernels[side]) for side in SIDES} | {SCALE: scale}


def contrastive_state(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`contrastive_state` of a checkpoint, in torch's layouts; empty without a head."""
    if SCALE not in params:
        return {}
    kernels = {side: np.asarray(params[f"{HEAD}.{side}.kernel"]) for side in SIDES}
    weights = {f"{HEAD}.{side}.weight": np.ascontiguousarray(kernel.T) for side, kernel in kernels.items()}
    return weights | {SCALE: np.asarray(params[SCALE])}


def check_text_encoder(plan: Blueprint, texts: Iterable[str]) -> None:
    """Raise UserError where the decoder cannot read texts, or where all texts are the same."""
    check_reads_texts(plan)
    if len(set(texts)) < 2:
        raise UserError(f"{KEY}: all training clips have the same text, so there is nothing to tell apart")


def check_reads_texts(plan: Blueprint) -> None:
    """Raise UserError where the decoder cannot read texts."""
    decoder = plan.decoder or {}
    if "model_type" not in decoder:
        raise UserError(f"{KEY}: {decoder.get('decoder_class')} has no text encoder; use a T5, BART or mBART decoder")
    if not all(decoder.get(name, 1) for name in ("num_layers", "encoder_layers")):
        raise UserError(f"{KEY}: the text encoder of the decoder has no layers; give it some with --decoder-kwargs")


def text_side(leaves: Iterable[Leaf]) -> set[str]:
    """The paths of what the text encoder reads with, embeddings that it shares with the decoder included."""
    return {leaf.path for leaf in leaves if leaf.name.startswith(text_encoders())}


def embeddings(
    model: Any, inputs: Inputs, encoded: Float[Array, "b t d"], key: Key[Array, ""] | None
) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
    """The projected means of a clip's encoded frames and of its sentence's states, of length 1; float32.

    Padding is left out. `key` turns the dropout of the text encoder on.
    """
    decoder, head = model.decoder.model, model.contrastive_head
    tokens = inputs["labels"] != IGNORE
    ids = jnp.where(tokens, inputs["labels"], decoder.config["pad_token_id"])
    with jax.named_scope("text_encoder"):
        states = decoder.encode(ids, tokens, key=key)
    return unit(head.video(mean_of(encoded, inputs["pad_mask"]))), unit(head.text(mean_of(states, tokens)))


def mean_of(states: Float[Array, "b s d"], keep: Bool[Array, "b s"]) -> Float[Array, "b d"]:
    """The mean of the states that are kept, float32; 0 where none is."""
    total = jnp.where(keep[..., None], states.astype(jnp.float32), 0).sum(1)
    return total / jnp.maximum(keep.sum(1, keepdims=True), 1)


def unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """`x` at length 1; what is 0 stays so."""
    return x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def contrastive_loss(
    video: Float[Array, "b d"], text: Float[Array, "b d"], logit_scale: Float[Array, ""], labels: Int[Array, "b s"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """The sum over clips of the mean of both cross entropies, the number of clips, and how many find their partner.

    Each video is to be told which of the batch's sentences is its own, and each sentence which of the videos; `video`
    and `text` have length 1. What has the same `labels` is no negative of each other: it is left out of the sum below
    the fraction. Rows without labels fill up the batch, and count for nothing. A partner found counts a half each way.
    """
    clips = (labels != IGNORE).any(1)
    own = jnp.eye(len(labels), dtype=bool)
    same = (labels[:, None] == labels[None]).all(-1)
    compared = own | (~same & clips[:, None] & clips[None])
    similar = jnp.matmul(video, text.T, precision="highest") * jnp.exp(logit_scale)
    similar = jnp.where(compared, similar, -jnp.inf)
    losses, found = jnp.zeros(len(labels)), jnp.zeros(len(labels))
    for axis in (0, 1):
        losses -= jnp.diagonal(jax.nn.log_softmax(similar, axis=axis)) / 2
        found += (similar.argmax(axis) == jnp.arange(len(labels))) / 2
    return jnp.where(clips, losses, 0).sum(), clips.sum().astype(jnp.float32), jnp.where(clips, found, 0).sum()
