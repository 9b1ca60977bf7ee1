"""What v9's own tools cannot do with a checkpoint written here, and how to train one that they can."""

from convert.checkpoint import Blueprint
from convert.infer import STREAMS
from slt_jax.config import Config
from slt_jax.models.backbones import STREAM_KEYS, CustomBackbone, backbone_width
from slt_jax.models.multistream import projects_by_identity

CANNOT = "v9's tools cannot load these checkpoints"


def v9_notes(config: Config, plan: Blueprint) -> list[str]:
    """One line each; none for a model that v9 loads and evaluates as it was trained."""
    notes = []
    custom = [key for key, sizes in zip(STREAM_KEYS, plan.backbones, strict=True) if isinstance(sizes, CustomBackbone)]
    if config.model.backbone is not None:
        notes.append(
            f"{CANNOT}: model.backbone is a ViT of free size; for v9 name a hub model, "
            f"--face-backbone torchhub::dinov2_vits14 (and so for the hands)"
        )
    elif custom:
        notes.append(f"{CANNOT}: {', '.join(custom)} is a Flax class; for v9 name one as torchhub::dinov2_vits14")
    elif mlp := [s for s, sizes in zip(STREAMS, plan.backbones, strict=True) if not _by_identity(config, s, sizes)]:
        width = backbone_width(plan.backbones[STREAMS.index(mlp[0])])
        notes.append(
            f"{CANNOT}: an MLP projector follows the hub backbone of {', '.join(mlp)}, where v9 has none; "
            f"for v9 train with --projector-dim {width} and model.projector auto"
        )
    if config.model.decoder_class:
        notes.append(
            f"{CANNOT}: the decoder is the Flax class {config.model.decoder_class}; for v9 train with --decoder-config "
            f"or --decoder-model, or give v9 a torch class with the same parameter names"
        )
    if not config.data.v9_hand_masks:
        notes.append(
            "v9's own evaluation hides every hand from a model, and this one is trained to see them; "
            "to be judged by v9 train with --set data.v9_hand_masks=true"
        )
    return notes


def _by_identity(config: Config, stream: str, sizes) -> bool:
    return projects_by_identity(config.model, stream, backbone_width(sizes))
