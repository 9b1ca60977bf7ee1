"""Several objectives at once, with their weights (`training.objectives`), from one pass of the encoder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from slt_jax.config import Config
from slt_jax.config_rules import trains_decoder
from slt_jax.data.glosses import BLANK, Glosses
from slt_jax.models.layers import split
from slt_jax.models.params import random_weights
from slt_jax.training import contrastive, gloss_ctc
from slt_jax.training.contrastive import ACCURACY, CONTRASTIVE, LARGEST_SCALE, SCALE
from slt_jax.training.distillation import DISTILLATION, Teacher, distillation_loss
from slt_jax.training.gloss_ctc import GLOSS_CTC, PREDICTED
from slt_jax.training.objective import Inputs, Loss, Objective
from slt_jax.training.state import TrainState
from slt_jax.training.translation_loss import TokenCrossEntropy

TRANSLATION = "translation"
Weights = Mapping[str, float]  # of the objectives that have one


class Seen(NamedTuple):
    """What one pass of the model gives to every objective. `key` feeds further dropout, None without.

    Without an objective that trains the decoder there are no `logits`.
    """

    model: Any
    inputs: Inputs
    logits: Float[Array, "b s vocab"] | None
    encoded: Float[Array, "b t d"]
    key: Array | None


def glosses_of(seen: Seen) -> Loss:
    """The loss of glosses, over clips."""
    logits = gloss_ctc.head_of(seen.model, seen.encoded)
    total, clips = gloss_ctc.gloss_loss(logits, seen.inputs["pad_mask"], seen.inputs["glosses"])
    return Loss(total, clips)


def alignment_of(seen: Seen) -> Loss:
    """The loss of videos beside their sentences, over clips."""
    video, text = contrastive.embeddings(seen.model, seen.inputs, seen.encoded, seen.key)
    scale = seen.model.contrastive_head.logit_scale[...]
    total, clips, found = contrastive.contrastive_loss(video, text, scale, seen.inputs["labels"])
    return Loss(total, clips, {ACCURACY: found / jnp.maximum(clips, 1)})


TERMS: dict[str, Callable[[Seen], Loss]] = {GLOSS_CTC: glosses_of, CONTRASTIVE: alignment_of}


@dataclass(frozen=True)
class Joined(Objective):
    """The weighted sum of the means of several objectives. `weights` are (name, weight) of those that have one.

    Where none of them trains the decoder it is not computed, and what counts are clips instead of label tokens.
    `distilled` is the teacher of distillation.
    """

    tokens: TokenCrossEntropy
    weights: tuple[tuple[str, float], ...]
    distilled: Teacher | None = None

    def loss(self, model: Any, inputs: Inputs, key: Array, teacher: Any) -> Loss:
        """A sum over label tokens (or clips), into which the other means are put with their weights."""
        weights = dict(self.weights)
        seen = self._seen(model, inputs, key)
        means, metrics = self._terms(seen)
        if self.distilled is not None and seen.logits is not None:
            expected = self.distilled.logits(teacher, inputs)
            total, tokens = distillation_loss(seen.logits, expected, inputs["labels"], self.tokens.label_smoothing)
            means[DISTILLATION] = metrics[DISTILLATION] = total / jnp.maximum(tokens, 1)
        if seen.logits is not None:
            loss = self.tokens.of_logits(seen.logits, inputs)
            total, weight = weights.get(TRANSLATION, 0.0) * loss.total, loss.weight
            metrics = {**loss.metrics, **metrics}
        else:
            total, weight = jnp.float32(0), clips_of(inputs)
        for name, mean in means.items():
            total += weights[name] * mean * jnp.maximum(weight, 1)
        return Loss(total, weight, metrics)

    def evaluate(self, model: Any, inputs: Inputs) -> dict[str, Array]:
        """What translation tells, the path of glosses, and the loss of videos beside their sentences."""
        seen = self._seen(model, inputs, None)
        results: dict[str, Array] = {}
        if GLOSS_CTC in dict(self.weights):
            path = gloss_ctc.head_of(model, seen.encoded).argmax(-1)
            results[PREDICTED] = jnp.where(inputs["pad_mask"], path, BLANK)
        means, metrics = self._terms(seen, without=GLOSS_CTC)
        if seen.logits is not None:
            return {**metrics, **results, **self.tokens.judged(seen.logits, inputs)}
        loss = sum((weight * means[name] for name, weight in self.weights if name in means), jnp.float32(0))
        return {**metrics, **results, "loss": loss, "weight": clips_of(inputs)}

    def teacher(self, params: Mapping[str, Any]) -> Any:
        """The arrays of the teacher of distillation, which never change."""
        return None if self.distilled is None else dict(self.distilled.params)

    def after_update(self, state: TrainState, metrics: Mapping[str, Array]) -> TrainState:
        """CLIP's bound of the temperature."""
        if SCALE not in state.trained:
            return state
        return state.replace(trained={**state.trained, SCALE: jnp.clip(state.trained[SCALE], 0.0, LARGEST_SCALE)})

    def _seen(self, model: Any, inputs: Inputs, key: Array | None) -> Seen:
        own = None
        if CONTRASTIVE in dict(self.weights):
            key, own = split(key, 2)
        if trains_decoder(dict(self.weights)):
            logits, encoded = model.joint(inputs, key=key)
        else:
            logits, encoded = None, model.encoder(inputs, key=key)
        return Seen(model, inputs, logits, encoded, own)

    def _terms(self, seen: Seen, without: str = "") -> tuple[dict[str, Array], dict[str, Array]]:
        """The means of the objectives beside translation, and what is told: these and more."""
        means, metrics = {}, {}
        for name, _ in self.weights:
            if name in TERMS and name != without:
                loss = TERMS[name](seen)
                means[name] = metrics[name] = loss.total / jnp.maximum(loss.weight, 1)
                metrics |= loss.metrics
        return means, metrics


