"""An ONNX graph written node by node from a torch state dict.

Weights that go into the graph unchanged keep their torch key as the name of their initialiser, and torch's layout.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from slt_jax.errors import UserError

Shape = Sequence[int | str]


def import_onnx():
    """The package `onnx`. Raises UserError if it is not installed."""
    try:
        import onnx
    except ImportError:
        raise UserError('writing ONNX needs the package onnx: pip install "slt-jax[export]"') from None
    return onnx


class Graph:
    """Nodes, initialisers, inputs and outputs; every value is named by a string.

    `half` computes matrix products in float16 and all else in float32, as training in fp16 does; weights of products
    are then stored in float16. Inputs and outputs are float32, int64 or bool whatever it is.
    """

    def __init__(self, name: str, state: Mapping[str, np.ndarray], *, opset: int, half: bool = False):
        self.name, self.state, self.opset, self.half = name, state, opset, half
        self.tensors: dict[str, np.ndarray] = {}
        self.nodes: list = []
        self.inputs: list = []
        self.outputs: list = []
        first: dict[int, str] = {}
        self._tied = {key: first.setdefault(id(array), key) for key, array in state.items()}
        self._make = import_onnx().helper

    # --- values -----------------------------------------------------------------------------------------------

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        """The output of a new node."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self._make.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, value: str, *sizes: int) -> list[str]:
        """Pieces of these sizes along the last axis."""
        inputs = [value, self.integers(*sizes)]
        name = f"Split_{len(self.nodes)}"
        pieces = [f"{name}_{i}" for i in range(len(sizes))]
        self.nodes.append(self._make.make_node("Split", inputs, pieces, name=name, axis=-1))
        return pieces

    def weight(self, key: str) -> str:
        """The float32 tensor of a torch key; tied keys are one tensor."""
        return self.made(self._tied[key], self.state[key])

    def matrix(self, key: str) -> str:
        """The tensor of a torch key as products read it: float16 where `half`."""
        return self.made(self._tied[key], self.state[key], product=True)

    def made(self, name: str, array: np.ndarray, *, product: bool = False) -> str:
        """A tensor by a name of ours: a part of a weight, or what is computed from some once."""
        if name not in self.tensors:
            self.tensors[name] = np.ascontiguousarray(array, np.float16 if product and self.half else np.float32)
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self._constant(np.float32(value))

    def integers(self, *values: int) -> str:
        """An int64 vector: a shape, axes or sizes."""
        return self._constant(np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """An int64 scalar."""
        return self._constant(np.int64(value))

    def _constant(self, value: np.ndarray | np.generic) -> str:
        text = "_".join(str(v) for v in np.ravel(value))
        name = f"constant.{value.dtype}.{text}" + ("" if value.ndim else ".scalar")
        self.tensors.setdefault(name, np.asarray(value))
        return name

    def cast(self, x: str, dtype) -> str:
        """`x` as `dtype`."""
        return self.op("Cast", x, to=self._type(dtype))

    # --- precision --------------------------------------------------------------------------------------------

    def lowered(self, x: str) -> str:
        """A float32 value as products take it."""
        return self.cast(x, np.float16) if self.half else x

    def raised(self, x: str) -> str:
        """The result of a product as float32."""
        return self.cast(x, np.float32) if self.half else x

    # --- the outside ------------------------------------------------------------------------------------------

    def input(self, name: str, dtype, shape: Shape) -> str:
        """Add an input; returns its name."""
        self.inputs.append(self._make.make_tensor_value_info(name, self._type(dtype), list(shape)))
        return name

    def output(self, name: str, value: str, shape: Shape) -> None:
        """A float32 output."""
        self.nodes.append(self._make.make_node("Identity", [value], [name], name=f"output.{name}"))
        self.outputs.append(self._make.make_tensor_value_info(name, self._type(np.float32), list(shape)))

    def _type(self, dtype) -> int:
        """ONNX's number for a NumPy type."""
        return self._make.np_dtype_to_tensor_dtype(np.dtype(dtype))
