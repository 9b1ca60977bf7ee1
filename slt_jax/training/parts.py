"""Which parameters learn at a rate of their own, or do not decay: `optim.lr_backbone`, `layer_decay`, ..."""

import re
from collections.abc import Mapping

from slt_jax.config import OptimConfig
from slt_jax.streams import IMAGES
from slt_jax.training.optim import Part

BLOCK = re.compile(r"blocks\.(\d+)\.")
Parts = tuple[tuple[str, Part], ...]


def translator_parts(optim: OptimConfig, shapes: Mapping[str, tuple[int, ...]]) -> Parts:
    """How the parameters of a translator, given by path and shape, are trained otherwise than by `lr` alone."""
    encoder = optim.lr if optim.lr_encoder is None else optim.lr_encoder
    backbone = encoder if optim.lr_backbone is None else optim.lr_backbone
    backbones = {prefix: depth_of(prefix, shapes) for prefix in (stream.backbone_prefix for stream in IMAGES)}

    def part(path: str) -> Part:
        prefix = next((prefix for prefix in backbones if path.startswith(prefix)), None)
        if prefix is not None:
            below = layers_above(path.removeprefix(prefix), backbones[prefix])
            rate = _factor(backbone, optim.lr) * optim.layer_decay**below
        else:
            rate = _factor(optim.lr_decoder if path.startswith("decoder.") else encoder, optim.lr)
        return Part(rate, 0.0 if optim.decay_only_matrices and len(shapes[path]) <= 1 else 1.0)

    given = ((path, part(path)) for path in sorted(shapes))
    return tuple((path, one) for path, one in given if one != Part())


def depth_of(prefix: str, paths: Mapping[str, object]) -> int:
    """The blocks of the backbone under `prefix`; 0 if it is no ViT."""
    found = (BLOCK.match(path.removeprefix(prefix)) for path in paths if path.startswith(prefix))
    return max((int(block[1]) + 1 for block in found if block), default=0)


def layers_above(name: str, depth: int) -> int:
    """How many layers of a ViT of `depth` blocks lie above the one with this parameter, as in BEiT and DINOv2.

    The embedding is the first layer, the last norm is the one above all blocks. 0 for what is no ViT.
    """
    block = BLOCK.match(name)
    layer = int(block[1]) + 1 if block else depth + 1 if name.startswith("norm.") or not depth else 0
    return depth + 1 - layer


def _factor(asked: float | None, lr: float) -> float:
    return 1.0 if asked is None or not lr else asked / lr
