"""The layers all exported models share, on rows: (N, features) in, (N, features) out.

Rows and not (batch, time, features): a product with its bias is then one Gemm, which onnxruntime runs fastest.
"""

import numpy as np

from slt_jax.export.graph import Graph

LOWEST = float(np.finfo(np.float32).min)


def linear(g: Graph, x: str, key: str, *, bias: bool = True) -> str:
    """torch's Linear `key`; `x` as products take it, and so the result (see `Graph.lowered`)."""
    biases = [g.matrix(f"{key}.bias")] if bias else []
    return g.op("Gemm", x, g.matrix(f"{key}.weight"), *biases, transB=1)


def layer_norm(g: Graph, x: str, key: str, epsilon: float) -> str:
    """LayerNorm over the last axis."""
    return g.op("LayerNormalization", x, g.weight(f"{key}.weight"), g.weight(f"{key}.bias"), axis=-1, epsilon=epsilon)


def rms_norm(g: Graph, x: str, key: str, epsilon: float) -> str:
    """T5's: no mean, no bias."""
    # ReduceMean takes its axes differently before and after opset 18; ReduceSum does not.
    width = g.state[f"{key}.weight"].size
    mean = g.op("Mul", g.op("ReduceSum", g.op("Mul", x, x), g.integers(-1)), g.number(1 / width))
    root = g.op("Sqrt", g.op("Add", mean, g.number(epsilon)))
    return g.op("Mul", g.op("Div", x, root), g.weight(f"{key}.weight"))


# --- activations, on float32 --------------------------------------------------------------------------------------


def gelu(g: Graph, x: str) -> str:
    """GELU, exact."""
    if g.opset >= 20:
        return g.op("Gelu", x)
    # The order of operations that onnxruntime knows as a GELU and runs as one.
    half = g.op("Mul", x, g.op("Add", g.op("Erf", g.op("Div", x, g.number(2**0.5))), g.number(1)))
    return g.op("Mul", half, g.number(0.5))


def gelu_tanh(g: Graph, x: str) -> str:
    """GELU in the approximation by tanh."""
    if g.opset >= 20:
        return g.op("Gelu", x, approximate="tanh")
    cube = g.op("Mul", g.op("Mul", x, x), x)
    inner = g.op("Mul", g.op("Add", x, g.op("Mul", cube, g.number(0.044715))), g.number((2 / np.pi) ** 0.5))
    return g.op("Mul", g.op("Mul", x, g.number(0.5)), g.op("Add", g.op("Tanh", inner), g.number(1)))


def silu(g: Graph, x: str) -> str:
    """x * sigmoid(x)."""
    return g.op("Mul", x, g.op("Sigmoid", x))


def quick_gelu(g: Graph, x: str) -> str:
    """GELU in the approximation by a sigmoid."""
    return g.op("Mul", x, g.op("Sigmoid", g.op("Mul", x, g.number(1.702))))


ACTIVATIONS = {
    "relu": lambda g, x: g.op("Relu", x), "gelu": gelu, "gelu_python": gelu, "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh, "quick_gelu": quick_gelu, "silu": silu, "swish": silu,
    "tanh": lambda g, x: g.op("Tanh", x), "sigmoid": lambda g, x: g.op("Sigmoid", x), "linear": lambda g, x: x,
}  # fmt: skip


# --- attention ----------------------------------------------------------------------------------------------------


def attend(
    g: Graph, query: str, key: str, value: str, *, scale: float = 1.0, bias: str | None = None, keep: str | None = None
) -> str:
    """(B, H, Q, D) from query (B, H, Q, D), transposed key (B, H, D, K) and value (B, H, K, D), all as products are.

    `bias` float32 is added to the scores, then what is not in `keep` (bool) is left out; both broadcast to (B, H, Q,
    K). A row that keeps nothing attends to everything alike, as in `slt_jax.models.layers`.
    """
    if scale != 1.0:
        query = g.op("Mul", query, lowered_number(g, scale))
    scores = g.raised(g.op("MatMul", query, key))
    if bias is not None:
        scores = g.op("Add", scores, bias)
    if keep is not None:
        scores = g.op("Where", keep, scores, g.number(LOWEST))
    return g.op("MatMul", g.lowered(g.op("Softmax", scores, axis=-1)), value)


def lowered_number(g: Graph, value: float) -> str:
    """A scalar of the type of products."""
    return g.made(f"constant.scale.{value}", np.asarray(value, np.float32), product=True)
