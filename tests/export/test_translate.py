"""tools/translate_onnx.py: a clip to text without JAX, the same text as `translator.generate`."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import slt_jax
from convert import write_pt
from convert.checkpoint import Blueprint
from slt_jax.cli.export import main
from slt_jax.data.augment import prepare
from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.text import decode, load_tokenizer, train_tokenizer
from slt_jax.synthetic.generator import generate
from tests.convert.models import settings, tiny

TOOL = Path(__file__).resolve().parents[2] / "tools" / "translate_onnx.py"
STEPS = {"pose_landmarks": 13, "sequence_length": 5, "decoder_layers": 2, "vocab_size": 290}
BART = {"model_type": "bart", "max_position_embeddings": 12, "forced_eos_token_id": 1, "init_std": 1.0}
MBART = {"model_type": "mbart", "scale_embedding": True}
RULES = {"forced_bos_token_id": 7, "no_repeat_ngram_size": 2, "forced_eos_token_id": [9]}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("translate_onnx", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "clips"
    generate(root, num_train=2, num_val=0, num_test=0, seed=3, level="small", image_size=28, workers=0, progress=False)
    words = "hola mundo casa perro lunes trabajo amigo hermana"
    assert train_tokenizer([words, words], root / "tokenizer", vocab_size=290).vocab_size == 290
    return root


def exported(folder: Path, **changes) -> slt_jax.Translator:
    """`loud_model` and its files in `folder`."""
    loud_model(folder, **changes)
    assert main(["--checkpoint", str(folder / "model.pt"), "--onnx", str(folder / "encoder.onnx"), "--decoder"]) == 0
    return slt_jax.load(folder / "model.pt")


def loud_model(folder: Path, *, v9_hand_masks: bool = False, **changes) -> None:
    """Write a model with random weights, strong enough that its words differ, as `model.pt` in `folder`."""
    changes = STEPS | changes
    plan, state = tiny(**changes)
    assert isinstance(plan, Blueprint)
    rng = np.random.default_rng(5)
    values = ("EncDecAttention.v.weight", "encoder_attn.v_proj.weight")
    loud = {key: array * 30 if key.endswith(values) else array for key, array in state.items()}
    for key in ("encoder.fusion.proj.weight", "encoder.pose_projector.layers.1.weight"):
        loud[key] = rng.standard_normal(state[key].shape, np.float32) * 3
    config = {"data": {"v9_hand_masks": v9_hand_masks, "max_target_length": 12}, "model": settings(**changes)}
    write_pt(folder / "model.pt", {"epoch": 1, "model_state": loud, "config": config})


def clip_batch(corpus: Path, video_id: str, **options) -> dict[str, np.ndarray]:
    files = scan(folders_under(corpus), [video_id])[video_id]
    clip = read_clip(files, sequence_length=5, image_size=28, num_landmarks=13, **options)
    return {name: array[None] for name, array in clip.items()}


def test_same_text_as_generate(corpus, tmp_path, capsys, tool):
    translator = exported(tmp_path, decoder_kwargs=BART)
    ids = ["train_000000", "train_000001"]
    given = [str(tmp_path / "encoder.json"), *ids, "--root", str(corpus), "--tokenizer", str(corpus / "tokenizer")]
    capsys.readouterr()
    assert tool.main(given) == 0
    tokenizer, expected = load_tokenizer(corpus / "tokenizer"), []
    for video_id in ids:
        tokens = translator.generate(clip_batch(corpus, video_id), min_length=2, max_length=12)
        expected.append(f"{video_id}: {decode(tokenizer, tokens)[0]}")
    assert capsys.readouterr().out.splitlines() == expected
    assert all(len(line) > len("train_000000: ") for line in expected)


@pytest.mark.parametrize("v9_hand_masks", [False, True])
def test_reads_what_evaluation_reads(v9_hand_masks, corpus, tmp_path, tool):
    exported(tmp_path, v9_hand_masks=v9_hand_masks)
    found = tool.OnnxTranslator(tmp_path / "encoder.json").read(folders_under(corpus), "train_000001")
    wanted = prepare(clip_batch(corpus, "train_000001", v9_inputs=v9_hand_masks))
    keep = np.repeat(wanted.pop("pose_conf_mask"), 3, axis=-1)
    wanted["pose"] = np.where(keep, wanted["pose"], 0)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        frames = array[:, : found["pad_mask"].shape[1]]
        frames = frames.transpose(0, 1, 4, 2, 3) if frames.ndim == 5 else frames
        np.testing.assert_allclose(found[name], frames, atol=1e-6, err_msg=name)
        assert found[name].dtype == frames.dtype


@pytest.mark.parametrize("decoder", [BART, MBART, {"feed_forward_proj": "gated-gelu"}], ids=["bart", "mbart", "t5"])
def test_every_family_searches_alike(decoder, tmp_path, tool):
    translator = exported(tmp_path, decoder_kwargs=decoder)
    rng = np.random.default_rng(0)
    batch = {name: rng.standard_normal((2, 5, 3, 28, 28), np.float32) for name in ("face", "hand_l", "hand_r")}
    batch |= {"pose": rng.standard_normal((2, 5, 39), np.float32), "pad_mask": np.arange(5) < np.array([[5], [2]])}
    batch |= {name: rng.random((2, 5)) > 0.5 for name in ("miss_mask_hl", "miss_mask_hr")}
    onnx = tool.OnnxTranslator(tmp_path / "encoder.json")
    found = onnx.tokens(batch)
    np.testing.assert_array_equal(found, translator.generate(batch, min_length=2, max_length=12))
    assert not np.array_equal(found[0], found[1])
    onnx.facts["generation"] |= RULES | {"max_length": 9, "min_length": 6}
    found = onnx.tokens(batch)
    np.testing.assert_array_equal(found, translator.generate(batch, min_length=6, max_length=9, **RULES))
    assert (found[:, 1] == 7).all()


def test_needs_no_jax(corpus, tmp_path):
    exported(tmp_path)
    program = (
        f"import runpy, sys; sys.argv = {[str(TOOL), str(tmp_path / 'encoder.json'), 'train_000000', '--root', str(corpus), '--tokenizer', str(corpus / 'tokenizer')]!r}\n"  # noqa: E501
        f"try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        f"except SystemExit as end: assert end.code == 0, end.code\n"
        f"assert not {{'jax', 'flax', 'torch', 'transformers'}} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=TOOL.parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("train_000000: ")


def test_mistakes_are_told_in_one_line(corpus, tmp_path, capsys, tool):
    exported(tmp_path)
    facts = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "no_decoder.json").write_text(json.dumps(facts | {"backends": {"onnx": "encoder.onnx"}}))
    (tmp_path / "broken.onnx").write_text("?")
    (tmp_path / "broken.json").write_text(json.dumps(facts | {"backends": facts["backends"] | {"onnx": "broken.onnx"}}))
    root, tokenizer = ["--root", str(corpus)], ["--tokenizer", str(corpus / "tokenizer")]
    for metadata, clip, rest, words in (
        ("encoder.json", "train_9", [*root, *tokenizer], "train_9: no frame in any stream"),
        ("encoder.json", "train_000000", tokenizer, "--face-dir is not given"),
        ("encoder.json", "train_000000", [*root, "--tokenizer", str(tmp_path)], "has no tokenizer.json"),
        ("nothing.json", "train_000000", [*root, *tokenizer], "nothing.json: cannot be read"),
        ("no_decoder.json", "train_000000", [*root, *tokenizer], "slt-export --decoder"),
        ("broken.json", "train_000000", [*root, *tokenizer], "broken.onnx: onnxruntime cannot read it"),
    ):
        capsys.readouterr()
        assert tool.main([str(tmp_path / metadata), clip, *rest]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
