"""What the forward pass keeps for the backward pass, and what is computed again instead.

Nothing here changes a weight, a name or a result: only how much memory a step takes, and how long.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from slt_jax.models.images import normalise
from slt_jax.models.platform import on_cpu


@dataclass(frozen=True)
class Memory:
    """`remat` says what is kept: `none` everything, `block` what enters a transformer block, `stream` what enters a
    backbone (its blocks are computed one by one once more).

    With `frame_chunk` a backbone sees so many frames at a time on each of `shards` devices, over which the batch is
    split, and each such chunk is computed again in the backward pass.
    """

    remat: str = "none"
    frame_chunk: int | None = None
    shards: int = 1

    def __str__(self) -> str:
        chunk = f" --frame-chunk {self.frame_chunk}" if self.frame_chunk else ""
        return f"--remat {self.remat}{chunk}"

    def block(self, block: nnx.Module, **settings) -> Callable:
        """A transformer block under this rule; `settings` are no arrays. Blocks that are alike are traced once."""
        graph, weights = nnx.split(block)
        run = partial(_run, on_cpu(), graph, tuple(settings.items()))
        return partial(run if self.remat == "none" else jax.checkpoint(run), weights)

    def stream(self, backbone: Callable[[Array], Array], images: Array) -> Array:
        """`backbone(images)`, (N, d) of (N, H, W, 3), under this rule; a backbone without blocks is one block.

        uint8 images are normalised here, so that of a chunk's images alone more than their bytes is in memory.
        """

        def look(images: Array) -> Array:
            return backbone(normalise(images) if images.dtype == jnp.uint8 else images)

        if self.frame_chunk:
            return self._in_chunks(look, images, self.frame_chunk)
        has_blocks = hasattr(backbone, "memory")  # and minds this rule in them
        again = self.remat == "stream" or (self.remat == "block" and not has_blocks)
        return (jax.checkpoint(look) if again else look)(images)

    def _in_chunks(self, backbone: Callable[[Array], Array], images: Array, frames: int) -> Array:
        rows = len(images) // self.shards
        chunks = -(-rows // frames)
        if chunks == 1:
            return jax.checkpoint(backbone)(images)
        size = -(-rows // chunks)
        # Every chunk takes its share from every device, so that no frame travels.
        split = images.reshape(self.shards, rows, *images.shape[1:])
        split = jnp.pad(split, [(0, 0), (0, chunks * size - rows)] + [(0, 0)] * (images.ndim - 1))
        split = jnp.moveaxis(split.reshape(self.shards, chunks, size, *images.shape[1:]), 1, 0)

        def chunk(images: Array) -> Array:
            features = backbone(images.reshape(self.shards * size, *images.shape[2:]))
            return features.reshape(self.shards, size, -1)

        # Within a loop nothing can be merged with the first computation, so no barrier is needed.
        features = jax.lax.map(jax.checkpoint(chunk, prevent_cse=False), split)
        return jnp.moveaxis(features, 0, 1).reshape(self.shards, chunks * size, -1)[:, :rows].reshape(len(images), -1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _run(cpu: bool, graph: nnx.GraphDef, settings: tuple, weights: nnx.State, *inputs, **others):
    """A block. What is traced for a CPU is not taken for another device."""
    return nnx.merge(graph, weights)(*inputs, **dict(settings), **others)


KEEP_ALL = Memory()
