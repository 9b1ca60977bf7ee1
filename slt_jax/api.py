"""`slt_jax.load`: a trained translator for use from Python."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from convert.checkpoint import blueprint, load_params
from slt_jax.config import ModelConfig
from slt_jax.decoding.inference import Translator
from slt_jax.training.state_store import open_checkpoint

__all__ = ["Translator", "load"]


def load(path: str | Path, model: ModelConfig | Mapping | None = None) -> Translator:
    """A `Translator` from a `.pt` file, an Orbax directory or a work-dir.

    `model` is a ModelConfig or a mapping of its fields; None takes the checkpoint's own. A file with only an encoder
    gives a translator that can only `encode`. Raises UserError (one line, or a +/- diff of keys) if the file cannot be
    read or does not fit.
    """
    checkpoint = open_checkpoint(path)
    plan = blueprint(checkpoint, model)
    _, entries = plan.structure()
    return Translator(plan, jax.tree.map(jnp.asarray, load_params(checkpoint, entries)))
