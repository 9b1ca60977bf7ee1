"""Sign-language translation in JAX: videos of signing, as face, hand and pose streams, become text."""

from slt_jax.config import ModelConfig
from slt_jax.errors import UserError

__all__ = ["ModelConfig", "Translator", "UserError", "load"]


def __getattr__(name: str):
    # `load` brings JAX and transformers with it: imported when asked for.
    if name in ("Translator", "load"):
        from slt_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'slt_jax' has no attribute '{name}'")
