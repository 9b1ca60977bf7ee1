"""Sign-language translation in JAX: videos of signing, as face, hand and pose streams, become text."""

from slt_jax.base.imports import find_own_convert
from slt_jax.config import ModelConfig
from slt_jax.errors import UserError

__all__ = ["ModelConfig", "Translator", "UserError", "load", "load_dinov2_backbone"]

find_own_convert()


def __getattr__(name: str):
    # These bring JAX and transformers with them: imported when asked for.
    if name in ("Translator", "load"):
        from slt_jax import api

        return getattr(api, name)
    if name == "load_dinov2_backbone":
        from convert import pretrained

        return pretrained.load_dinov2_backbone
    raise AttributeError(f"module 'slt_jax' has no attribute '{name}'")
