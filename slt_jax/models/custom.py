"""The user's own classes, named `package.module:Class` on the command line."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

from flax import nnx

from slt_jax.errors import UserError


def import_class(name: str, flag: str) -> type[nnx.Module]:
    """Import the NNX class `package.module:Class`, also from the current folder. Raises UserError naming `flag`."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # unlike `python -m`, a console command does not have it on its path
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{flag} {name}: cannot be imported ({error})") from None
    kind = getattr(imported, attribute, None)
    if not (inspect.isclass(kind) and issubclass(kind, nnx.Module)):
        raise UserError(f"{flag} {name}: {module} has no Flax NNX class '{attribute}'")
    return kind


def build_custom(name: str, kwargs: Mapping[str, Any], flag: str, *, dtype, rngs: nnx.Rngs) -> Any:
    """An instance: `Class(**kwargs, rngs=rngs)`, with `dtype` if the constructor takes it."""
    kind: type[Any] = import_class(name, flag)  # whose constructor may take anything
    parameters = inspect.signature(kind.__init__).parameters
    if "dtype" in parameters:
        kwargs = {"dtype": dtype, **kwargs}
    try:
        module = kind(**kwargs, rngs=rngs)
    except TypeError as error:
        raise UserError(f"{flag}: {kind.__name__} cannot be built: {error}") from None
    if any(issubclass(type(variable), nnx.RngState) for _, variable in nnx.to_flat_state(nnx.state(module))):
        raise UserError(
            f"{flag}: it keeps random numbers of its own, which no checkpoint holds; build nnx.Dropout(rate) without "
            f"rngs and call it with deterministic=key is None, rngs=key"
        )
    return module
