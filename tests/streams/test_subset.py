"""A model of some of the streams: what it has is called as in v9, and nothing of the others is asked for."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.checkpoint import blueprint, plan_model, read_checkpoint
from convert.compatibility import v9_notes
from convert.infer import infer_fields
from slt_jax.base.files import sha256
from slt_jax.cli.evaluate import main as evaluate
from slt_jax.cli.export import main as export
from slt_jax.cli.train import main as train
from slt_jax.config import Config, build_config, build_section
from slt_jax.data.augment import prepare
from slt_jax.data.clip_files import scan
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow
from slt_jax.data.schema import BatchSizes, shapes
from slt_jax.errors import UserError
from slt_jax.synthetic.generator import generate
from tests.cli.conftest import Corpus

VIT = {"embed_dim": 8, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 56}
MODEL = {"d_model": 8, "projector_dim": 8, "temporal_nhead": 2, "temporal_layers": 1, "decoder_layers": 1,
         "decoder_heads": 2, "vocab_size": 9, "image_size": 56, "sequence_length": 4, "backbone": VIT}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four clips with a column lang."""
    root = tmp_path_factory.mktemp("subset") / "clips"
    generate(root, num_train=3, num_val=1, num_test=2, seed=3, level="small", image_size=28, workers=0, progress=False)
    with open(root / "meta.csv", encoding="utf-8") as file:
        text = file.read()
    header, *rows = text.splitlines()
    mark = csv.Sniffer().sniff(header, ";,\t").delimiter
    lines = [f"{header}{mark}lang", *(f"{row}{mark}{('es', 'en')[n % 2]}" for n, row in enumerate(rows))]
    (root / "meta.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["pose"], ["pose"]), (["pose,face"], ["face", "pose"]), (["hl", "Hand-Right"], ["hand_l", "hand_r"]),
        (["hand_left"], ["hand_l"]), (["face", "hl", "hr", "pose"], None), (None, None),
    ],
)  # fmt: skip
def test_streams_are_known_by_any_of_their_names(given, names):
    assert build_section("model", {"streams": given}).streams == names


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({"streams": ["legs"]}, {}, "model.streams: unknown stream 'legs'; choose face"),
        ({"streams": []}, {}, "model.streams: names no stream"),
        ({"streams": ["pose"], "freeze_face_backbone": True}, {},
         "model.freeze_face_backbone: the model has no stream of the face, only pose"),
        ({"streams": ["pose"]}, {"mix_streams": {"face": 0.5}}, "data.mix_streams: the model has no stream of"),
        ({"streams": ["face"]}, {"v9_hand_masks": True}, "data.v9_hand_masks: v9 knows no model with face alone"),
        ({"streams": ["face"], "projector": {"hand_left": "mlp"}}, {}, "model.projector.hand_left: the model has no"),
    ],
)  # fmt: skip
def test_what_is_said_of_other_streams_is_an_error(model, data, message):
    with pytest.raises(UserError, match=message):
        build_config({"model": model, "data": data})


@pytest.mark.parametrize("names", [["pose"], ["face"], ["hand_l", "hand_r"], ["face", "pose"]])
def test_the_names_are_those_of_a_whole_model(names):
    whole, part = (plan_model(build_section("model", MODEL | {"streams": s})) for s in (None, names))
    all_entries, entries = ({e.key: e.shape for e in plan.structure()[1]} for plan in (whole, part))
    assert entries.keys() < all_entries.keys()
    assert {key for key in entries if entries[key] != all_entries[key]} <= {
        "encoder.fusion.norm.weight", "encoder.fusion.norm.bias", "encoder.fusion.proj.weight",
    }  # fmt: skip
    assert entries["encoder.fusion.proj.weight"] == (8, 8 * len(names))
    # A bare state dict tells which streams it has.
    state = {key: np.zeros(shape, np.float32) for key, shape in entries.items()}
    found = infer_fields(state)
    assert (found["streams"], found["projector_dim"]) == (names, 8)
    assert "streams" not in infer_fields({key: np.zeros(shape) for key, shape in all_entries.items()})
    (note,) = v9_notes(Config(model=part.config), part)
    assert "the model has only the streams" in note


