"""A trained translator for use from Python: from batches of streams to encoded frames, logits and token ids."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int32, Shaped

from convert.checkpoint import Blueprint
from slt_jax.config import ModelConfig
from slt_jax.data.schema import CLIP_ARRAYS
from slt_jax.data.text import RowStarts
from slt_jax.decoding.engine import Engine
from slt_jax.decoding.generate import compile_search, generate
from slt_jax.decoding.policies import Policy
from slt_jax.decoding.search import Search
from slt_jax.decoding.stream import PAUSE, Stream
from slt_jax.errors import UserError
from slt_jax.models.images import normalise
from slt_jax.models.multistream import Stages
from slt_jax.models.params import Structure


@dataclass(frozen=True)
class TextSide:
    """How tokens become text: the tokenizer, how texts are searched for, and how they begin, if not as usual."""

    tokenizer: Any
    search: Search = Search()
    start: RowStarts | None = None


class Translator:
    """A trained model: from streams of signing to text tokens. Made by `slt_jax.load`.

    Batches are mappings of arrays: `face`, `hand_l`, `hand_r` as float (B, T, 3, H, W) ImageNet-normalised or as raw
    uint8 (B, T, H, W, 3); `pose` (B, T, 3L); optional bool masks `pad_mask` (B, T) True = real frame,
    `miss_mask_hl`, `miss_mask_hr` (B, T) True = missing, `pose_conf_mask` (B, T, L) True = keep.
    """

    def __init__(
        self, plan: Blueprint, params: Mapping[str, ArrayLike], text_side: Callable[[Any], TextSide] = TextSide
    ):
        """`text_side` gives that of a tokenizer; of the run's own for None, where there is a run."""
        self.config: ModelConfig = plan.config
        self.blueprint = plan
        self.params = params
        self.structure, _ = plan.structure()
        self._text_side = text_side

    def encode(self, batch: Mapping[str, ArrayLike]) -> Float[np.ndarray, "b t d_model"]:
        """Encoded frames, float32."""
        return np.asarray(_encode(self.structure, self.params, model_inputs(batch)))

    def stages(self, batch: Mapping[str, ArrayLike]) -> Stages:
        """Everything that the encoder computes up to the encoded frames, in float32."""
        return jax.tree.map(np.asarray, _stages(self.structure, self.params, model_inputs(batch)))

    def logits(self, batch: Mapping[str, ArrayLike]) -> Float[np.ndarray, "b s vocab"]:
        """Teacher-forced logits, float32, for `labels` (B, S) in the batch (-100 = ignore)."""
        self._need_decoder()
        return np.asarray(_logits(self.structure, self.params, model_inputs(batch)))

    def generate(
        self,
        batch: Mapping[str, ArrayLike],
        num_beams: int = 1,
        min_length: int = 0,
        max_length: int = 128,
        early_stopping: bool = False,
        **options,
    ) -> Int32[np.ndarray, "b length"]:
        """Token ids (B, <= max_length), int32, start token included: the same as HuggingFace's `generate`.

        `options` are further fields of `slt_jax.decoding.search.Search`, or whatever the `generate` of your own decoder
        takes. `forced_bos_token_id` and `decoder_start_token_id` may be a sequence, with one token for each row; the
        former also (B, P), with -1 after the last token that a row must begin with.
        """
        self._need_decoder()
        inputs = model_inputs(batch)
        encoded = _encode(self.structure, self.params, inputs)
        decoder = self.structure.merge(self.params).decoder.model
        mask = inputs.get("pad_mask")
        options |= dict(
            num_beams=num_beams, min_length=min_length, max_length=max_length, early_stopping=early_stopping
        )
        if hasattr(decoder, "generate"):  # which may know options that our search does not
            tokens = decoder.generate(encoded, mask, **options)
        else:
            rows = row_starts(options, len(encoded), getattr(decoder, "config", {}))
            tokens = generate(decoder, encoded, mask, Search(**options), rows)
        return np.asarray(tokens, dtype=np.int32)

    def compile(self, batch: Mapping[str, jax.ShapeDtypeStruct], **options) -> None:
        """Compile what `generate` needs for batches of these shapes and types, with the same options.

        Nothing is computed. A decoder with a `generate` of its own compiles when it is called.
        """
        inputs = jax.eval_shape(model_inputs, dict(batch))
        encoding = _encode.lower(self.structure, self.params, inputs)
        encoding.compile()
        decoder = self.structure.merge(self.params).decoder.model
        if not hasattr(decoder, "generate"):
            encoded = encoding.out_info
            rows = row_starts(options, encoded.shape[0], getattr(decoder, "config", {}))
            compile_search(decoder, encoded, inputs.get("pad_mask"), Search(**options), rows)

    def stream(
        self,
        tokenizer: Any = None,
        policy: Policy | None = None,
        *,
        fps: float = 25.0,
        chunk: int | None = None,
        pause: float = PAUSE,
        space_unit: tuple[float, float] = (1.0, 1.0),
        v9_hand_masks: bool = False,
        **search,
    ) -> Stream:
        """A stream of one signer: frames go in one by one, text comes out while they come.

        `fps` frames are a second, and after every `chunk` of them (by default a third of a second) there is a new
        hypothesis, whose words the `policy` settles (by default `LocalAgreement()`). See `Stream` for `pause` and
        `space_unit`, `Engine` for `v9_hand_masks`. `search` are options of `generate`; texts are as long as the run's
        by default. Without a `tokenizer` it is the run's own. Raises UserError where there is none, and for settings
        out of range.
        """
        self._need_decoder()
        side = self._text_side(tokenizer)
        if side.tokenizer is None:
            raise UserError("stream: no tokenizer is known of this model; give the one that it was trained with")
        asked = replace(side.search, **{"min_length": 0, "early_stopping": False} | search)
        if not 0 < fps <= 1000:
            raise UserError(f"fps {fps:g}: must be above 0 and at most 1000")
        chunk = max(round(fps / 3), 1) if chunk is None else chunk
        engine = Engine(
            self, side.tokenizer, fps=fps, search=asked, start=side.start, chunk=chunk, v9_hand_masks=v9_hand_masks
        )
        return Stream(engine, policy, pause=pause, space_unit=space_unit)

    def _need_decoder(self) -> None:
        if self.blueprint.decoder is None:
            raise UserError("this checkpoint holds an encoder without a decoder: only encode() works")


