"""Score translations: BLEU-4 and chrF by sacrebleu, character and word error rates, ROUGE-L. All in percent.

Texts are compared as they are but for NFC: an accent is the same whether it is written as one character or as two.
"""

import functools
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import LCSseq, Levenshtein
from sacrebleu.metrics import BLEU, CHRF

from slt_jax.errors import UserError

FLAG = "--bleu-tokenize"
AUTO, USUAL = "auto", "13a"
# What sacrebleu needs for some of its tokenisers.
NEEDS = {"ja-mecab": "pip install 'sacrebleu[ja]'", "ko-mecab": "pip install 'sacrebleu[ko]'"}
# Scripts that put no spaces between words, and letters in a row that only such texts have.
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA = re.compile("[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
THAI_TO_KHMER = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]")  # Thai, Lao, Tibetan, Burmese, Khmer
LETTERS_IN_A_ROW = {"zh": 2.5, "ja-mecab": 6.0, "char": 8.0}


@dataclass(frozen=True)
class Scoring:
    """How a corpus is scored: sacrebleu's tokeniser for BLEU, and whether spaces stand between words."""

    bleu_tokens: str = USUAL
    spaces: bool = True

    def words(self, text: str) -> list[str]:
        """What word errors and ROUGE-L count: words, or the characters of a text that puts no spaces between them."""
        return text.split() if self.spaces else list("".join(text.split()))

    def signatures(self) -> dict[str, str]:
        """sacrebleu's signatures, which say how BLEU and chrF are computed, and what else the scores depend on."""
        metrics: dict[str, BLEU | CHRF] = {
            "bleu": _bleu(self.bleu_tokens), "chrf": CHRF(), "chrf_pp": CHRF(word_order=2)
        }  # fmt: skip
        for metric in metrics.values():
            metric.corpus_score(["a"], [["a"]])  # it knows the number of references from then on
        words = "whitespace" if self.spaces else "characters"
        told = {name: str(metric.get_signature()) for name, metric in metrics.items()}
        return told | {"words": words, "texts": "NFC"}

    def note(self) -> str:
        """A line for people where scores are not the usual ones; else empty."""
        words = "" if self.spaces else "WER and ROUGE-L count characters, as the texts put no spaces between words"
        bleu = "" if self.bleu_tokens == USUAL else f"BLEU counts tokens of {self.bleu_tokens} ({FLAG})"
        return "; ".join(filter(None, (bleu, words)))


def choose_scoring(references: Iterable[str], asked: str = AUTO) -> Scoring:
    """How to score translations of `references`: with the tokeniser `asked`, or with one that suits their script.

    Raises UserError for a tokeniser that sacrebleu does not have or that cannot be used here.
    """
    texts = list(map(nfc, references))
    script = _without_spaces(texts)
    if asked == AUTO:
        asked = script or ("ko-mecab" if _korean(texts) else USUAL)
        if asked in NEEDS:
            try:
                _bleu(asked)
            except UserError:
                asked = "char" if script else USUAL
    _bleu(asked)
    return Scoring(asked, spaces=script is None)


def corpus_scores(
    references: Sequence[str], predictions: Sequence[str], scoring: Scoring | None = None
) -> dict[str, float]:
    """`bleu`, `chrf`, `cer`, `wer` and `rouge_l` of a whole corpus, in percent.

    BLEU-4 (Papineni et al. 2002) and chrF2 (Popovic 2015) are sacrebleu's. Error rates are the edits of the whole
    corpus divided by the references' characters or words. ROUGE-L (Lin 2004) is the mean F1 of the clips. Without
    `scoring`, it is chosen by these references.
    """
    references, predictions = list(map(nfc, references)), list(map(nfc, predictions))
    pairs = list(zip(references, predictions, strict=True))
    if not pairs:
        raise ValueError("no translations to score")
    scoring = scoring or choose_scoring(references)
    _last.append(scoring)
    words = [(scoring.words(reference), scoring.words(prediction)) for reference, prediction in pairs]
    return {
        "bleu": _bleu(scoring.bleu_tokens).corpus_score(predictions, [references]).score,
        "chrf": CHRF().corpus_score(predictions, [references]).score,
        "cer": _error_rate(pairs),
        "wer": _error_rate(words),
        "rouge_l": sum(_common(*pair) for pair in words) / len(words),
    }


