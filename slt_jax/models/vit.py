"""DINOv2 vision transformers (Oquab et al., 2023), with registers (Darcet et al., 2023) and SwiGLU (ViT-g).

The same attribute names as the DINOv2 hub models, so `dinov2_vits14_pretrain.pth` is a path of attributes.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Key

from slt_jax.errors import divisors, shown
from slt_jax.models.attention import attention, flash_attention, takes_flash_attention, unpacked
from slt_jax.models.layers import affine, gelu, layer_norm, linear, normal, product, residual, torch_uniform
from slt_jax.models.remat import KEEP_ALL, Memory


def weights(width: int):
    """The initial weights of a ViT's products: N(0, 0.02) as in DINOv2, whose narrowest has 384; LeCun's below that.

    A narrower ViT sums fewer terms, and with 0.02 all images look alike to it for the first epochs. (DINOv2 truncates
    at +-2, a hundred deviations out.)
    """
    return normal(0.02 if width >= 384 else width**-0.5)


# Far above any ViT, and far below what would fill a machine before a message does.
MOST = {"embed_dim": 65536, "depth": 1000, "num_heads": 4096, "patch_size": 4096, "image_size": 65536}
MOST |= {"num_register_tokens": 4096}


@dataclass(frozen=True)
class ViTConfig:
    """The sizes of a DINOv2 ViT. `image_size` is that of pre-training and sets the position grid (518 / 14 = 37)."""

    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 6
    patch_size: int = 14
    image_size: int = 518
    num_register_tokens: int = 0
    mlp_ratio: float = 4.0
    ffn: str = "mlp"
    interpolate_antialias: bool = False
    interpolate_offset: float = 0.1

    def __post_init__(self):
        for name, most in MOST.items():
            value, least = getattr(self, name), 0 if name == "num_register_tokens" else 1
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"{name} must be a whole number from {least} to {most}, not {shown(value)}")
        if not 0 < self.mlp_ratio <= 1000:
            raise ValueError(f"mlp_ratio must be above 0 and at most 1000, not {shown(self.mlp_ratio)}")
        if self.ffn not in ("mlp", "swiglu"):
            raise ValueError(f"ffn must be mlp or swiglu, not {shown(self.ffn)}")
        if not 0 <= self.interpolate_offset < 1:
            raise ValueError(f"interpolate_offset must be from 0 to below 1, not {shown(self.interpolate_offset)}")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}; it is by "
                f"{divisors(self.embed_dim, self.num_heads)}"
            )
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}")

    @property
    def grid(self) -> int:
        """Patches on each side of the image."""
        return self.image_size // self.patch_size


VIT_SIZES = {
    "vits14": ViTConfig(),
    "vitb14": ViTConfig(embed_dim=768, num_heads=12),
    "vitl14": ViTConfig(embed_dim=1024, depth=24, num_heads=16),
    "vitg14": ViTConfig(embed_dim=1536, depth=40, num_heads=24, ffn="swiglu"),
}
# The register variants were trained with an antialiased resize and without the 0.1 offset.
REGISTER_RESIZE: dict[str, Any] = {"interpolate_antialias": True, "interpolate_offset": 0.0}
VIT_SIZES |= {
    f"{name}_reg": dataclasses.replace(size, num_register_tokens=4, **REGISTER_RESIZE)
    for name, size in VIT_SIZES.items()
}


class VisionTransformer(nnx.Module):
    """Normalised images to features: the final LayerNorm's CLS token."""

    def __init__(self, config: ViTConfig, *, dtype=jnp.float32, memory: Memory = KEEP_ALL, rngs: nnx.Rngs):
        d = config.embed_dim
        self.config = config
        self.memory = memory
        self.embed_dim = d
        self.dtype = dtype
        self.cls_token = nnx.Param(normal(1e-6)(rngs.params(), (1, 1, d)))
        self.pos_embed = nnx.Param(normal(0.02)(rngs.params(), (1, 1 + config.grid**2, d)))
        if config.num_register_tokens:
            self.register_tokens = nnx.Param(normal(1e-6)(rngs.params(), (1, config.num_register_tokens, d)))
        self.mask_token = nnx.Param(jnp.zeros((1, d)))
        self.patch_embed = PatchEmbed(config, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([Block(config, dtype=dtype, rngs=rngs) for _ in range(config.depth)])
        self.norm = layer_norm(d, 1e-6, dtype=dtype, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n {self.embed_dim}"]:
        """Normalised images to features: the CLS token."""
        tokens = self.embed(images)
        return self.norm(self.encode(tokens, kept=1)[:, 0])  # nothing reads the other tokens of the last block

    def tokens(
        self,
        images: Float[Array, "n h w 3"],
        *,
        masked: Bool[Array, "n patches"] | None = None,
        drop_path: float = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "n {self.embed_dim}"], Float[Array, "n patches {self.embed_dim}"]]:
        """Normalised images to features: the CLS token, and the patches row by row. For pre-training.

        `masked` patches are replaced by the mask token. With a key, each image leaves each residual branch out with
        probability `drop_path` (stochastic depth, Huang et al., 2016).
        """
        tokens = self.embed(images, masked)
        tokens = self.norm(self.encode(tokens, branches=self._branches(len(images), drop_path, key)))
        return tokens[:, 0], tokens[:, 1 + self.config.num_register_tokens :]

    def cls_attention(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n heads patches"]:
        """How much the CLS token of the last block attends to each patch, row by row; what is left goes to the rest."""
        tokens = self.embed(images)
        real, block = tokens.shape[1], self.blocks[-1]
        for earlier in list(self.blocks)[:-1]:
            tokens = earlier(tokens, real=real)
        query, key, _ = unpacked(product(tokens, block.attn.qkv, norm=block.norm1), block.attn.num_heads)
        scores = jnp.einsum("nhd,nkhd->nhk", query[:, 0].astype(jnp.float32), key.astype(jnp.float32))
        weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-1)
        return weights[..., 1 + self.config.num_register_tokens :]

    def embed(
        self, images: Float[Array, "n h w 3"], masked: Bool[Array, "n patches"] | None = None
    ) -> Float[Array, "n tokens {self.embed_dim}"]:
        """What enters the first block: CLS token, registers, patches."""
        rows, columns = (side // self.config.patch_size for side in images.shape[1:3])
        patches = self.patch_embed(images)
        if masked is not None:
            patches = jnp.where(masked[..., None], self.mask_token[...].astype(self.dtype), patches)
        cls = jnp.broadcast_to(self.cls_token[...], (patches.shape[0], 1, self.embed_dim))
        tokens = jnp.concatenate([cls.astype(self.dtype), patches], axis=1)
        tokens = tokens + self.positions(rows, columns).astype(self.dtype)
        if self.config.num_register_tokens:
            registers = jnp.broadcast_to(self.register_tokens[...], (patches.shape[0], *self.register_tokens.shape[1:]))
            tokens = jnp.concatenate([tokens[:, :1], registers.astype(self.dtype), tokens[:, 1:]], axis=1)
        return tokens

    def encode(
        self,
        tokens: Float[Array, "n tokens {self.embed_dim}"],
        *,
        kept: int | None = None,
        branches: Float[Array, "blocks 2 n"] | None = None,
    ) -> Float[Array, "n kept_tokens {self.embed_dim}"]:
        """All blocks; of the last one only the first `kept` tokens. `branches` are factors of residual branches."""
        real = tokens.shape[1]
        if takes_flash_attention(self.dtype, self.embed_dim // self.config.num_heads):
            tokens = jnp.pad(tokens, [(0, 0), (0, -real % 8), (0, 0)])  # once, here, because 257 is odd
        for number, block in enumerate(self.blocks):
            last = kept if block is self.blocks[-1] else None
            factors = {} if branches is None else {"branches": branches[number]}
            tokens = self.memory.block(block, real=real, kept=last)(residual(tokens), **factors)
        return tokens[:, : kept or real]

    def _branches(self, images: int, drop_path: float, key: Key[Array, ""] | None) -> Float[Array, "blocks 2 n"] | None:
        """What each image multiplies each residual branch with: 0, or 1 over the probability that it stays."""
        if key is None or drop_path == 0.0:
            return None
        stay = jax.random.bernoulli(key, 1 - drop_path, (self.config.depth, 2, images))
        return stay / jnp.float32(1 - drop_path)

    def positions(self, rows: int, columns: int) -> Float[Array, "1 1+{rows}*{columns} {self.embed_dim}"]:
        """The position table, CLS first, for an input of rows x columns patches."""
        grid = self.config.grid
        table = self.pos_embed[...]
        if (rows, columns) == (grid, grid):
            return table
        resize = antialiased_cubic if self.config.interpolate_antialias else plain_cubic
        down, across = (jnp.asarray(resize(grid, n, self.config.interpolate_offset)) for n in (rows, columns))
        square = table[0, 1:].reshape(grid, grid, self.embed_dim)
        resized = jnp.einsum("ri,cj,ijd->rcd", down, across, square, precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([table[:, :1], resized.reshape(1, rows * columns, self.embed_dim)], axis=1)


class PatchEmbed(nnx.Module):
    """Non-overlapping patches to vectors: a convolution whose stride is its size, done as one product."""

    def __init__(self, config: ViTConfig, *, dtype, rngs: nnx.Rngs):
        p = config.patch_size
        init = torch_uniform(3 * p * p)
        self.proj = nnx.Conv(
            3,
            config.embed_dim,
            (p, p),
            strides=p,
            padding="VALID",
            dtype=dtype,
            kernel_init=init,
            bias_init=init,
            rngs=rngs,
        )

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n patches d"]:
        """Images to their patches, row by row."""
        n, height, width, channels = images.shape
        p = self.proj.kernel_size[0]
        dtype = self.proj.dtype
        patches = images.reshape(n, height // p, p, width // p, p, channels).transpose(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(n, (height // p) * (width // p), p * p * channels).astype(dtype)
        assert self.proj.bias is not None
        return affine(patches, self.proj.kernel[...].reshape(p * p * channels, -1), self.proj.bias[...])


class Block(nnx.Module):
    """Attention and feed-forward part, each with norm, scale and residual."""

    def __init__(self, config: ViTConfig, *, dtype, rngs: nnx.Rngs):
        d = config.embed_dim
        self.norm1 = layer_norm(d, 1e-6, dtype=dtype, rngs=rngs)
        self.attn = Attention(d, config.num_heads, dtype=dtype, rngs=rngs)
        self.ls1 = LayerScale(d)
        self.norm2 = layer_norm(d, 1e-6, dtype=dtype, rngs=rngs)
        feed_forward = SwiGLU if config.ffn == "swiglu" else Mlp
        self.mlp = feed_forward(d, int(d * config.mlp_ratio), dtype=dtype, rngs=rngs)
        self.ls2 = LayerScale(d)

    def __call__(
        self,
        x: Float[Array, "n tokens d"],
        *,
        real: int,
        kept: int | None = None,
        branches: Float[Array, "2 n"] | None = None,
    ) -> Float[Array, "n kept_tokens d"]:
        """Tokens to those of the same places, or to the first `kept` alone.

        Those after the first `real` are padding, which the others do not attend to. `branches` are factors of the
        attention and of the feed-forward part.
        """
        x = x[:, :kept] + times(self.attn(x, self.norm1, self.ls1, real=real, kept=kept), branches, 0)
        return x + times(self.mlp(x, self.norm2, self.ls2), branches, 1)


def times(
    branch: Float[Array, "n tokens d"], branches: Float[Array, "2 n"] | None, number: int
) -> Float[Array, "n tokens d"]:
    """A residual branch times its factor for each image, where there are factors."""
    return branch if branches is None else branch * branches[number].astype(branch.dtype)[:, None, None]


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, features: int, num_heads: int, *, dtype, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.qkv = linear(features, 3 * features, dtype=dtype, init=weights(features), rngs=rngs)
        self.proj = linear(features, features, dtype=dtype, init=weights(features), rngs=rngs)

    def __call__(
        self, x: Float[Array, "n tokens d"], norm: nnx.LayerNorm, scale: "LayerScale", *, real: int, kept: int | None
    ) -> Float[Array, "n kept_tokens d"]:
        """Scaled attention over tokens: the first `real` are no padding, `kept` are computed."""
        n, _, d = x.shape
        head = d // self.num_heads
        query, key, value = unpacked(product(x, self.qkv, norm=norm), self.num_heads)
        if kept is None and takes_flash_attention(x.dtype, head):
            mixed = flash_attention(query, key, value, real=real, scale=head**-0.5)
        else:
            mixed = attention(query[:, :kept], key[:, :real], value[:, :real], scale=head**-0.5)
        return product(mixed.reshape(n, -1, d), self.proj, scale=scale.gamma[...])


class LayerScale(nnx.Module):
    """A factor for each feature, which `product` folds into the weights before it."""

    def __init__(self, features: int):
        self.gamma = nnx.Param(jnp.ones(features))


class Mlp(nnx.Module):
    """Two products with a GELU between them."""

    def __init__(self, features: int, hidden: int, *, dtype, rngs: nnx.Rngs):
        self.fc1 = linear(features, hidden, dtype=dtype, init=weights(features), rngs=rngs)
        self.fc2 = linear(hidden, features, dtype=dtype, init=weights(features), rngs=rngs)

    def __call__(
        self, x: Float[Array, "n tokens d"], norm: nnx.LayerNorm, scale: LayerScale
    ) -> Float[Array, "n tokens d"]:
        """Tokens to their scaled feed-forward part."""
        return product(gelu(product(x, self.fc1, norm=norm)), self.fc2, scale=scale.gamma[...])


class SwiGLU(nnx.Module):
    """The feed-forward of ViT-g: two thirds of the hidden width, rounded up to a multiple of 8."""

    def __init__(self, features: int, hidden: int, *, dtype, rngs: nnx.Rngs):
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = linear(features, 2 * hidden, dtype=dtype, init=weights(features), rngs=rngs)
        self.w3 = linear(hidden, features, dtype=dtype, init=weights(features), rngs=rngs)

    def __call__(
        self, x: Float[Array, "n tokens d"], norm: nnx.LayerNorm, scale: LayerScale
    ) -> Float[Array, "n tokens d"]:
        """Tokens to their scaled feed-forward part."""
        gate, value = jnp.split(product(x, self.w12, norm=norm), 2, axis=-1)
        return product(jax.nn.silu(gate) * value, self.w3, scale=scale.gamma[...])


# --- torch's bicubic resize as a matrix (target, source) per axis -------------------------------------------------


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel; torch uses a = -0.75 plainly and -0.5 when antialiasing."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def plain_cubic(source: int, target: int, offset: float) -> np.ndarray:
    """`F.interpolate(mode="bicubic", scale_factor=(target + offset) / source)`: samples beyond the edge repeat it."""
    scale = source / (target + offset)
    # torch computes positions in float32; doing the same keeps the fractions equal.
    centre = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * np.float32(scale) - np.float32(0.5)
    first = np.floor(centre).astype(int)
    matrix = np.zeros((target, source))
    for tap in range(-1, 3):
        column = np.clip(first + tap, 0, source - 1)
        np.add.at(matrix, (np.arange(target), column), cubic(centre - first - tap, -0.75))
    return matrix.astype(np.float32)


def antialiased_cubic(source: int, target: int, offset: float) -> np.ndarray:
    """`F.interpolate(mode="bicubic", size=target, antialias=True)`: the kernel widens when shrinking."""
    scale = source / (target + offset)
    width = max(scale, 1.0)
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = scale * (row + 0.5)
        start = max(math.floor(centre - 2 * width + 0.5), 0)
        stop = min(math.floor(centre + 2 * width + 0.5), source)
        weights = cubic((np.arange(start, stop) - centre + 0.5) / width, -0.5)
        matrix[row, start:stop] = weights / weights.sum()
    return matrix.astype(np.float32)