def row_starts(options: dict[str, Any], count: int, config: Mapping[str, Any]) -> RowStarts | None:
    """The beginnings of `count` rows where `options` have one for each, which are then taken out of them.

    What they do not say is as in `config`, the decoder's.

    Raises ValueError for another number of them.
    """
    names = ("decoder_start_token_id", "forced_bos_token_id")
    given = {name: options.get(name) for name in names}
    if not any(np.asarray(value).shape for value in given.values()):
        return None
    for name, value in given.items():
        shape = np.asarray(value).shape
        if shape and (shape[0] != count or len(shape) > (2 if name == names[1] else 1)):
            raise ValueError(f"{name} has the shape {shape}, and there are {count} rows")
        options.pop(name, None)
    filled = (config.get(name) if value is None else value for name, value in given.items())
    first, forced = (np.asarray(-1 if value is None else value, np.int32) for value in filled)
    forced = forced if forced.ndim == 2 else np.broadcast_to(forced, count)[:, None]
    return RowStarts(np.broadcast_to(first, count), forced)


@partial(jax.jit, static_argnums=0)
def _encode(structure: Structure, params: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array:
    with jax.default_matmul_precision("highest"):
        return structure.merge(params).encoder(inputs)


@partial(jax.jit, static_argnums=0)
def _stages(structure: Structure, params: Mapping[str, Array], inputs: Mapping[str, Array]) -> Stages:
    with jax.default_matmul_precision("highest"):
        return structure.merge(params).encoder.stages(inputs)


@partial(jax.jit, static_argnums=0)
def _logits(structure: Structure, params: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array:
    with jax.default_matmul_precision("highest"):
        return structure.merge(params)(inputs)


def model_inputs(batch: Mapping[str, ArrayLike]) -> dict[str, Shaped[Array, "b ..."]]:
    """A user's batch as the model takes it: normalised float32 frames (B, T, H, W, 3), and bool masks."""
    arrays = {array.name: array for array in CLIP_ARRAYS}
    inputs = {}
    for name, value in batch.items():
        if name in arrays and arrays[name].images:
            value = jnp.asarray(value)
            inputs[name] = normalise(value) if value.dtype == jnp.uint8 else _channels_last(value)
        elif name == "decoder_attention_mask" or (name in arrays and arrays[name].dtype == bool):
            inputs[name] = jnp.asarray(value).astype(bool)
        elif name == "labels" or name in arrays:
            inputs[name] = jnp.asarray(value)
    return inputs


def _channels_last(frames: Shaped[Array, "b t 3 h w"]) -> Float[Array, "b t h w 3"]:
    return frames.astype(jnp.float32).transpose(0, 1, 3, 4, 2)
