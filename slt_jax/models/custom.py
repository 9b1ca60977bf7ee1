"""The user's own classes, named `package.module:Class` on the command line."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

from flax import nnx

from slt_jax.errors import UserError, shortened

TORCH_MODULE = "torch.nn.modules.module.Module"  # told by its name, since torch is not imported here


def import_class(name: str, where: str) -> type[nnx.Module]:
    """Import the NNX class `package.module:Class`, also from the current folder.

    Only for names that the user gave himself (see `slt_jax.models.trust`). Raises UserError that begins with `where`.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        package, dot, last = name.rpartition(".")
        raise UserError(f"{where}: write module:Class{f', {package}:{last}' if dot else ''}")
    if module.partition(".")[0] != "slt_jax" and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # unlike `python -m`, a console command does not have it on its path
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # whatever a module raises while it is run
        reason = shortened(f"{'' if isinstance(error, ImportError) else f'{type(error).__name__}: '}{error}", 200)
        raise UserError(f"{where}: cannot be imported ({reason})") from None
    kind = getattr(imported, attribute, None)
    if inspect.isclass(kind) and any(f"{base.__module__}.{base.__name__}" == TORCH_MODULE for base in kind.__mro__):
        raise UserError(
            f"{where}: is a torch.nn.Module, which JAX cannot train; write it as a class of flax.nnx.Module with the "
            f"same attribute names (docs/custom_decoders.md), and its torch weights load"
        )
    if not (inspect.isclass(kind) and issubclass(kind, nnx.Module)):
        raise UserError(f"{where}: {module} has no Flax NNX class '{attribute}'")
    return kind


def build_custom(name: str, kwargs: Mapping[str, Any], where: str, *, dtype, rngs: nnx.Rngs) -> Any:
    """An instance: `Class(**kwargs, rngs=rngs)`, with `dtype` if the constructor takes it."""
    kind: type[Any] = import_class(name, where)  # whose constructor may take anything
    parameters = inspect.signature(kind.__init__).parameters
    if "dtype" in parameters:
        kwargs = {"dtype": dtype, **kwargs}
    try:
        module = kind(**kwargs, rngs=rngs)
    except TypeError as error:
        raise UserError(f"{where}: {kind.__name__} cannot be built: {error}") from None
    if any(issubclass(type(variable), nnx.RngState) for _, variable in nnx.to_flat_state(nnx.state(module))):
        raise UserError(
            f"{where}: it keeps random numbers of its own, which no checkpoint holds; build nnx.Dropout(rate) without "
            f"rngs and call it with deterministic=key is None, rngs=key"
        )
    return module
