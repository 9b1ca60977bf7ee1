"""Count the floating-point operations of a model's matrix products, from the model itself.

A multiply-add is two operations. The count is read off the traced forward and backward passes, so it holds for any
backbone and decoder, counts the bodies of loops as often as they run (the compilers' counts do not) and leaves out
what rematerialisation computes again. What is no matrix product or convolution is not counted.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from slt_jax.config import ModelConfig
from slt_jax.models.multistream import ENCODER_PARTS
from slt_jax.models.params import Params, Structure, split_model
from slt_jax.streams import streams_of

TEACHER = "teacher"  # a model inside a step, whose own scopes are all the teacher's
# The scopes that the model and its objectives name, in the order of its figure.
PARTS = (*ENCODER_PARTS, "decoder", "text_encoder", TEACHER)
REST = "rest"  # what no scope has: the heads of objectives


@dataclass(frozen=True)
class Flops:
    """FLOPs of one clip: `forward`, and `training`, which is forward and backward without the optimiser."""

    forward: int
    training: int

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.training + other.training)


def model_flops(
    build: Callable[[], nnx.Module], config: ModelConfig, trained: Collection[str], *, target_length: int
) -> dict[str, Flops]:
    """Operations per clip of each part of the translator that `build()` returns, and their `total`.

    `trained` are the paths that get gradients. A frozen part costs its forward pass, a trained one about three times
    that. A clip has config.sequence_length frames and a target of `target_length` tokens. No array is computed.
    """
    structures: list[Structure] = []

    def look() -> Params:
        structure, params = split_model(build())
        structures.append(structure)
        return params

    params = jax.eval_shape(look)
    chosen = {path: array for path, array in params.items() if path in trained}
    still = {path: array for path, array in params.items() if path not in chosen}
    batch = _one_clip(config, target_length)

    def forward(chosen: Params, still: Params, batch: Mapping[str, Array]) -> Array:
        model = structures[0].merge(chosen | still)
        return (model if hasattr(model, "decoder") else model.encoder)(batch).sum()

    once = part_counts(forward, chosen, still, batch)
    return flops_by_part(once, part_counts(jax.value_and_grad(forward), chosen, still, batch))


def flops_by_part(forward: Counter[str], training: Counter[str]) -> dict[str, Flops]:
    """Two counts of `part_counts` beside each other, without parts that have nothing to do; and their `total`."""
    counted = {part or REST: Flops(forward[part], training[part]) for part in (*PARTS, "") if training[part]}
    return counted | {"total": sum(counted.values(), Flops(0, 0))}


def _one_clip(config: ModelConfig, target_length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of one clip, without masks."""
    side, frames = config.image_size, config.sequence_length
    shapes = {s.name: (side, side, 3) if s.images else (3 * config.pose_landmarks,) for s in streams_of(config)}
    clip = {name: jax.ShapeDtypeStruct((1, frames, *shape), jnp.float32) for name, shape in shapes.items()}
    return clip | {"labels": jax.ShapeDtypeStruct((1, target_length), jnp.int32)}


def matmul_flops(function: Callable, *arguments) -> int:
    """The operations of the matrix products and convolutions in `function(*arguments)`, from shapes alone."""
    return part_counts(function, *arguments).total()


def part_counts(function: Callable, *arguments) -> Counter[str]:
    """The operations of each of `PARTS`, by the scope that the model names; those outside of all are under ""."""
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), arguments)
    return _count(jax.make_jaxpr(function)(*shapes).jaxpr, "")


def _count(jaxpr: Jaxpr, part: str) -> Counter[str]:
    return sum((_count_equation(equation, part) for equation in jaxpr.eqns), Counter())


def _count_equation(equation: JaxprEqn, part: str) -> Counter[str]:
    """`part` is that of what the equation is a part of: within a loop or a function, scopes start again."""
    kind, params = equation.primitive.name, equation.params
    operands, results = _arrays(equation.invars), _arrays(equation.outvars)
    scopes = re.findall(r"\w+", str(equation.source_info.name_stack))  # "transpose(jvp(temporal))"
    if part != TEACHER:
        part = next((scope for scope in scopes if scope in PARTS), part)
    if kind == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = operands[0].shape
        return Counter({part: 2 * results[0].size * math.prod(left[axis] for axis in contracted)})
    if kind == "conv_general_dilated":
        kernel = operands[1]
        out_features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        # Between dilated inputs are zeros, which need no multiplication.
        products = results[0].size * kernel.size // out_features
        return Counter({part: 2 * products // math.prod(params["lhs_dilation"])})
    if kind == "cond":
        return max((_count(branch.jaxpr, part) for branch in params["branches"]), key=Counter.total)
    inner = [
        p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in params.values() if isinstance(p, (Jaxpr, ClosedJaxpr))
    ]
    counts: Counter[str] = sum((_count(jaxpr, part) for jaxpr in inner), Counter())
    times = params["length"] if kind == "scan" else 1
    return Counter({part: times * count for part, count in counts.items()})


def _arrays(variables: Sequence[Any]) -> list[Any]:
    """The inputs or outputs of an equation; for products and convolutions, these are arrays."""
    return [variable.aval for variable in variables]
