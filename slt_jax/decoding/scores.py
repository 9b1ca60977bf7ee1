"""Score translations: BLEU-4 and chrF by sacrebleu, character and word error rates, ROUGE-L. All in percent."""

from collections.abc import Mapping, Sequence

from rapidfuzz.distance import LCSseq, Levenshtein
from sacrebleu.metrics import BLEU, CHRF

# As for published scores: one reference, 13a tokens, exponential smoothing, case kept.
_BLEU, _CHRF = BLEU(), CHRF()


def corpus_scores(references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """`bleu`, `chrf`, `cer`, `wer` and `rouge_l` of a whole corpus, in percent.

    BLEU-4 (Papineni et al. 2002) and chrF2 (Popovic 2015) are sacrebleu's. Error rates are the edits of the whole
    corpus divided by the references' characters or words. ROUGE-L (Lin 2004) is the mean F1 of the clips.
    """
    pairs = list(zip(references, predictions, strict=True))
    if not pairs:
        raise ValueError("no translations to score")
    return {
        "bleu": _BLEU.corpus_score(predictions, [references]).score,
        "chrf": _CHRF.corpus_score(predictions, [references]).score,
        "cer": _error_rate(pairs),
        "wer": _error_rate([(reference.split(), prediction.split()) for reference, prediction in pairs]),
        "rouge_l": sum(rouge_l(*pair) for pair in pairs) / len(pairs),
    }


def signatures() -> Mapping[str, str]:
    """sacrebleu's signatures, which say how BLEU and chrF were computed. Call it after `corpus_scores`."""
    return {"bleu": str(_BLEU.get_signature()), "chrf": str(_CHRF.get_signature())}


def clip_chrf(reference: str, prediction: str) -> float:
    """chrF of one translation, in percent."""
    return CHRF().sentence_score(prediction, [reference]).score


def rouge_l(reference: str, prediction: str) -> float:
    """F1 of the longest common subsequence of words, in percent, with case kept."""
    wanted, given = reference.split(), prediction.split()
    if not wanted or not given:
        return 100.0 * (wanted == given)
    common = LCSseq.similarity(wanted, given)
    return 200.0 * common / (len(wanted) + len(given))


def _error_rate(pairs: Sequence[tuple[Sequence, Sequence]]) -> float:
    """Edits that turn predictions into references, divided by the references' length, in percent."""
    edits = sum(Levenshtein.distance(reference, prediction) for reference, prediction in pairs)
    return 100.0 * edits / max(sum(len(reference) for reference, _ in pairs), 1)
