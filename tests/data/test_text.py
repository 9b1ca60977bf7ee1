"""Spanish goes to ids and comes back as it was; tokenizers that cannot serve are refused by name."""

import sys

import numpy as np
import pytest

from slt_jax.data.metadata import read_metadata
from slt_jax.data.text import IGNORE, decode, encode_labels, load_tokenizer, train_tokenizer
from slt_jax.errors import UserError

TEXTS = [
    "¿qué está mal?",
    "¡hola! mi nombre es luciana. hoy vamos a hablar de agua.",
    "El pingüino Ñandú corrió 1,5 km; ¿no?",
    'dijo "sí", y se fue...',
    "mi nombre es lucía , y el tuyo ?",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("work") / "tokenizer"
    train_tokenizer(TEXTS * 3, directory, 400)
    return load_tokenizer(directory)


def test_numbering_and_files(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.vocab_size == len(tokenizer) <= 400


@pytest.mark.parametrize("text", [*TEXTS, "nunca vistas: šøЖ漢🙂", "a  b", "'s no"])
def test_round_trip(tokenizer, text):
    labels = encode_labels(tokenizer, [text], 128)
    ids = labels[labels != IGNORE]
    assert ids[-1] == 1
    assert 2 not in ids
    assert decode(tokenizer, labels) == [text]


def test_labels_are_padded_to_a_multiple_of_eight(tokenizer):
    labels = encode_labels(tokenizer, ["mi", TEXTS[1]], 128)
    lengths = (labels != IGNORE).sum(1)
    assert labels.dtype == np.int32
    assert labels.shape == (2, -(-lengths.max() // 8) * 8)
    assert (labels[np.arange(labels.shape[1]) >= lengths[:, None]] == IGNORE).all()
    assert decode(tokenizer, labels) == ["mi", TEXTS[1]]


def test_long_texts_keep_their_end(tokenizer):
    labels = encode_labels(tokenizer, [TEXTS[1] * 10, "mi"], 13)
    assert labels.shape == (2, 13)
    assert labels[0, -1] == 1
    whole = encode_labels(tokenizer, [TEXTS[1] * 10], 1000)
    np.testing.assert_array_equal(labels[0, :-1], whole[0, :12])


def test_training_is_deterministic_and_leaves_no_temporary_files(tmp_path):
    files = []
    for name in ("a", "b"):
        train_tokenizer(TEXTS, tmp_path / name / "tokenizer", 350)
        directory = tmp_path / name / "tokenizer"
        files.append({file.name: file.read_bytes() for file in directory.iterdir()})
        assert [entry.name for entry in directory.parent.iterdir()] == ["tokenizer"]
    assert files[0] == files[1]
    assert "tokenizer.json" in files[0]
    assert b'"PreTrainedTokenizerFast"' in files[0]["tokenizer_config.json"]


def test_saving_over_an_existing_directory(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    train_tokenizer(TEXTS, tmp_path, 270)
    train_tokenizer(TEXTS * 3, tmp_path, 290)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert load_tokenizer(tmp_path).vocab_size == 290


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerFast

    def fail(self, directory, **_):
        raise OSError("disk full")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        train_tokenizer(TEXTS, tmp_path / "tokenizer", 300)
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_vocabulary(tmp_path):
    with pytest.raises(UserError, match="vocab_size 100 is too small"):
        train_tokenizer(TEXTS, tmp_path, 100)


def test_absent_and_broken_tokenizers_are_named(tmp_path):
    with pytest.raises(UserError, match=r"--tokenizer .*absent: no such directory"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"--tokenizer .*: cannot be loaded") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_pad_token(tmp_path):
    train_tokenizer(TEXTS, tmp_path, 300)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no pad token"):
        load_tokenizer(tmp_path)


def test_ids_beyond_the_vocabulary(tmp_path):
    train_tokenizer(TEXTS, tmp_path, 270)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_tokens(["luciana"])
    with pytest.raises(UserError, match=r"added tokens occur in the texts .id 270 in a vocabulary of 270"):
        encode_labels(tokenizer, TEXTS, 64)


def test_no_texts(tokenizer):
    assert encode_labels(tokenizer, [], 64).shape == (0, 8)
    assert decode(tokenizer, np.zeros((0, 4), np.int32)) == []


def test_the_real_corpus_round_trips(real_clips, tmp_path):
    texts = [clip.text for clip in read_metadata(real_clips.parent / "lsa_t" / "meta.csv").values()]
    tokenizer = train_tokenizer(texts, tmp_path / "tokenizer")
    assert tokenizer.vocab_size == 8000
    labels = encode_labels(tokenizer, texts, 128)
    whole = (labels != IGNORE).sum(1) < 128
    assert decode(tokenizer, labels[whole]) == [text for text, kept in zip(texts, whole, strict=True) if kept]
    assert whole.mean() > 0.99


def test_importing_the_module_is_light():
    import subprocess

    code = "import sys, slt_jax.data.text; print('transformers' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "False False\n"
    )
