"""`slt_jax.load`: a trained translator for use from Python."""

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from convert.checkpoint import blueprint, load_params
from slt_jax.base.quiet import silence_absent_tpu
from slt_jax.config import ModelConfig
from slt_jax.decoding.inference import Translator
from slt_jax.models.trust import trusting
from slt_jax.training.start import notes_on
from slt_jax.training.state_store import open_checkpoint
from slt_jax.training.text_side import text_side_of

__all__ = ["Translator", "load"]


def load(path: str | Path, model: ModelConfig | Mapping | None = None, *, trust_classes: bool = False) -> Translator:
    """A `Translator` from a `.pt` file, an Orbax directory or a work-dir.

    `model` is a ModelConfig or a mapping of its fields; None takes the checkpoint's own. A file with only an encoder
    gives a translator that can only `encode`. Classes of one's own are imported if `model` names them, or if the file
    does and `trust_classes` is true. Warns of weights that were only aligned with texts, or whose average is in another
    file. Raises UserError (one line, or a +/- diff of keys) if the file cannot be read or does not fit, and for a class
    that only the file names.
    """
    silence_absent_tpu()
    trust = trusting(model, trust_classes)
    checkpoint = open_checkpoint(path, trust)
    for note in notes_on(checkpoint):
        warnings.warn(note, stacklevel=2)
    plan = blueprint(checkpoint, model, trust=trust)
    _, entries = plan.structure()
    params = jax.tree.map(jnp.asarray, load_params(checkpoint, entries))
    return Translator(plan, params, partial(text_side_of, path, checkpoint.config, plan))
