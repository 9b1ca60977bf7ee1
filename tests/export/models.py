"""Tiny models as ONNX for the tests of export."""

from pathlib import Path

import numpy as np

from convert.state_dict import to_state
from slt_jax.decoding.inference import Translator
from slt_jax.export.encoder import encoder_graph
from slt_jax.export.store import save_graphs
from slt_jax.export.verify import open_session, run_session


def weights(translator: Translator) -> dict[str, np.ndarray]:
    return to_state(translator.params, translator.blueprint.structure()[1])


def encoder_file(translator: Translator, folder: Path, *, opset: int = 17, half: bool = False) -> Path:
    graph = encoder_graph(translator.blueprint, weights(translator), opset=opset, half=half)
    save_graphs({"encoder.onnx": graph}, folder)
    return folder / "encoder.onnx"


class OnnxEncoder:
    """`encoder(batch)` gives the outputs by name."""

    def __init__(self, path: Path):
        self.session = open_session(path)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return run_session(self.session, batch)