def chrf_plus_plus(references: Sequence[str], predictions: Sequence[str]) -> float:
    """sacrebleu's chrF2++ (Popovic 2017) of a whole corpus, in percent: chrF with words and pairs of words."""
    metric = CHRF(word_order=2)
    return metric.corpus_score(list(map(nfc, predictions)), [list(map(nfc, references))]).score


def signatures() -> Mapping[str, str]:
    """`Scoring.signatures` of the last `corpus_scores`."""
    return _last[0].signatures()


def clip_chrf(reference: str, prediction: str) -> float:
    """chrF of one translation, in percent."""
    return CHRF().sentence_score(nfc(prediction), [nfc(reference)]).score


def rouge_l(reference: str, prediction: str) -> float:
    """F1 of the longest common subsequence of words, in percent, with case kept."""
    return _common(nfc(reference).split(), nfc(prediction).split())


def nfc(text: str) -> str:
    """The text with every accent and its letter as one character, where there is such a character."""
    return unicodedata.normalize("NFC", text)


_last: deque[Scoring] = deque([Scoring()], maxlen=1)


@functools.cache
def _bleu(tokens: str) -> BLEU:
    """As for published scores: one reference, exponential smoothing, case kept."""
    if tokens not in BLEU.TOKENIZERS:
        raise UserError(f"{FLAG} {tokens}: sacrebleu has no such tokeniser; use one of {', '.join(BLEU.TOKENIZERS)}")
    try:
        return BLEU(tokenize=tokens)
    except Exception as error:  # whatever the packages behind it raise; some download a model
        reason = NEEDS.get(tokens) or f"it cannot get its model ({getattr(error, 'reason', None) or error})"
        raise UserError(f"{FLAG} {tokens}: cannot be used here: {' '.join(str(reason).split())}") from None


def _korean(texts: Sequence[str]) -> bool:
    """Whether most letters are Hangul: spaces stand between phrases there, which mecab divides into words."""
    letters = [character for text in texts for character in text if character.isalpha()]
    return 2 * sum(bool(HANGUL.match(letter)) for letter in letters) > len(letters)


def _without_spaces(texts: Sequence[str]) -> str | None:
    """The tokeniser for texts in a script without spaces between words; None where there are spaces."""
    whole = "".join(texts)
    counts = {
        "zh": len(HAN.findall(whole)), "ja-mecab": len(KANA.findall(whole)), "char": len(THAI_TO_KHMER.findall(whole)),
    }  # fmt: skip
    letters = sum(counts.values())
    others = sum(character.isalpha() for character in whole) - letters
    if not letters or letters < others:
        return None
    script = "ja-mecab" if counts["ja-mecab"] > letters / 20 else max(counts, key=counts.__getitem__)
    words = sum(len(text.split()) for text in texts)
    return script if letters / words > LETTERS_IN_A_ROW[script] else None


def _common(wanted: Sequence[str], given: Sequence[str]) -> float:
    if not wanted or not given:
        return 100.0 * (wanted == given)
    return 200.0 * LCSseq.similarity(wanted, given) / (len(wanted) + len(given))


def _error_rate(pairs: Sequence[tuple[Sequence, Sequence]]) -> float:
    """Edits that turn predictions into references, divided by the references' length, in percent."""
    edits = sum(Levenshtein.distance(reference, prediction) for reference, prediction in pairs)
    return 100.0 * edits / max(sum(len(reference) for reference, _ in pairs), 1)
