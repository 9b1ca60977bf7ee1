"""`slt-export` from its flags to its files."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest

from convert import read_pt, write_pt
from slt_jax.cli.export import main
from slt_jax.export import job, store
from slt_jax.export.verify import open_session, run_session
from tests.convert.models import settings, tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    _, state = tiny()
    config = {"data": {"v9_hand_masks": False, "max_target_length": 20}, "model": settings()}
    write_pt("last.pt", {"epoch": 1, "model_state": state, "config": config})
    return tmp_path / "last.pt"


def refused(capsys, *arguments: str) -> str:
    """The one line with which a command refuses."""
    assert main(["--checkpoint", "last.pt", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("slt-export: error: ")
    assert error.count("\n") == 1
    return error


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_everything_at_once(checkpoint, capsys):
    given = ["--artifact-dir", "out", "--version", "v2", "--decoder", "--stablehlo"]
    assert main(["--checkpoint", "last.pt", *given]) == 0
    out = checkpoint.parent / "out"
    assert files(out) == {
        "encoder_v2.onnx", "encoder_v2.json", "encoder_v2.stablehlo", "decoder_first_v2.onnx", "decoder_step_v2.onnx",
        "decoder_v2.onnx.data",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.count("largest difference") == 6 + 6 + 1
    assert "nodes" in printed
    facts = json.loads((out / "encoder_v2.json").read_text())
    assert {
        "metadata_version", "artifact_version", "generated_at", "checkpoint", "model", "inputs", "outputs",
        "dynamic_axes", "backends", "opset",
    } <= facts.keys()  # fmt: skip
    assert facts["artifact_version"] == "v2"
    assert facts["opset"] == 17
    assert facts["checkpoint"]["config"]["model"]["d_model"] == 32
    assert len(facts["checkpoint"]["sha256"]) == 64
    assert facts["inputs"]["face"]["shape"] == ["B", "T", 3, 28, 28]
    assert facts["inputs"]["face"]["normalization"]["mean"] == [0.485, 0.456, 0.406]
    assert facts["inputs"]["pad_mask"]["dtype"] == "bool"
    assert facts["dynamic_axes"]["encoded"] == {"0": "B", "1": "T"}
    assert facts["largest_difference"]["encoder"] < 1e-5
    assert facts["generation"]["max_length"] == 20
    for file in facts["backends"].values():
        assert file is None or (out / file).exists()

    session = open_session(out / "encoder_v2.onnx")
    rng = np.random.default_rng(0)
    batch = {name: rng.standard_normal((2, 3, 3, 28, 28), np.float32) for name in ("face", "hand_l", "hand_r")}
    batch |= {"pose": rng.standard_normal((2, 3, 15), np.float32), "pad_mask": np.arange(3) < np.array([[3], [2]])}
    batch |= {name: rng.random((2, 3)) > 0.5 for name in ("miss_mask_hl", "miss_mask_hr")}
    call = jax.jit(jax.export.deserialize(bytearray((out / "encoder_v2.stablehlo").read_bytes())).call)
    ours, artefact = run_session(session, batch), call(batch)
    assert ours.keys() == artefact.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], artefact[name], atol=1e-5, err_msg=name)


def test_a_file_that_computes_something_else_is_not_kept(checkpoint, monkeypatch, capsys):
    right = job.encoder_graph

    def wrong(plan, state, **options):
        key = "encoder.fusion.proj.bias"
        return right(plan, state | {key: state[key] + 1e-3}, **options)

    monkeypatch.setattr(job, "encoder_graph", wrong)
    (checkpoint.parent / "out").mkdir()
    (checkpoint.parent / "out" / "encoder.onnx").write_text("from before")
    assert main(["--checkpoint", "last.pt", "--onnx", "out/encoder.onnx"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "0.0001 allowed" in error
    assert files(checkpoint.parent / "out") == {"encoder.onnx"}
    assert (checkpoint.parent / "out" / "encoder.onnx").read_text() == "from before"


def test_int8_is_smaller_and_near(checkpoint, capsys):
    assert main(["--checkpoint", "last.pt", "--onnx", "whole.onnx"]) == 0
    assert main(["--checkpoint", "last.pt", "--onnx", "encoder.onnx", "--quantize", "int8", "--decoder"]) == 0
    assert "encoder in int8: B 2, T 4" in capsys.readouterr().out
    facts = json.loads(Path("encoder.json").read_text())
    assert facts["precision"] == "int8"
    assert 1e-5 < facts["largest_difference"]["encoder"] < 0.1
    assert Path("encoder.onnx").stat().st_size < 0.7 * Path("whole.onnx").stat().st_size
    graph = onnx.load("encoder.onnx").graph
    names = {node.op_type for node in graph.node}
    assert "MatMulInteger" in names
    assert "Gemm" not in names
    # Two products of an activation and a weight fit into 16 bits, so that every processor computes the same.
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert 0 < max(np.abs(weight.astype(int)).max() for weight in weights) <= 64


def test_fp16_and_the_newest_opset(checkpoint):
    given = ["--precision", "fp16", "--opset", "23", "--decoder"]
    assert main(["--checkpoint", "last.pt", "--onnx", "encoder.onnx", *given]) == 0
    facts = json.loads(Path("encoder.json").read_text())
    assert (facts["precision"], facts["opset"]) == ("fp16", 23)
    assert 1e-5 < facts["largest_difference"]["encoder"] < 1e-2


def test_large_weights_go_into_a_file_of_their_own(checkpoint, monkeypatch):
    monkeypatch.setattr(store, "INSIDE", 100_000)
    assert main(["--checkpoint", "last.pt", "--artifact-dir", "out"]) == 0
    out = checkpoint.parent / "out"
    assert files(out) == {"encoder_v1.onnx", "encoder_v1.onnx.data", "encoder_v1.json"}
    assert (out / "encoder_v1.onnx").stat().st_size < 100_000
    moved = out.rename(checkpoint.parent / "elsewhere")
    onnx.checker.check_model(moved / "encoder_v1.onnx")
    open_session(moved / "encoder_v1.onnx")


@pytest.mark.parametrize("entry", ["encoder_state", "state_dict", None])
def test_an_encoder_by_itself(entry, checkpoint, capsys):
    state = {key: array for key, array in read_pt("last.pt")["model_state"].items() if key.startswith("encoder.")}
    if entry == "encoder_state":
        state = {key.removeprefix("encoder."): array for key, array in state.items()}
        content = {entry: state, "encoder_meta": {"image_size": 28, "temporal_nhead": 4}}
        model = []
    else:
        state = {f"module.{key}": array for key, array in state.items()}
        content = {entry: state} if entry else state
        model = ["--image-size", "28", "--temporal-nhead", "4"]
    write_pt("last.pt", content)
    assert main(["--checkpoint", "last.pt", "--onnx", "encoder.onnx", *model]) == 0
    assert "--decoder" in refused(capsys, "--onnx", "again.onnx", "--decoder", *model)


def test_flags_that_the_checkpoint_contradicts(checkpoint, capsys):
    error = refused(capsys, "--onnx", "encoder.onnx", "--d-model", "64")
    assert "--d-model is 64" in error
    assert "trained with 32" in error
    error = refused(capsys, "--onnx", "encoder.onnx", "--set", 'model.backbone={"embed_dim": 32}')
    assert "model.backbone is {'embed_dim': 32}" in error
    assert not Path("encoder.onnx").exists()
    same = ["--d-model", "32", "--temporal-dropout", "0.5", "--image-size", "28"]
    assert main(["--checkpoint", "last.pt", "--onnx", "encoder.onnx", *same]) == 0


def test_weights_that_do_not_fit(checkpoint, capsys):
    state = read_pt("last.pt")["model_state"]
    state.pop("encoder.fusion.proj.bias")
    write_pt("last.pt", state)
    assert main(["--checkpoint", "last.pt", "--onnx", "encoder.onnx", "--image-size", "28"]) == 2
    assert "- encoder.fusion.proj.bias" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--onnx FILE, --artifact-dir DIR or --stablehlo FILE"),
        (["--onnx", "encoder.pb"], "--onnx encoder.pb: the name must end in .onnx"),
        (["--onnx", "a.onnx", "--metadata", "a.txt"], "--metadata a.txt: the name must end in .json"),
        (["--onnx", "a.onnx", "--opset", "16"], "--opset 16: choose 17 to 23"),
        (["--onnx", "a.onnx", "--quantize", "int8", "--precision", "fp16"], "exclude each other"),
        (["--onnx", "a.onnx", "--torchscript", "a.ts"], "v9's own tools/export_onnx_encoder_v9.py"),
        (["--torchscript"], "python tools/export_onnx_encoder_v9.py --checkpoint last.pt --torchscript FILE"),
        (["--onnx", "a.onnx", "--device", "abacus"], "--device abacus: use auto, cpu"),
        (["--stablehlo"], "--stablehlo: name a file"),
        (["--stablehlo", "a", "--decoder"], "give --onnx FILE too"),
        (["--onnx", "last.pt/a.onnx"], "last.pt"),
        (["--onnx", "a.onnx", "--checkpoint", "nothing.pt"], "nothing.pt"),
        (["--onnx", "a.onnx", "--onx", "b"], "did you mean '--onnx'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words, checkpoint, capsys):
    assert words in refused(capsys, *arguments)
    assert files(checkpoint.parent) == {"last.pt"}


def test_without_the_packages(checkpoint, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert 'pip install "slt-jax[export]"' in refused(capsys, "--onnx", "a.onnx")
    assert files(checkpoint.parent) == {"last.pt"}


BACKBONE = '''
import jax.numpy as jnp
from flax import nnx


class Mean(nnx.Module):
    """The mean colour; asks for the length of its batch, as foreign code may."""

    def __init__(self, *, rngs):
        self.embed_dim = 3
        self.shift = nnx.Param(jnp.ones(3))

    def __call__(self, images):
        return images.mean(axis=(1, 2)) + jnp.broadcast_to(self.shift[...], (len(images), 3))
'''


def test_a_class_of_ones_own_goes_to_stablehlo_only(checkpoint, capsys):
    Path("my_backbone_of_means.py").write_text(BACKBONE)
    names = {f"{part}_backbone": "my_backbone_of_means:Mean" for part in ("face", "hand_left", "hand_right")}
    _, state = tiny(backbone=None, **names)
    model = {key: value for key, value in settings(**names).items() if key != "backbone"}
    write_pt("last.pt", {"epoch": 1, "model_state": state, "config": {"model": model}})
    error = refused(capsys, "--onnx", "encoder.onnx", "--trust-classes")
    assert "my_backbone_of_means:Mean" in error
    assert "--stablehlo" in error
    assert main(["--checkpoint", "last.pt", "--stablehlo", "encoder.stablehlo", "--trust-classes"]) == 0
    assert "B 2, T 3: largest difference" in capsys.readouterr().out
    assert not Path("encoder.onnx").exists()
