"""Tokenizers that others made: SentencePiece models, languages, a missing end, and what targets lose."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from convert.checkpoint import plan_model
from slt_jax.config import Config, ModelConfig
from slt_jax.data.splits import open_tokenizer, tell_targets
from slt_jax.data.target_language import set_target_language
from slt_jax.data.text import (
    IGNORE,
    decode,
    encode_labels,
    encode_targets,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)
from slt_jax.decoding.search import Search
from slt_jax.errors import UserError
from slt_jax.training.start import with_starts, with_tokenizer

WORDS = ["mi", "nombre", "es", "luciana", "hoy", "vamos", "a", "hablar", "de", "agua", "casa"]
LETTERS = "▁abcdefghijklmnopqrstuvwxyzáéíóúñ¿?.,"
TEXT = "mi casa es agua"


def sentencepiece(path: Path, *, kind: int = 1) -> None:
    """A model as `spm_train` writes it: unknown 0, beginning 1, end 2, no padding. `kind` 1 is unigram, 2 BPE."""
    proto = sentencepiece_model_pb2.ModelProto()
    spec = proto.trainer_spec
    spec.model_type, spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = kind, 0, 1, 2, -1
    proto.normalizer_spec.name = "nmt_nfkc"
    special = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    words = [(f"▁{word}", -3 - n / 10, 1) for n, word in enumerate(WORDS)]
    for piece, score, type_ in (*special, *words, *((letter, -8.0, 1) for letter in LETTERS)):
        proto.pieces.add(piece=piece, score=score, type=type_)
    path.write_bytes(proto.SerializeToString())


def folder(path: Path, kind: str) -> Path:
    """A tokenizer folder with SentencePiece models and no tokenizer.json."""
    path.mkdir(exist_ok=True)
    names = {"T5Tokenizer": ["spiece.model"], "MarianTokenizer": ["source.spm", "target.spm"]}
    for name in names.get(kind, ["sentencepiece.bpe.model"]):
        sentencepiece(path / name)
    pieces = [f"▁{word}" for word in WORDS] + list(LETTERS)
    if kind == "M2M100Tokenizer":
        tokens = ["<s>", "<pad>", "</s>", "<unk>", *pieces]
        (path / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    if kind == "MarianTokenizer":
        tokens = ["</s>", "<unk>", *pieces, "<pad>"]
        (path / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    return path


KINDS = {  # its language, and what stands around a text
    "T5Tokenizer": (None, [], ["</s>"]),
    "MarianTokenizer": (None, [], ["</s>"]),
    "MBartTokenizer": ("es_XX", [], ["</s>", "es_XX"]),
    "MBart50Tokenizer": ("es_XX", ["es_XX"], ["</s>"]),
    "M2M100Tokenizer": ("es", ["__es__"], ["</s>"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentencepiece_model_is_enough(tmp_path, kind):
    language, before, after = KINDS[kind]
    tokenizer = open_tokenizer(str(folder(tmp_path / "given", kind)), tmp_path / "kept", [TEXT], language=language)
    labels = encode_labels(tokenizer, [TEXT, "xñ agua"], 16)
    ids = labels[0][labels[0] != IGNORE].tolist()
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == [*before, "▁mi", "▁casa", "▁es", "▁agua", *after]
    assert decode(tokenizer, labels) == [TEXT, "xñ agua"]
    assert max(ids) < vocabulary_size(tokenizer)
    assert tokenizer.pad_token_id < vocabulary_size(tokenizer)
    kept = load_tokenizer(tmp_path / "kept")  # as evaluation reads it, and a resumed run
    np.testing.assert_array_equal(encode_labels(kept, [TEXT, "xñ agua"], 16), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_model_does_not_know_is_unknown_and_no_end(tmp_path, kind):
    """transformers takes the unknown token of T5 to be number 2, which is the end in most other models."""
    tokenizer = load_tokenizer(folder(tmp_path, kind))
    ids = tokenizer("casa \ue000 casa", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id in ids
    assert tokenizer.eos_token_id not in ids


def test_a_model_of_another_kind_is_not_read_wrongly(tmp_path):
    folder(tmp_path, "T5Tokenizer")
    sentencepiece(tmp_path / "spiece.model", kind=2)
    with pytest.raises(UserError, match=r"spiece\.model is a BPE model, which T5Tokenizer would read as Unigram"):
        load_tokenizer(tmp_path)


def test_a_bare_model_is_t5s_or_says_what_is_missing(tmp_path):
    sentencepiece(tmp_path / "spiece.model")
    tokenizer = load_tokenizer(tmp_path)
    assert decode(tokenizer, encode_labels(tokenizer, [TEXT], 16)) == [TEXT]
    (tmp_path / "spiece.model").rename(tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(UserError, match=r"which tokenizer sentencepiece\.bpe\.model belongs to; put .*MBartTokenizer"):
        load_tokenizer(tmp_path)


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    folder(tmp_path, "MBartTokenizer")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r"reads: pip install 'sentencepiece>=0\.2,<0\.2\.3'$"):
        load_tokenizer(tmp_path)


# --- languages ----------------------------------------------------------------------------------------------------


def of_no_class(path: Path) -> PreTrainedTokenizerFast:
    """mBART's tokenizer as tools save it that know no class of it, with English in its post-processor."""
    tokenizer = load_tokenizer(folder(path, "MBartTokenizer"))
    languages = [str(token) for token in tokenizer.all_special_tokens if "_" in str(token)]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer._tokenizer.to_str()),
        pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=languages,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["MBartTokenizer", "MBart50Tokenizer", "M2M100Tokenizer", "none"])
