"""With one more row in the table, a stream is extracted, packed, trained, converted, exported and shown."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convert import read_pt
from tests.commands import ROOT

TABLE_ENDS = '    Stream("pose",'
ROW = """    Stream(
        "body", "body", "body", "body_projector", "miss_mask_body", "body", ("body",), backbone="body_backbone",
        crop=Crop(around=("nose", "left_shoulder", "right_shoulder"), scale=1.5),
    ),
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder that tests.streams.added_stream.py filled, in which `said` is what its commands printed."""
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("stream")
    code = folder / "code"
    for package in ("slt_jax", "convert", "tools"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    table = code / "slt_jax" / "streams.py"
    before, row, after = table.read_text(encoding="utf-8").partition(TABLE_ENDS)
    table.write_text(before + ROW + row + after, encoding="utf-8")
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (code, ROOT)))}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.streams.added_stream", str(folder)],
        cwd=folder, env=os.environ | paths, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (folder / "said").write_text(ended.stdout, encoding="utf-8")
    return folder


def test_it_is_extracted(made):
    crops = sorted(path.name for path in (made / "corpus" / "body").iterdir())
    assert crops == [f"{clip}_f{frame:06d}.jpg" for clip in "abc" for frame in range(5)]
    with (
        Image.open(made / "corpus" / "body" / crops[0]) as crop,
        Image.open(made / "corpus" / "face" / crops[0]) as face,
    ):
        reds = [np.asarray(image)[..., 0] > 150 for image in (crop, face)]
    assert 0 < reds[0].mean() < reds[1].mean()  # the face is in it, smaller than in its own crop
    with np.load(made / "corpus" / "pose" / "a.npz") as pose:
        assert set(pose["source_body"]) == {"pose"}
        assert not pose["miss_body"].any()


def test_it_is_packed(made):
    index = json.loads((made / "pack" / "index.json").read_text())
    runs = np.frombuffer(base64.b64decode(index["clips"]["body"]["runs"]), "<i4")
    assert runs.reshape(-1, 2).tolist() == [[0, 5]] * 3


def test_it_is_trained(made):
    config = json.loads((made / "run" / "config.json").read_text())
    assert config["data"]["body_dir"] == str(made / "corpus" / "body")
    assert config["model"]["freeze_body_backbone"] is False
    (epoch,) = (json.loads(line) for line in (made / "run" / "metrics.jsonl").read_text().splitlines())
    assert (epoch["steps"], np.isfinite(epoch["val_loss"])) == (2, True)


def test_it_is_converted(made):
    keys = read_pt(made / "weights.pt")["model_state"].keys()
    assert {"encoder.body_backbone.cls_token", "encoder.body_projector.layers.0.weight"} <= keys
    assert "encoder.body_backbone.cls_token" in (made / "said").read_text()


def test_it_is_exported(made):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(made / "encoder.onnx", providers=["CPUExecutionProvider"])
    assert {"body", "miss_mask_body"} <= {value.name for value in session.get_inputs()}
    rng = np.random.default_rng(0)
    batch = {}
    for value in session.get_inputs():
        shape = [{"B": 1, "T": 2}.get(size, size) for size in value.shape]
        is_mask = value.type == "tensor(bool)"
        batch[value.name] = (
            np.full(shape, value.name == "pad_mask") if is_mask else rng.normal(size=shape).astype(np.float32)
        )
    (seen,), (hidden,) = (
        session.run(["encoded"], batch | {"miss_mask_body": np.full((1, 2), missing)}) for missing in (False, True)
    )
    assert seen.shape == (1, 2, 16)
    assert not np.allclose(seen, hidden)


def test_it_is_shown(made):
    """The sheet has a row and the film a column more than there are streams without it."""
    with Image.open(made / "sheet.png") as sheet:
        assert sheet.height > 5 * 96
    with Image.open(made / "film.gif") as film:
        assert film.width > 5 * 184
