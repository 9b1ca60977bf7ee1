"""The small pieces that all models share: torch's initialisation, dropout by explicit key, products, norms.

Conventions of all modules in this package:

* attribute names are the torch names, so a state-dict key is a path of attributes;
* parameters are float32; `dtype` is what the computation runs in (bfloat16 under `amp`);
* `key=None` means evaluation: no dropout. A key makes the same call a training call;
* annotations tell shapes, `Float[Array, "b t d"]` is (B, T, d); in the tests every call is held to them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Key

from slt_jax.models.platform import factors_on_cpu, on_cpu

# What an `nnx.Linear` is beside its weights.
LINEAR_SETTINGS = ("in_features", "out_features", "use_bias", "dtype", "param_dtype", "precision", "dot_general",
                   "promote_dtype", "preferred_element_type")  # fmt: skip


class Buffer(nnx.Variable):
    """What torch calls a buffer: stored in checkpoints, never trained, not in `model.parameters()`."""


def _drawn(draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]):
    """An initialiser that draws on the host: the same weights on every platform, and nothing to compile per shape."""

    def init(key, shape, dtype=jnp.float32, **_):
        if isinstance(key, jax.core.Tracer):  # only shapes are wanted
            return jnp.zeros(shape, dtype)
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return jnp.asarray(draw(generator, tuple(shape)), dtype)

    return init


def normal(std: float):
    """A normal distribution around 0."""
    return _drawn(lambda generator, shape: generator.standard_normal(shape, np.float32) * np.float32(std))


def uniform(bound: float):
    """U(-bound, bound)."""
    return _drawn(lambda generator, shape: (generator.random(shape, np.float32) * 2 - 1) * np.float32(bound))


def torch_uniform(fan_in: int):
    """torch's default for `nn.Linear`, its bias and `nn.Conv2d`: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    return uniform(fan_in**-0.5)


def linear(
    in_features: int, out_features: int, *, dtype, rngs: nnx.Rngs, use_bias: bool = True, init=None
) -> nnx.Linear:
    """A Linear with torch's default initialisation; `init` replaces the kernel's and makes the bias zero."""
    return nnx.Linear(
        in_features,
        out_features,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=init or torch_uniform(in_features),
        bias_init=nnx.initializers.zeros_init() if init else torch_uniform(in_features),
        dot_general=_dot_general,
        rngs=rngs,
    )


