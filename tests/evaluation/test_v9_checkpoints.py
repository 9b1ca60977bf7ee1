"""Checkpoints that v9 wrote, and files that say less of their model than ours do."""

import json
import logging

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import slt_jax
from convert import read_pt, write_pt
from slt_jax.cli.evaluate import main
from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.text import decode, load_tokenizer
from tests.evaluation.conftest import MODEL, Evaluated, arguments, data_flags
from tests.parity.goldens import Golden, needs_goldens


@pytest.fixture
def words(tmp_path):
    """A tokenizer of the goldens' 97 tokens."""
    vocabulary = {"<pad>": 0, "</s>": 1} | {f"w{n}": n for n in range(2, 97)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    wrapped.save_pretrained(tmp_path / "words")
    return tmp_path / "words"


@needs_goldens
@pytest.mark.parametrize("name", ["t5_v1_1", "bart"])
def test_v9_checkpoints(corpus, words, evaluate, name):
    """With v9's own flags; the heads of a backbone of free size are all that it needs to be told."""
    golden = Golden(name)
    backbone = ["--set", f"model.backbone={json.dumps(golden.model['backbone'])}"]
    decoder = ["--decoder-config", str(golden.folder / "decoder_config"), "--d-model", str(golden.model["d_model"])]
    found = evaluate(
        golden.checkpoint,
        *data_flags(corpus),
        *backbone,
        *decoder,
        "--tokenizer",
        str(words),
        "--precision",
        "float32",
        "--num-beams",
        "2",
        "--max-new-tokens",
        "8",
        "--batch-size",
        "16",
    )
    assert "v9's hand masks" in found.said
    assert found.report["checkpoints"][0]["epoch"] == read_pt(golden.checkpoint)["epoch"]

    translator = slt_jax.load(golden.checkpoint, {"backbone": golden.model["backbone"]})
    files = scan(folders_under(corpus), [row["video_id"] for row in found.rows()])
    for row in found.rows()[:4]:
        clip = read_clip(files[row["video_id"]], sequence_length=6, image_size=56, num_landmarks=13, v9_inputs=True)
        batch = {key: array[None] for key, array in clip.items()}
        tokens = translator.generate(batch, num_beams=2, early_stopping=True, min_length=2, max_new_tokens=8)
        assert row["prediction"] == decode(load_tokenizer(words), tokens)[0] != ""


@needs_goldens
def test_barts_positions(corpus, words, evaluate, tmp_path, capsys):
    """64 positions: what was asked for must fit, what was not asked for is shortened with a word."""
    golden = Golden("bart")
    backbone = f"model.backbone={json.dumps(golden.model['backbone'])}"
    more = [*data_flags(corpus), "--set", backbone, "--tokenizer", str(words)]
    for flag, value in (("--max-new-tokens", "65"), ("--max-target-length", "66")):
        assert main(arguments(corpus, [golden.checkpoint], tmp_path / "p.csv", *more, flag, value)) == 2
        assert f"{flag}: 65 tokens after the start token are more than the 64 positions" in capsys.readouterr().err
    found = evaluate(golden.checkpoint, *more, "--precision", "float32", "--batch-size", "16")
    assert found.report["checkpoints"][0]["settings"]["max_length"] == 65
    assert "64 positions" in found.said


def test_a_bare_state_dict_takes_what_it_does_not_say_from_flags(corpus, run, evaluate, tmp_path, capsys):
    """Heads and image size are in no weight; d_model is, and must fit."""
    write_pt(tmp_path / "bare.pt", {f"module.{k}": v for k, v in read_pt(run / "best.pt")["model_state"].items()})
    backbone = f"model.backbone={json.dumps(MODEL['backbone'])}"
    flags = [
        *data_flags(corpus), "--temporal-nhead", "4", "--image-size", "28", "--set", backbone,
        "--tokenizer", str(run / "tokenizer"), "--no-v9-hand-masks", "--precision", "float32",
        "--max-target-length", "9",
    ]  # fmt: skip
    told: Evaluated = evaluate(tmp_path / "bare.pt", *flags)
    assert told.texts() == evaluate(run).texts()
    assert main(arguments(corpus, [tmp_path / "bare.pt"], tmp_path / "p.csv", *flags, "--d-model", "64")) == 2
    assert "--d-model 64 contradicts" in capsys.readouterr().err
    other = evaluate(tmp_path / "bare.pt", *flags, "--temporal-nhead", "2")
    assert other.texts() != told.texts()


def test_the_level_of_the_log(run, evaluate):
    before = logging.getLogger().level
    try:
        evaluate(run, "--log-level", "error")
        assert logging.getLogger().level == logging.ERROR
    finally:
        logging.getLogger().setLevel(before)
