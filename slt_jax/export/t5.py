"""The layers of a T5 or mT5 decoder as ONNX: what `slt_jax.models.t5` computes."""

from collections.abc import Mapping
from typing import Any

from slt_jax.export.decoder_step import DecoderStep, embed, vocabulary_logits
from slt_jax.export.graph import Graph
from slt_jax.export.layers import ACTIVATIONS, linear, rms_norm
from slt_jax.models.t5 import distance_buckets
from slt_jax.models.t5_config import normalise_t5_config

MODEL = "decoder.model"
STACK = f"{MODEL}.decoder"


def memory_key(layer: int, part: str) -> str:
    """The Linear that makes the frames' keys or values."""
    return f"{STACK}.block.{layer}.layer.1.EncDecAttention.{part[0]}"


def logits(step: DecoderStep, settings: Mapping[str, Any]) -> str:
    """Add one step of a T5 or mT5 decoder to the graph; returns the name of its logits (B, vocab)."""
    g, config = step.graph, normalise_t5_config(settings)
    epsilon, bias = config["layer_norm_epsilon"], _bias(step, config)

    def attention(key: str, part: str, x: str) -> str:
        return linear(g, x, f"{key}.{part}", bias=False)

    x = embed(g, f"{STACK}.embed_tokens.weight", step.ids)
    for number in range(step.sizes.layers):
        layer = f"{STACK}.block.{number}.layer"
        key = f"{layer}.0.SelfAttention"
        inner = g.lowered(rms_norm(g, x, f"{layer}.0.layer_norm", epsilon))
        query, keys, values = (attention(key, part, inner) for part in "qkv")
        mixed = step.self_attention(number, query, keys, values, 1.0, bias)
        x = g.op("Add", x, g.raised(attention(key, "o", mixed)))

        key = f"{layer}.1.EncDecAttention"
        inner = g.lowered(rms_norm(g, x, f"{layer}.1.layer_norm", epsilon))
        mixed = step.cross_attention(number, attention(key, "q", inner), 1.0)
        x = g.op("Add", x, g.raised(attention(key, "o", mixed)))

        inner = g.lowered(rms_norm(g, x, f"{layer}.2.layer_norm", epsilon))
        x = g.op("Add", x, _feed_forward(g, inner, f"{layer}.2.DenseReluDense", config))
    x = rms_norm(g, x, f"{STACK}.final_layer_norm", epsilon)
    if config["scale_decoder_outputs"]:
        x = g.op("Mul", x, g.number(config["d_model"] ** -0.5))
    return vocabulary_logits(g, x, f"{MODEL}.lm_head")


def _bias(step: DecoderStep, config: Mapping[str, Any]) -> str:
    """(1, heads, 1, tokens): what the first block's table says of the distances to the tokens so far."""
    g, far = step.graph, config["relative_attention_max_distance"]
    # From `far` on every distance has the last bucket.
    buckets = distance_buckets(far + 1, config["relative_attention_num_buckets"], far, causal=True)
    distances = g.op("Range", step.position, g.integer(-1), g.integer(-1))
    bucket = g.op("Gather", g.integers(*buckets), g.op("Min", distances, g.integer(far)))
    table = g.weight(f"{STACK}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    return g.op("Unsqueeze", g.op("Transpose", g.op("Gather", table, bucket), perm=[1, 0]), g.integers(0, 2))


def _feed_forward(g: Graph, x: str, key: str, config: Mapping[str, Any]) -> str:
    def hidden(name: str) -> str:
        return g.raised(linear(g, x, f"{key}.{name}", bias=False))

    activate = ACTIVATIONS[config["dense_act_fn"]]
    if config["is_gated_act"]:
        inner = g.op("Mul", activate(g, hidden("wi_0")), hidden("wi_1"))
    else:
        inner = activate(g, hidden("wi"))
    # In float32 whatever the precision: its outputs leave float16's range in large models.
    return g.op("Gemm", inner, g.weight(f"{key}.wo.weight"), transB=1)
