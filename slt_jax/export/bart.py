"""The layers of a BART or mBART decoder as ONNX: what `slt_jax.models.bart` computes."""

from collections.abc import Mapping
from typing import Any

from slt_jax.export.decoder_step import DecoderStep, embed, vocabulary_logits
from slt_jax.export.layers import ACTIVATIONS, layer_norm, linear
from slt_jax.models.bart import POSITION_OFFSET, normalise_bart_config

MODEL = "decoder.model"
STACK = f"{MODEL}.model.decoder"
EPSILON = 1e-5


def memory_key(layer: int, part: str) -> str:
    """The Linear that makes the frames' keys or values."""
    return f"{STACK}.layers.{layer}.encoder_attn.{part[0]}_proj"


def logits(step: DecoderStep, settings: Mapping[str, Any]) -> str:
    """Add one step of a BART or mBART decoder to the graph; returns the name of its logits (B, vocab)."""
    g, config = step.graph, normalise_bart_config(settings)
    norm_first = config["model_type"] == "mbart"
    activate = ACTIVATIONS[config["activation_function"]]
    scale = step.sizes.head_dim**-0.5

    def before(x: str, key: str) -> str:
        return g.lowered(layer_norm(g, x, key, EPSILON) if norm_first else x)

    def after(x: str, added: str, key: str) -> str:
        x = g.op("Add", x, g.raised(added))
        return x if norm_first else layer_norm(g, x, key, EPSILON)

    x = _embed(step, config)
    for number in range(step.sizes.layers):
        layer = f"{STACK}.layers.{number}"
        norm = f"{layer}.self_attn_layer_norm"
        inner = before(x, norm)
        query, key, value = (linear(g, inner, f"{layer}.self_attn.{part}_proj") for part in "qkv")
        mixed = step.self_attention(number, query, key, value, scale, None)
        x = after(x, linear(g, mixed, f"{layer}.self_attn.out_proj"), norm)

        norm = f"{layer}.encoder_attn_layer_norm"
        query = linear(g, before(x, norm), f"{layer}.encoder_attn.q_proj")
        mixed = step.cross_attention(number, query, scale)
        x = after(x, linear(g, mixed, f"{layer}.encoder_attn.out_proj"), norm)

        norm = f"{layer}.final_layer_norm"
        hidden = g.lowered(activate(g, g.raised(linear(g, before(x, norm), f"{layer}.fc1"))))
        x = after(x, linear(g, hidden, f"{layer}.fc2"), norm)
    if norm_first:
        x = layer_norm(g, x, f"{STACK}.layer_norm", EPSILON)
    return g.op("Add", vocabulary_logits(g, x, f"{MODEL}.lm_head"), g.weight(f"{MODEL}.final_logits_bias"))


def _embed(step: DecoderStep, config: Mapping[str, Any]) -> str:
    """Rows (B, d_model); onnxruntime refuses a position beyond the table."""
    g = step.graph
    tokens = embed(g, f"{STACK}.embed_tokens.weight", step.ids)
    if config["scale_embedding"]:
        tokens = g.op("Mul", tokens, g.number(config["d_model"] ** 0.5))
    row = g.op("Add", step.position, g.integer(POSITION_OFFSET))
    positions = g.op("Gather", g.weight(f"{STACK}.embed_positions.weight"), row)
    return layer_norm(g, g.op("Add", tokens, positions), f"{STACK}.layernorm_embedding", EPSILON)
