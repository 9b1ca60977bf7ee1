"""What v9's own tools cannot do with a checkpoint written here, and how to train one for them."""

from convert.checkpoint import Blueprint
from slt_jax.config import Config
from slt_jax.models.backbones import CustomBackbone, backbone_width
from slt_jax.models.multistream import projects_by_identity
from slt_jax.streams import images_of, streams_of

CANNOT = "v9's tools cannot load these checkpoints"
LATER_CAN = f"{CANNOT}, only those of a later v9 (8 days on) can"


def v9_notes(config: Config, plan: Blueprint) -> list[str]:
    """One line for each such thing; none for a model that v9 loads and evaluates as it was trained."""
    notes, images = [], images_of(config.model)
    custom = [stream.backbone_key for stream in images if isinstance(plan.backbones[stream.name], CustomBackbone)]
    widths = {stream: backbone_width(plan.backbones[stream.name]) for stream in images}
    if config.model.streams:
        have = ", ".join(stream.key for stream in streams_of(config.model))
        return [f"{CANNOT}: the model has only the streams {have} (model.streams), and v9's has all four"]
    if config.model.backbone is not None:
        notes.append(
            f"{CANNOT}: model.backbone is a ViT of free size; for v9 name a hub model, "
            f"--face-backbone torchhub::dinov2_vits14 (and so for the hands)"
        )
    elif custom:
        notes.append(f"{CANNOT}: {', '.join(custom)} is a Flax class; for v9 name one as torchhub::dinov2_vits14")
    elif mlp := [stream for stream in images if not projects_by_identity(config.model, stream, widths[stream])]:
        width = widths[mlp[0]]
        # A later v9 replaces a projector only where its width is the backbone's.
        which = CANNOT if config.model.projector_dim == width else LATER_CAN
        notes.append(
            f"{which}: an MLP projector follows the hub backbone of {', '.join(stream.key for stream in mlp)}, where "
            f"v9 has none; for v9 train with --projector-dim {width} and model.projector auto"
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
