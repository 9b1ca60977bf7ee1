"""How the matrices of the decoder and of the temporal encoder are split over the `model` axis.

As in Megatron-LM (Shoeybi et al., 2019): the first matrix of a pair by its outputs (heads, feed-forward units), the
second by its inputs, so that a pair needs one sum over the devices; embeddings and the output layer by vocabulary.
XLA's partitioner finds the rest from these. Frames are few and wide in a ViT, so backbones stay whole.
"""

import re

# torch's packed in_proj_weight stays whole: a block of its rows is no set of heads.
_OUTPUTS = r"(q|k|v|wi|wi_0|wi_1|q_proj|k_proj|v_proj|fc1|linear1)"
_INPUTS = r"(o|wo|out_proj|fc2|linear2)"
_PARTS = r"(decoder\.|encoder\.temporal\.).*\b"
_RULES = (
    (re.compile(rf"{_PARTS}{_OUTPUTS}\.kernel$"), 1),  # kernels are (inputs, outputs)
    (re.compile(rf"{_PARTS}{_OUTPUTS}\.bias$"), 0),
    (re.compile(rf"{_PARTS}{_INPUTS}\.kernel$"), 0),
    (re.compile(rf"{_PARTS}(embed_tokens|shared|lm_head)\.embedding$"), 0),
    (re.compile(rf"{_PARTS}lm_head\.kernel$"), 1),
    (re.compile(rf"{_PARTS}final_logits_bias$"), 1),
)


def model_dimension(path: str) -> int | None:
    """The dimension of the parameter at `path` that is split over `model`, or None."""
    return next((dimension for rule, dimension in _RULES if rule.match(path)), None)
