"""How the matrices of the decoder and of the temporal encoder are split over the `model` axis.

As in Megatron-LM (Shoeybi et al., 2019): the first matrix of a pair by its outputs (heads, feed-forward units), the
second by its inputs, so that a pair needs one sum over the devices; embeddings and the output layer by vocabulary. The
records of the decoder families say which matrix is which. XLA's partitioner finds the rest from these. Frames are few
and wide in a ViT, so backbones stay whole.
"""

from collections.abc import Sequence

from slt_jax.models.families import FAMILIES

# Of torch's own Transformer: the temporal encoder's, and perhaps those of a decoder of the user's own. Its packed
# in_proj_weight stays whole: a block of its rows is no set of heads.
TORCH_OUTPUTS, TORCH_INPUTS = ("linear1",), ("linear2", "out_proj")


def model_dimension(path: str) -> int | None:
    """The dimension of the parameter at `path` that is split over `model`, or None."""
    if not path.startswith(("decoder.", "encoder.temporal.")):
        return None
    *_, layer, leaf = path.split(".")
    if layer in _names("split_by_outputs", TORCH_OUTPUTS):
        return {"kernel": 1, "bias": 0}.get(leaf)  # kernels are (inputs, outputs)
    if layer in _names("split_by_inputs", TORCH_INPUTS):
        return {"kernel": 0}.get(leaf)
    if layer in _names("split_by_vocabulary"):
        return {"embedding": 0, "kernel": 1}.get(leaf)
    return 1 if leaf in _names("vocabulary_rows") else None


def _names(field: str, more: Sequence[str] = ()) -> set[str]:
    """The layers that the decoder families name in `field`, and `more`."""
    return set(more).union(*(getattr(family, field) for family in FAMILIES.values()))