def clips_of(inputs: Inputs) -> Array:
    """How many rows of a batch are clips, and not filling."""
    return (inputs["labels"] >= 0).any(1).sum()


def weights_of(config: Config, glosses: int) -> Weights:
    """The objectives of a run that have a weight; those of glosses only where there are some (ids of `Glosses`)."""
    given = config.training.objectives or {TRANSLATION: 1.0}
    return {name: float(weight) for name, weight in given.items() if weight and (name != GLOSS_CTC or glosses)}


def translates(config: Config) -> bool:
    """Whether a run trains the decoder."""
    return trains_decoder(config.training.objectives)


def objective_of(config: Config, weights: Weights, teacher: Teacher | None) -> Objective:
    """What a run minimises. Without its teacher, as in a plan, nothing is distilled."""
    tokens = TokenCrossEntropy(config.optim.label_smoothing)
    return tokens if weights.keys() == {TRANSLATION} else Joined(tokens, tuple(weights.items()), teacher)


# --- the heads, which stand beside the translator ------------------------------------------------------------------


def with_heads(build: Callable[..., Any], width: int, weights: Weights, glosses: int, **options: Any) -> nnx.Module:
    """The model that `build` makes, with the heads of these objectives."""
    model = build(**options)
    if GLOSS_CTC in weights:
        gloss_ctc.add_gloss_head(model, width, glosses, random_weights(options.get("seed", 0)))
    if CONTRASTIVE in weights:
        contrastive.add_contrastive_head(model, width, random_weights(options.get("seed", 0)))
    return model


def heads_of(config: Config, glosses: Glosses | None, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The heads' arrays by path: those in the entries `saved` of a checkpoint where they fit, else new ones."""
    weights, width, seed = weights_of(config, glosses.size if glosses else 0), config.model.d_model, config.data.seed
    heads: dict[str, Any] = {}
    if GLOSS_CTC in weights and glosses:
        heads |= gloss_ctc.head_params(width, glosses.size, seed, saved.get(gloss_ctc.STATE))
    if CONTRASTIVE in weights:
        heads |= contrastive.contrastive_params(width, seed, saved.get(contrastive.STATE))
    return heads


def heads_state(params: Mapping[str, Any], glosses: tuple[str, ...]) -> dict[str, Any]:
    """The heads' entries in a checkpoint; `glosses` are the names that theirs knows."""
    state: dict[str, Any] = {}
    if glosses:
        state |= {gloss_ctc.STATE: gloss_ctc.head_state(params), "glosses": list(glosses)}
    if SCALE in params:
        state[contrastive.STATE] = contrastive.contrastive_state(params)
    return state
