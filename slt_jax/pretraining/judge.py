"""`slt-pretrain evaluate`: a backbone's k-NN accuracy beside raw pixels and random weights, and what it looks at."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convert.pretrained import load_dinov2_backbone
from slt_jax.base.places import check_file
from slt_jax.errors import UserError
from slt_jax.models.images import normalise
from slt_jax.models.vit import VisionTransformer, ViTConfig
from slt_jax.pretraining.judge_sheet import attention_sheet, neighbour_sheet
from slt_jax.pretraining.knn import Labelled, effective_rank, in_batches, knn_accuracy, raw_pixels, read_labelled
from slt_jax.pretraining.program import check_patches

LARGEST = 16384  # pixels, neighbours or pictures at a time


def judge(
    spec: str | None,
    index: str,
    images: str | None = None,
    *,
    k: int = 5,
    image_size: int = 224,
    batch_size: int = 32,
    sheet: str | None = None,
) -> list[str]:
    """A table, as lines: k-NN accuracy and effective rank of raw pixels, random weights and the backbone `spec`.

    With `sheet`, a PNG: attention of the CLS token, and nearest neighbours. Raises UserError in one line.
    """
    for flag, number in (("--knn-k", k), ("--image-size", image_size), ("--batch-size", batch_size)):
        if not 1 <= number <= LARGEST:
            raise UserError(f"{flag} {number}: must be 1 to {LARGEST}")
    check_file("--sheet", sheet)
    labelled = read_labelled(index, images, image_size)
    backbone = load_dinov2_backbone(spec)
    if not isinstance(backbone, VisionTransformer):
        raise UserError(f"--backbone {spec}: is no ViT")
    check_patches("--image-size", image_size, backbone.config.patch_size)
    found = untrained(backbone.config, labelled.images, batch_size)
    found[spec or "dinov2_vits14"] = in_batches(encoder(backbone), labelled.images, batch_size)
    width = max(map(len, found))
    queries, groups = int(labelled.queries.sum()), len(set(labelled.groups))
    lines = [f"{queries} pictures of {len(labelled.labels)}, {groups} groups, k = {k}", f"{'':{width}}  k-NN    rank"]
    for name, features in found.items():
        accuracy = knn_accuracy(features, labelled, k)
        lines.append(f"{name:{width}}  {accuracy:6.1%}  {effective_rank(features):5.1f}")
    if sheet:
        draw(backbone, labelled, features, Path(sheet))
        lines.append(f"wrote {sheet}")
    return lines


def untrained(vit: ViTConfig, images: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """What features are compared with, by name: raw pixels, and random weights of the same sizes."""
    random = VisionTransformer(vit, rngs=nnx.Rngs(0))
    return {
        "raw pixels, 16 x 16": raw_pixels(images),
        "random weights": in_batches(encoder(random), images, batch_size),
    }


def encoder(backbone: VisionTransformer) -> Callable[[np.ndarray], np.ndarray]:
    """Pictures (N, S, S, 3), uint8, to features (N, d)."""
    graph, weights = nnx.split(backbone)
    compiled = jax.jit(lambda weights, images: nnx.merge(graph, weights)(normalise(images)))
    return lambda images: np.asarray(compiled(weights, jnp.asarray(images)), np.float32)


def draw(backbone: VisionTransformer, labelled: Labelled, features: np.ndarray, path: Path) -> None:
    """The two sheets, one below the other."""
    from PIL import Image

    from slt_jax.base.files import replacing

    chosen = np.linspace(0, len(labelled.images) - 1, 24).round().astype(int)
    attention = np.asarray(jax.jit(backbone.cls_attention)(normalise(labelled.images[chosen])))
    parts = [
        attention_sheet(labelled.images[chosen], attention),
        neighbour_sheet(labelled, features, chosen[::2].tolist()),
    ]
    whole = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts) + 12), "white")
    whole.paste(parts[0], (0, 0))
    whole.paste(parts[1], (0, parts[0].height + 12))
    with replacing(path) as file:
        whole.save(file, "PNG")
