"""Graphs as `.onnx` files, with their weights inside or in one file beside them."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slt_jax.export.graph import Graph, import_onnx

INSIDE = 1_900_000_000  # bytes of weights a file holds: protobuf's limit is 2 GiB
ALIGNMENT = 64


def save_graphs(graphs: Mapping[str, Graph], folder: Path, *, shared: str | None = None) -> None:
    """Write `{file name: graph}` into `folder`.

    With `shared` all weights go into the file of that name, once where graphs have the same; so do, into NAME.data,
    those of a graph that are too large for a file by themselves.
    """
    if shared:
        places = _write_tensors(folder / shared, graphs.values())
        for name, graph in graphs.items():
            _save(graph, folder / name, shared, places)
        return
    for name, graph in graphs.items():
        outside = f"{name}.data" if sum(tensor.nbytes for tensor in graph.tensors.values()) > INSIDE else None
        _save(graph, folder / name, outside, _write_tensors(folder / outside, [graph]) if outside else {})


def _write_tensors(path: Path, graphs) -> dict[str, int]:
    """Write the tensors, those of one name once; {name: offset}. Small ones stay in their graph."""
    places: dict[str, int] = {}
    with open(path, "wb") as file:
        for graph in graphs:
            for name, tensor in graph.tensors.items():
                if name not in places and tensor.nbytes > 1024:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    places[name] = file.tell()
                    tensor.tofile(file)
        file.flush()
        os.fsync(file.fileno())
    return places


def _save(graph: Graph, path: Path, outside: str | None, places: Mapping[str, int]) -> None:
    onnx = import_onnx()
    opset = onnx.helper.make_opsetid("", graph.opset)
    tensors = [_tensor(onnx, name, array, outside, places.get(name)) for name, array in graph.tensors.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, graph.name, graph.inputs, graph.outputs, tensors),
        opset_imports=[opset],
        ir_version=onnx.helper.find_min_ir_version_for([opset]),
        producer_name="slt_jax",
    )
    with open(path, "wb") as file:
        file.write(model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _tensor(onnx, name: str, array: np.ndarray, outside: str | None, offset: int | None):
    if offset is None:
        return onnx.numpy_helper.from_array(array, name)
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=kind, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", outside), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