def test_a_batch_has_only_what_the_model_reads(root):
    assert set(shapes(BatchSizes(2, 3, 8, 13, 4, ("pose",)))) == {
        "pose", "pose_conf_mask", "pad_mask", "labels", "flip", "valid",
    }  # fmt: skip
    ids = [line for line in (root / "index/train.csv").read_text().split() if line != "video_id"][:2]
    files = scan({"pose": root / "pose"}, ids, ["pose"])
    with pytest.raises(UserError, match="--face-dir is not given"):
        scan({"pose": root / "pose"}, ids)
    settings = LoaderSettings(2, 4, 28, 13, train=True, flip_probability=1.0, streams=("pose",))
    with Loader([ClipRow(i, "a") for i in ids], files, np.ones((2, 1), np.int32), settings) as loader:
        (batch,) = loader.epoch()
    assert "face" not in batch.arrays
    assert batch.arrays["pose_conf_mask"].any()
    assert batch.arrays["flip"].all()
    inputs = jax.tree.map(np.asarray, prepare(jax.tree.map(jnp.asarray, batch.arrays)))
    nose = batch.arrays["pose_conf_mask"][..., 0]
    np.testing.assert_allclose(inputs["pose"][nose][:, 0], 1 - batch.arrays["pose"][nose][:, 0], atol=1e-6)


def test_a_lone_hand_is_never_mirrored(root, caplog):
    files = scan({"hand_l": root / "hand_l"}, ["train_000000"], ["hand_l"])
    settings = LoaderSettings(1, 4, 28, 13, train=True, flip_probability=1.0, streams=("hand_l",))
    loader = Loader([ClipRow("train_000000", "a")], files, np.ones((1, 1), np.int32), settings)
    assert not loader.flips
    assert "--streams: a mirrored left hand is the right hand, which is left out" in caplog.text


@pytest.mark.slow
def test_poses_alone_train_evaluate_and_are_told_to_be_ours(root, tmp_path, capsys):
    """In two languages, by a prompt; no crops are there at all."""
    alone = tmp_path / "alone"
    shutil.copytree(root / "pose", alone / "pose")
    shutil.copytree(root / "index", alone / "index")
    shutil.copy(root / "meta.csv", alone / "meta.csv")
    changed = {"face_dir": None, "hand_left_dir": None, "hand_right_dir": None, "set": None, "mix_stream": None}
    arguments = Corpus(alone).flags(
        tmp_path / "run", "--streams", "pose", prefix="{lang}: ", epochs="1", max_target_length="48", **changed
    )
    assert train(arguments) == 0
    said = capsys.readouterr().out
    assert "v9's tools cannot load these checkpoints: the model has only the streams pose" in said
    plan = blueprint(read_checkpoint(tmp_path / "run" / "last.pt"))
    assert (plan.config.streams, plan.backbones) == (["pose"], {})

    given = ["--checkpoint", str(tmp_path / "run"), "--eval-index", str(alone / "index/test.csv"), "--device", "cpu"]
    card = ["--card", str(tmp_path / "card"), "--split-by", "lang"]
    assert evaluate([*given, "--output-csv", str(tmp_path / "out/p.csv"), *card]) == 0
    assert evaluate(["--check", str(tmp_path / "card")]) == 0
    sums = json.loads((tmp_path / "card/provenance.json").read_text())["checksums"]
    assert sums["weights"] == sha256(tmp_path / "run/best.pt")
    assert sums["index"] == sha256(alone / "index/test.csv")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert set(report["checkpoints"][0]["groups"]) == {"es", "en"}
    assert all("chrf_pp" in group and group["bleu_tokens"] == "13a" for group in
               report["checkpoints"][0]["groups"].values())  # fmt: skip
    capsys.readouterr()
    assert export(["--checkpoint", str(tmp_path / "run"), "--onnx", str(tmp_path / "e.onnx")]) == 2
    assert "has only the streams pose; models of all four streams are exported" in capsys.readouterr().err
