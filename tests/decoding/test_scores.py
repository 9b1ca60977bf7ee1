"""Scores are those of sacrebleu with the tokeniser that suits the texts, whatever way their accents are written."""

import unicodedata

import pytest
import sacrebleu

from slt_jax.data.metadata import read_metadata
from slt_jax.decoding.scores import Scoring, choose_scoring, clip_chrf, corpus_scores, signatures
from slt_jax.errors import UserError
from slt_jax.training.metrics import character_errors

ZH = ["你今天想吃什么饭菜", "我的妹妹很喜欢跳舞", "他明天要去北京开会", "这本书是我昨天买的"]


@pytest.mark.parametrize(
    ("texts", "tokens", "spaces"),
    [
        (ZH, "zh", False),
        ([" ".join(text) for text in ZH], "13a", True),  # somebody put spaces there, and means them
        (["我 的 妹妹 很 喜欢 跳舞", "他 明天 要 去 北京 开会"], "13a", True),
        (["私は学校に行きました", "猫がとても好きです"], "char", False),  # ja-mecab, where it is installed
        (["ฉันไปโรงเรียนทุกวัน", "แมวกินปลาทูน่า"], "char", False),
        (["나는 오늘 학교에 갔다"], "13a", True),  # Korean has spaces
        (["mañana iré al médico", ""], "13a", True),
        (["I love 北京 and its food"], "13a", True),
        ([""], "13a", True),
    ],
)
def test_a_tokeniser_is_chosen_by_the_texts(texts, tokens, spaces):
    chosen = choose_scoring(texts)
    assert chosen.spaces is spaces
    assert chosen.bleu_tokens == tokens or (tokens == "char" and chosen.bleu_tokens == "ja-mecab")
    assert bool(chosen.note()) is (tokens != "13a")


@pytest.mark.parametrize("tokens", ["13a", "intl", "zh", "char", "none"])
def test_the_tokeniser_that_is_asked_for_is_sacrebleus(tokens):
    predictions = [text[:-1] + "人" for text in ZH]
    wanted = sacrebleu.corpus_bleu(predictions, [ZH], tokenize=tokens).score
    scoring = choose_scoring(ZH, tokens)
    assert corpus_scores(ZH, predictions, scoring)["bleu"] == pytest.approx(wanted, abs=1e-9)
    assert f"|tok:{tokens}|" in scoring.signatures()["bleu"] == signatures()["bleu"]


def test_a_tokeniser_that_is_not_there_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="--bleu-tokenize 14a: sacrebleu has no such tokeniser; use one of none, zh"):
        choose_scoring(ZH, "14a")

    def broken(*, tokenize):
        raise RuntimeError("\nKorean tokenization requires extra dependencies\n\n  pip install sacrebleu[ko]")

    broken.TOKENIZERS = ("ko-mecab", "flores200")
    monkeypatch.setattr("slt_jax.decoding.scores.BLEU", broken)
    for name, advice in (("ko-mecab", r"pip install 'sacrebleu\[ko\]'"), ("flores200", "it cannot get its model")):
        with pytest.raises(UserError, match=f"--bleu-tokenize {name}: cannot be used here: {advice}") as error:
            choose_scoring(ZH, name)
        assert "\n" not in str(error.value)


def test_an_accent_is_the_same_however_it_is_written(tmp_path):
    text = "mañana iré al médico con mi niño pequeño"
    apart = unicodedata.normalize("NFD", text)
    for pair in ((text, apart), (apart, text)):
        assert corpus_scores(*([one] for one in pair)) == pytest.approx(
            {"bleu": 100, "chrf": 100, "cer": 0, "wer": 0, "rouge_l": 100}
        )
        assert clip_chrf(*pair) == 100
        assert character_errors([pair[0]], [pair[1]], [3]) == 0


def test_texts_are_read_composed_and_it_is_told(tmp_path, capsys):
    apart = unicodedata.normalize("NFD", "mañana")
    (tmp_path / "meta.csv").write_text(f"id;text\na;{apart}\nb;niño\n", encoding="utf-8")
    assert [clip.text for clip in read_metadata(tmp_path / "meta.csv").values()] == ["mañana", "niño"]
    assert "1 row with accents as characters of their own, read as NFC (line 2)" in capsys.readouterr().out


def test_words_are_characters_where_no_spaces_stand():
    scores = corpus_scores(["我很喜欢跳舞"], ["我不喜欢唱歌"], Scoring("zh", spaces=False))
    assert scores["wer"] == pytest.approx(50)
    assert scores["rouge_l"] == pytest.approx(50)