def layer_norm(features: int, epsilon: float, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with statistics in float32 and torch's two-pass variance. Epsilon is never left to a default."""
    return nnx.LayerNorm(features, epsilon=epsilon, dtype=dtype, use_fast_variance=False, rngs=rngs)


class Adapted(nnx.Linear):
    """A linear layer and beside it a low-rank adapter: y = W x + b + scale B A dropout(x). See `models/lora.py`."""

    def __init__(self, base: nnx.Linear, rank: int, scale: float, rate: float, rngs: nnx.Rngs):
        self.kernel = base.kernel
        self.bias = base.bias if base.bias is not None else nnx.data(None)
        for name in LINEAR_SETTINGS:
            setattr(self, name, getattr(base, name))
        self.lora_a = nnx.Param(torch_uniform(base.in_features)(rngs.params(), (base.in_features, rank)))
        self.lora_b = nnx.Param(jnp.zeros((rank, base.out_features)))
        self.scale = scale
        self.rate = rate
        self.dropout_key: nnx.Variable | None = nnx.data(None)  # one in a step of training

    def __call__(self, inputs: Float[Array, "*rows d_in"], out_sharding=None) -> Float[Array, "*rows d_out"]:
        """What the layer computes, and what is added to it."""
        y = super().__call__(inputs, out_sharding)
        return y + self.adapter(inputs.astype(y.dtype))

    def adapter(self, x: Float[Array, "*rows d_in"]) -> Float[Array, "*rows d_out"]:
        """What is added, in `x`'s dtype."""
        if self.dropout_key is not None:
            x = dropout(x, self.rate, self.dropout_key[...])
        down, up = (matrix[...].astype(x.dtype) for matrix in (self.lora_a, self.lora_b))
        return (x @ down) @ up * self.scale


def product(
    x: Float[Array, "*rows d_in"],
    layer: nnx.Linear,
    *,
    norm: nnx.LayerNorm | None = None,
    scale: Float[Array, " d_out"] | None = None,
) -> Float[Array, "*rows d_out"]:
    """`scale * layer(norm(x))`, with the affine parts of `norm` and `scale` folded into the weights.

    The results are the same except for rounding, but cheaper: the gradients of scales and shifts follow from those of
    the weights. Otherwise each is a sum over all tokens of something that must be kept or computed again.
    """
    assert layer.bias is not None
    kernel, bias = layer.kernel[...], layer.bias[...]
    seen = x
    if norm is not None:
        assert norm.scale is not None
        assert norm.bias is not None
        x = standardised(x, norm.epsilon)
        bias = bias + jnp.sum(norm.bias[...][:, None] * kernel, axis=0)
        kernel = norm.scale[...][:, None] * kernel
        if isinstance(layer, Adapted):
            seen = x * norm.scale[...].astype(x.dtype) + norm.bias[...].astype(x.dtype)
    if scale is not None:
        kernel, bias = kernel * scale, bias * scale
    y = affine(x, kernel, bias)
    if isinstance(layer, Adapted):
        added = layer.adapter(seen)
        y = y + (added if scale is None else added * scale.astype(x.dtype))
    return y


def affine(
    x: Float[Array, "*rows d_in"], kernel: Float[Array, "d_in d_out"], bias: Float[Array, " d_out"] | None = None
) -> Float[Array, "*rows d_out"]:
    """`x @ kernel + bias` in `x`'s dtype."""
    kernel = kernel.astype(x.dtype)
    if on_cpu():
        y = _product_on_cpu(x, kernel)
        return (y if bias is None else y + bias).astype(x.dtype)
    y = x @ kernel
    return y if bias is None else y + bias.astype(x.dtype)


def _dot_general(x: Array, kernel: Array, dimensions, **settings) -> Array:
    """The product of a linear layer, for `nnx.Linear`."""
    if on_cpu():
        return _product_on_cpu(x, kernel).astype(x.dtype)
    return jax.lax.dot_general(x, kernel, dimensions, **settings)


def logits(x: Float[Array, "*rows d"], classes: Float[Array, "classes d"]) -> Float[Array, "*rows classes"]:
    """`x @ classes.T`, of factors of one dtype; sums and results in float32."""
    if on_cpu():
        return _product_on_cpu(x, classes.T)
    return jnp.einsum("...d,kd->...k", x, classes, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _product_on_cpu(x: Array, kernel: Array) -> Array:
    """`x @ kernel` of one dtype, with all sums in float32, and gradients in the order that suits a CPU.

    The sums: CPUs with instructions for bfloat16 have them for sums in float32 alone. The order: JAX takes the kernel's
    gradient the other way round and transposes it, for which XLA transposes all rows.
    """
    return _summed(x, kernel)


def _summed(a: Array, b: Array) -> Array:
    dtype = factors_on_cpu(a.dtype)
    sums = jnp.promote_types(dtype, jnp.float32)
    return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=sums)


def _kept(x: Any, kernel: Any) -> tuple[Array, tuple[Array, Array]]:
    """What the backward pass needs: nothing, which is an empty array, for what is not trained.

    JAX may take one call's number of kept arrays for another's, so it is always two.
    """
    nothing = jnp.zeros(0, x.value.dtype)
    kept = (x.value if kernel.perturbed else nothing, kernel.value if x.perturbed else nothing)
    return _summed(x.value, kernel.value), kept


def _gradients(kept: tuple[Array, Array], gradient: Array) -> tuple[Array | None, Array | None]:
    x, kernel = kept
    gradient = gradient.astype(x.dtype)
    of_x = None if kernel.shape == (0,) else _summed(gradient, kernel.T).astype(x.dtype)
    if x.shape == (0,):
        return of_x, None
    rows = x.reshape(-1, x.shape[-1])
    # Columns of bfloat16 are multiplied only if they lie in memory as rows.
    columns = computed_once(rows, lambda y: y.T) if factors_on_cpu(x.dtype) == jnp.bfloat16 else rows.T
    return of_x, _summed(columns, gradient.reshape(-1, gradient.shape[-1])).astype(x.dtype)


_product_on_cpu.defvjp(_kept, _gradients, symbolic_zeros=True)


def standardised(x: Float[Array, "*rows d"], epsilon: float) -> Float[Array, "*rows d"]:
    """LayerNorm without scale and shift, in `x`'s dtype; statistics in float32, the variance in two passes."""
    y = x.astype(jnp.float32)
    y = y - y.mean(axis=-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + epsilon)).astype(x.dtype)


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU, x times the normal distribution below x, as torch computes it; keeps only `x` for its gradient.

    Computed in float32, whatever `x` is. (`jax.nn.gelu` goes through erfc and also keeps its slope, which takes a GPU
    twice the time.)
    """
    y = x.astype(jnp.float32)
    return (y * _below(y)).astype(x.dtype)


def _below(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * np.float32(2**-0.5)))


def _gelu_gradient(x: Array, gradient: Array) -> tuple[Array]:
    y = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * np.float32((2 * np.pi) ** -0.5)
    return (((_below(y) + y * density) * gradient).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)


def dropout(x: Float[Array, "*shape"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*shape"]:
    """torch's inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def split(key: Key[Array, ""] | None, n: int) -> list[Key[Array, ""] | None]:
    """`n` keys from one; `None` stays `None`, so that evaluation needs no branches."""
    return [None] * n if key is None else list(jax.random.split(key, n))


@jax.custom_vjp
def residual(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x`, to which a block adds. Its gradient is computed once on a CPU, and laid out like `x` on a GPU.

    XLA fuses cheap operations into everything that uses them. Along the blocks of a transformer, the gradient is a sum
    that grows with each block. On a CPU, XLA would compute each sum again from its start, which is work that grows with
    the square of the depth. It does not look into branches, and drops `optimization_barrier` before it fuses.

    On a GPU, XLA would lay out the gradient to suit the products after the backbone, and transpose it in memory
    wherever a block's own products read it: a fifth of all bytes that a step moves. A flat array has only one layout.
    """
    return x


def computed_once(x: Array, of: Callable[[Array], Array] = lambda y: y) -> Array:
    """`of(x)` by itself, in memory: XLA does not look into branches. All NaN if the first number is not finite."""
    first = x[(0,) * x.ndim]
    return jax.lax.cond(jnp.isfinite(first), of, lambda y: jnp.full_like(of(y), jnp.nan), x)


def _row_major(gradient: Array) -> Array:
    return jax.lax.optimization_barrier(gradient.ravel()).reshape(gradient.shape)


residual.defvjp(
    lambda x: (x, None),
    lambda _, g: (jax.lax.platform_dependent(g, cpu=computed_once, cuda=_row_major, default=lambda g: g),),
)
