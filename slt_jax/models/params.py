"""A model as a structure and a plain `{dotted path: array}`, for training, checkpoints and conversion.

Flattening once and merging inside one `jax.jit` costs 10 to 12 ms a step for 626 parameters, where `nnx.jit` costs 90.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

Params = dict[str, Array]
Model = TypeVar("Model", bound=nnx.Module)


@dataclass(frozen=True)
class Structure(Generic[Model]):
    """Everything of a model except its arrays. Hashable, so that it can be a static argument of `jax.jit`."""

    graph: nnx.GraphDef[Model]
    variables: tuple[tuple[str, tuple, type], ...]  # dotted path, NNX path, kind of variable
    narrow: frozenset[str] = frozenset()  # paths that are kept in bfloat16, and are float32 in the module

    def __hash__(self) -> int:
        return self._hash  # jax.jit asks for it with every call, and a graph takes milliseconds

    @cached_property
    def _hash(self) -> int:
        return hash((self.graph, self.variables, self.narrow))

    def merge(self, params: Mapping[str, ArrayLike]) -> Model:
        """The module with these arrays; call it inside `jax.jit`."""

        def held(name: str) -> ArrayLike:
            return jnp.asarray(params[name], jnp.float32) if name in self.narrow else params[name]

        flat = [(path, kind(held(name))) for name, path, kind in self.variables]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    @property
    def buffers(self) -> frozenset[str]:
        """Paths that are stored but never trained: everything that is not an `nnx.Param`."""
        return frozenset(name for name, _, kind in self.variables if not issubclass(kind, nnx.Param))


def split_model(model: Model) -> tuple[Structure[Model], Params]:
    """`(structure, params)` of a module, built or abstract. Arrays that several attributes share occur once."""
    graph, state = nnx.split(model)
    flat = [(".".join(map(str, path)), path, variable) for path, variable in nnx.to_flat_state(state)]
    structure = Structure(graph, tuple((name, path, type(variable)) for name, path, variable in flat))
    return structure, {name: variable.get_value() for name, _, variable in flat}


def random_weights(seed: int = 0) -> nnx.Rngs:
    """The random numbers for a module's weights."""
    rngs = nnx.Rngs(seed)
    # Count on the host, though NNX's types ask for a jax.Array: while shapes are traced, its own counter takes
    # longer than everything else.
    rngs.default.count = nnx.RngCount(np.zeros((), np.uint32), tag="default")  # type: ignore[arg-type]
    return rngs


@dataclass(frozen=True)
class Leaf:
    """One name of one array, in torch's order of registration."""

    name: str  # dotted attribute path of this name; a tied array has several
    path: str  # the key of its array in `Params`
    shape: tuple[int, ...]
    owner: type  # the module class that holds it
    buffer: bool


def describe(build: Callable[[], Model]) -> tuple[Structure[Model], list[Leaf]]:
    """The structure and the leaves of the module that `build()` would return, without computing an array."""
    # Looked at while tracing, not through `nnx.eval_shape`: that rebuilds the module and sorts its attributes,
    # and their order is torch's numbering of the parameters.
    seen = []

    def look() -> None:
        model = build()
        seen.append((split_model(model)[0], leaves(model)))

    jax.eval_shape(look)
    return seen[0]


def leaves(model: nnx.Module) -> list[Leaf]:
    """Every name of every array, in the order of torch's `state_dict`: own parameters first, then submodules.

    Only right for a module as its constructor left it; `nnx.merge` sorts attributes.
    """
    _, state = nnx.split(model)
    paths = {id(resolve(model, path)): ".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)}
    return [
        Leaf(name, paths[id(variable)], tuple(variable.shape), owner, not isinstance(variable, nnx.Param))
        for name, variable, owner in _walk(model, "")
    ]


def _walk(module, prefix: str) -> Iterator[tuple[str, nnx.Variable, type]]:
    items = list(enumerate(module)) if isinstance(module, nnx.List) else list(vars(module).items())
    for name, value in items:
        if isinstance(value, nnx.Variable):
            yield f"{prefix}{name}", value, type(module)
    for name, value in items:
        if isinstance(value, nnx.Module):
            yield from _walk(value, f"{prefix}{name}.")


def resolve(node, path: Iterable):
    """The module or variable at an NNX path below `node`."""
    for part in path:
        node = node[part] if isinstance(node, nnx.List) else getattr(node, str(part))
    return node