def test_a_language_is_chosen_and_never_english_by_default(tmp_path, kind):
    tokenizer = of_no_class(tmp_path) if kind == "none" else load_tokenizer(folder(tmp_path, kind))
    with pytest.raises(UserError, match=r"--target-lang is not given, and the tokenizer mine .* one of .*es.*, f"):
        set_target_language(tokenizer, None, "mine")
    with pytest.raises(UserError, match=r"--target-lang 'xx_YY': the tokenizer mine has no such language"):
        set_target_language(tokenizer, "xx_YY", "mine")
    set_target_language(tokenizer, "es" if kind == "M2M100Tokenizer" else "es_XX", "mine")
    (labels,) = encode_labels(tokenizer, [TEXT], 16)
    tokens = tokenizer.convert_ids_to_tokens(labels[labels != IGNORE].tolist())
    assert any(token.strip("_") in ("es", "es_XX") for token in tokens)
    assert not any("en" in token for token in tokens)
    assert decode(tokenizer, labels[None]) == [TEXT]


def test_a_language_that_no_text_can_carry_is_refused(tmp_path):
    tokenizer = load_tokenizer(folder(tmp_path / "t5", "T5Tokenizer"))
    with pytest.raises(UserError, match="--target-lang es_XX: the tokenizer mine puts no language into texts"):
        set_target_language(tokenizer, "es_XX", "mine")
    with pytest.raises(UserError, match="--target-lang es_XX: the tokenizer that training makes"):
        open_tokenizer(None, tmp_path, [TEXT], language="es_XX")


SMALL = {"temporal_nhead": 2, "decoder_heads": 2, "decoder_layers": 1, "d_model": 8, "projector_dim": 8}
VIT = {"embed_dim": 8, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 56}


def begins(tokenizer, model_type: str, **kwargs) -> tuple[int, int | None]:
    """The first token and the forced second one that a new run generates with."""
    model = ModelConfig(**SMALL, backbone=VIT, image_size=56, decoder_kwargs={"model_type": model_type, **kwargs})
    config = with_tokenizer(Config(model=model), tokenizer)
    config = with_starts(config, plan_model(config.model), tokenizer)
    search = Search().resolved(plan_model(config.model).decoder)
    return search.start, search.forced_bos


