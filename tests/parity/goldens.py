"""The goldens that v9 produced, for the tests that compare with them.

`pocket/` lies beside this file, so that every clone is compared with v9; the larger ones beside the checkout.
"""

import json
from pathlib import Path

import numpy as np
import pytest

GOLDENS = Path(__file__).resolve().parents[2].parent / "shared" / "goldens"
needs_goldens = pytest.mark.skipif(not GOLDENS.exists(), reason="the v9 goldens are not beside this checkout")
POCKET = Path(__file__).resolve().parent / "pocket"
T5_CASES = ["pocket", *(pytest.param(name, marks=needs_goldens) for name in ("t5_mlp", "t5_identity", "t5_v1_1"))]


class Golden:
    def __init__(self, name: str):
        self.folder = POCKET if name == "pocket" else GOLDENS / name
        self.checkpoint = self.folder / "checkpoint.pt"
        self.case = json.loads((self.folder / "case.json").read_text())
        self.inputs = dict(np.load(self.folder / "inputs.npz"))
        self.expected = dict(np.load(self.folder / "expected.npz"))

    @property
    def model(self) -> dict:
        """The ModelConfig fields of the case."""
        vit = self.case["vit"]
        backbone = {"embed_dim": vit["embed"], "depth": vit["depth"], "num_heads": vit["heads"], "patch_size": 14}
        backbone |= {key: vit[key] for key in ("image_size",) if key in vit}
        return self.case["model"] | {
            "backbone": backbone,
            "vocab_size": self.case["vocab_size"],
            "projector": self.case["projector"],
        }

    def batch(self, name: str = "b0") -> dict[str, np.ndarray]:
        return {key.removeprefix(f"{name}_"): v for key, v in self.inputs.items() if key.startswith(f"{name}_")}


def relative_error(actual, expected) -> float:
    """Relative L2 error, as goldens/README asks to compare."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
