"""From stream features to one vector per frame: projectors, fusion, positions."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Key

from slt_jax.models.layers import dropout, gelu, layer_norm, linear, normal, split


class StreamProjector(nnx.Module):
    """LayerNorm, Linear, exact GELU, [Dropout], Linear.

    v9 keeps these in a `Sequential`, so the numbers in the state-dict keys count the dropout only when there is one.
    """

    def __init__(self, in_features: int, out_features: int, rate: float, *, dtype, rngs: nnx.Rngs):
        self.rate = rate
        self.last = "4" if rate > 0 else "3"
        self.layers = nnx.Dict(
            {
                "0": layer_norm(in_features, 1e-6, dtype=dtype, rngs=rngs),
                "1": linear(in_features, out_features, dtype=dtype, rngs=rngs),
                self.last: linear(out_features, out_features, dtype=dtype, rngs=rngs),
            }
        )

    def __call__(self, x: Float[Array, "b t d_in"], *, key: Key[Array, ""] | None = None) -> Float[Array, "b t d_out"]:
        """Features of a stream to its projection."""
        hidden = gelu(self.layers["1"](self.layers["0"](x)))
        return self.layers[self.last](dropout(hidden, self.rate, key))


class Fusion(nnx.Module):
    """All projected streams, in the order of the table, to one vector a frame."""

    def __init__(self, in_features: int, d_model: int, rate: float, *, dtype, rngs: nnx.Rngs):
        self.norm = layer_norm(in_features, 1e-5, dtype=dtype, rngs=rngs)
        self.proj = linear(in_features, d_model, dtype=dtype, rngs=rngs)
        self.rate = rate

    def __call__(
        self, streams: list[Float[Array, "b t d"]], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, "b t d_model"]:
        """The projected streams to one vector a frame."""
        (key,) = split(key, 1)
        return self.proj(dropout(self.norm(jnp.concatenate(streams, axis=-1)), self.rate, key))


class Positions(nnx.Module):
    """Adds a learned vector for each frame number, initially from N(0, 1) like torch's embeddings."""

    def __init__(self, length: int, d_model: int, *, dtype, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(length, d_model, dtype=dtype, embedding_init=normal(1.0), rngs=rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """The frames with their positions added."""
        return x + self.embedding.embedding[: x.shape[1]].astype(x.dtype)