@pytest.mark.parametrize(
    ("kind", "model_type", "start", "forced"),
    [
        # mBART's decoder is shown the last label first: the language itself, or the end and then the language.
        ("MBartTokenizer", "mbart", "es_XX", None),
        ("MBart50Tokenizer", "mbart", "</s>", "es_XX"),
        ("T5Tokenizer", "mbart", "</s>", None),
        ("MBart50Tokenizer", "t5", "<pad>", "es_XX"),
        ("M2M100Tokenizer", "bart", "<pad>", "__es__"),
        ("T5Tokenizer", "t5", "<pad>", None),
    ],
)
def test_generation_begins_as_targets_do(tmp_path, kind, model_type, start, forced):
    tokenizer = load_tokenizer(folder(tmp_path, kind))
    set_target_language(tokenizer, KINDS[kind][0], "mine")
    ids = begins(tokenizer, model_type)
    assert [id if id is None else tokenizer.convert_ids_to_tokens(id) for id in ids] == [start, forced]
    assert begins(tokenizer, model_type, decoder_start_token_id=7, forced_bos_token_id=8) == (7, 8)


# --- ends, cuts and unknown tokens --------------------------------------------------------------------------------


def without_end(**options) -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2's: bytes, an end token, and nothing that puts it after texts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: n for n, token in enumerate(["<end>", *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", **options)


@pytest.mark.parametrize("longest", [40, 6, 1])
def test_an_end_that_the_tokenizer_leaves_out_is_put_there(longest):
    tokenizer = without_end(pad_token="<pad>")  # beyond its vocabulary of 257
    targets = encode_targets(tokenizer, ["agua", "mi casa, mi casa"], longest)
    counts = (targets.labels != IGNORE).sum(axis=1)
    assert counts.tolist() == [min(5, longest), min(17, longest)]
    assert targets.labels[[0, 1], counts - 1].tolist() == [tokenizer.eos_token_id] * 2
    assert targets.lengths.tolist() == [5, 17]
    assert (tokenizer.vocab_size, tokenizer.pad_token_id, vocabulary_size(tokenizer)) == (257, 257, 258)


def test_a_beginning_alone_is_no_end():
    tokenizer = without_end(pad_token="<pad>", bos_token="<s>")
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    labels = encode_labels(tokenizer, ["agua"], 16)[0]
    assert [labels[0], labels[5]] == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def test_it_is_told_who_puts_the_end_there(tmp_path, caplog):
    without_end(pad_token="<pad>").save_pretrained(tmp_path / "given")
    open_tokenizer(tmp_path / "given", tmp_path / "kept", [TEXT])
    assert [r.getMessage().partition(": ")[2] for r in caplog.records] == [
        "puts no end after texts; targets get its <end>"
    ]


def test_what_targets_lose_is_counted(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    tokenizer = load_tokenizer(folder(tmp_path, "T5Tokenizer"))
    texts = ["mi casa", "mi casa es agua", "漢 casa"]
    tell_targets(encode_targets(tokenizer, texts, 4), tokenizer, "training", 4)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 3 training texts are longer than --max-target-length 4 and are cut: the longest has 5 tokens, raise it",
        "1 of the 11 tokens of the training texts stand for what the tokenizer does not know; another --tokenizer may",
    ]
    caplog.clear()
    tell_targets(encode_targets(tokenizer, texts[:2], 5), tokenizer, "validation", 5)
    assert not caplog.records


def test_our_own_tokenizer_is_as_it_was(tmp_path):
    tokenizer = train_tokenizer([TEXT], tmp_path, 300)
    assert vocabulary_size(tokenizer) == tokenizer.vocab_size
    assert (
        encode_labels(tokenizer, [TEXT], 128)[0].tolist()[: len(tokenizer(TEXT)["input_ids"])]
        == (tokenizer(TEXT)["input_ids"])
    )
    assert encode_labels(tokenizer, [], 128).shape == (0, 8)
