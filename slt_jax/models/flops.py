"""Floating-point operations of a model's matrix products, counted from the model itself.

A multiply-add is two operations. The count is read off the traced forward and backward passes, so it holds for any
backbone and decoder, counts the bodies of loops as often as they run (the compilers' counts do not) and leaves out
what rematerialisation computes again. What is no matrix product or convolution is not counted.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from slt_jax.config import ModelConfig
from slt_jax.models.decoders import shift_right
from slt_jax.models.params import Params, split_model

# The backbones and what projects their features, in the order of the model's figure.
STREAMS = (
    ("face_backbone", "face_projector"),
    ("hand_backbone_left", "hand_left_projector"),
    ("hand_backbone_right", "hand_right_projector"),
)


@dataclass(frozen=True)
class Flops:
    """`forward` of one clip; `training` is forward and backward, without the optimiser."""

    forward: int
    training: int

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.training + other.training)


def model_flops(
    build: Callable[[], nnx.Module],
    config: ModelConfig,
    trained: Collection[str],
    *,
    target_length: int,
    frames: int | None = None,
) -> dict[str, Flops]:
    """Operations per clip of each part of the translator that `build()` returns, and their `total`.

    `trained` are the paths that get gradients: a frozen part costs its forward pass, a trained one about three times
    that. A clip has `frames` (default: config.sequence_length) and a target of `target_length` tokens. No array is
    computed.
    """
    parts: dict[str, Flops] = {}
    side = config.image_size

    def trains(prefix: str) -> bool:
        return any(path.startswith(f"{prefix}.") for path in trained)

    def add(name: str, owner: nnx.Module, inputs: list[Array], *, upstream: bool, call: Callable = _first) -> Array:
        """Count `call(owner.name, inputs)` and return it; `upstream`: what computed the inputs gets gradients too."""
        structure, params = split_model(getattr(owner, name))
        prefix = "decoder.model" if name == "model" else f"encoder.{name}"
        chosen = {path: array for path, array in params.items() if f"{prefix}.{path}" in trained}
        still = {path: array for path, array in params.items() if path not in chosen}

        def forward(chosen: Params, inputs: list[Array]) -> Array:
            return call(structure.merge(chosen | still), inputs)

        def training(chosen: Params, inputs: list[Array]) -> tuple:
            return jax.value_and_grad(lambda *given: forward(*given).sum(), (0, 1) if upstream else 0)(chosen, inputs)

        once = matmul_flops(forward, chosen, inputs)
        learns = bool(chosen) or upstream
        part = "decoder" if name == "model" else name
        parts[part] = Flops(once, matmul_flops(training, chosen, inputs) if learns else once)
        return forward(chosen, inputs)

    def look() -> None:
        model = build()
        encoder = model.encoder
        images = jnp.zeros((frames or config.sequence_length, side, side, 3), encoder.dtype)
        streams = []
        for backbone, projector in STREAMS:
            seen = add(backbone, encoder, [images], upstream=False)[None]
            if getattr(encoder, projector) is not None:
                seen = add(projector, encoder, [seen], upstream=trains(f"encoder.{backbone}"))
            streams.append(seen)
        pose = jnp.zeros((1, len(images), 3 * config.pose_landmarks), encoder.dtype)
        streams.append(add("pose_projector", encoder, [pose], upstream=False))
        upstream = any(trains(f"encoder.{part}") for part in parts)
        fused = add("fusion", encoder, streams, upstream=upstream, call=lambda fusion, x: fusion(x))
        upstream |= trains("encoder.fusion") or trains("encoder.positional")
        encoded = add("temporal", encoder, [fused], upstream=upstream, call=lambda temporal, x: temporal(x[0], None))
        if hasattr(model, "decoder"):
            labels = jnp.zeros((1, target_length), jnp.int32)

            def decode(decoder: nnx.Module, x: list[Array]) -> Array:
                return decoder(x[0], None, shift_right(decoder, labels), labels == 0)

            add("model", model.decoder, [encoded], upstream=upstream or trains("encoder.temporal"), call=decode)

    jax.eval_shape(look)
    return parts | {"total": sum(parts.values(), Flops(0, 0))}


def _first(module: nnx.Module, inputs: list[Array]) -> Array:
    return module(inputs[0])


def matmul_flops(function: Callable, *arguments) -> int:
    """The operations of the matrix products and convolutions in `function(*arguments)`; only shapes are looked at."""
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), arguments)
    return _count(jax.make_jaxpr(function)(*shapes).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: JaxprEqn) -> int:
    kind, params = equation.primitive.name, equation.params
    if kind == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if kind == "conv_general_dilated":
        kernel = equation.invars[1].aval
        out_features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        # Between dilated inputs lie zeros, which nobody has to multiply.
        products = equation.outvars[0].aval.size * kernel.size // out_features
        return 2 * products // math.prod(params["lhs_dilation"])
    if kind == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    inner = [
        p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in params.values() if isinstance(p, (Jaxpr, ClosedJaxpr))
    ]
    return params.get("length", 1) * sum(map(_count, inner)) if kind == "scan" else sum(map(_count, inner))
