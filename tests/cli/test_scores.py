"""Real translations scored during training, and what the scores decide."""

import pytest
import sacrebleu

from convert import read_pt
from slt_jax.cli.train import main
from slt_jax.decoding.scores import corpus_scores
from slt_jax.training import validation
from slt_jax.training.position import Position
from tests.cli.conftest import metrics


@pytest.fixture
def scores(monkeypatch) -> list[float]:
    """chrF as the test wants it, evaluation by evaluation; the pairs that were scored are counted in `scores.pairs`."""

    class Wanted(list):
        pairs = ()

    wanted = Wanted()

    def corpus_scores(references, predictions, scoring):
        wanted.pairs += (len(references),)
        return {"bleu": 0.5, "chrf": wanted.pop(0), "cer": 100.0}

    monkeypatch.setattr(validation, "corpus_scores", corpus_scores)
    return wanted


def test_scores_come_every_so_often_and_choose_the_best(corpus, tmp_path, scores, capsys):
    scores += [99.0, 30.0, 20.0]  # the first epoch tells only the CER of its few translations
    run, resumed = tmp_path / "run", tmp_path / "resumed"
    chosen = ["--eval-bleu-every", "2", "--best-metric", "chrf", "--tensorboard", str(tmp_path / "events")]
    assert main(corpus.flags(run, *chosen, "--eval-bleu-clips", "2", epochs="3")) == 0
    records = metrics(run)
    assert [record.get("val_chrf") for record in records] == [None, 30.0, 20.0]  # the last epoch is always scored
    assert [record.get("val_bleu") for record in records] == [None, 0.5, 0.5]
    assert scores.pairs == (3, 2, 2)
    assert [record["val_translation_cer"] for record in records] == [1.0, 1.0, 1.0]
    assert read_pt(run / "best.pt")["epoch"] == 2
    assert records[2]["val_loss"] < records[1]["val_loss"]  # by its loss the last would be
    assert "BLEU 0.5, chrF 30.0" in capsys.readouterr().out

    scores += [25.0, 35.0]
    again = corpus.flags(resumed, *chosen, "--resume", str(run / "last.pt"), epochs="5")
    assert main(again) == 0
    assert [record["val_chrf"] for record in metrics(resumed) if "val_chrf" in record] == [25.0, 35.0]
    assert scores.pairs[3:] == (3, 3)  # the whole split: it has no more
    assert read_pt(resumed / "best.pt")["epoch"] == 5  # 25 is no best: the 30 of before is remembered


def test_a_run_without_progress_ends_early(corpus, tmp_path, capsys):
    arguments = corpus.flags(tmp_path / "run", "--early-stop-patience", "2", lr="0", epochs="9", weight_decay="0")
    assert main(arguments) == 0
    assert len(metrics(tmp_path / "run")) == 3
    assert "stopping early: no better loss in 2 evaluations" in capsys.readouterr().out
    assert main([*arguments, "--resume"]) == 0  # it stays so
    assert len(metrics(tmp_path / "run")) == 3


def test_a_metric_needs_its_evaluations(corpus, tmp_path, capsys):
    assert main(corpus.flags(tmp_path / "run", "--best-metric", "bleu")) == 2
    assert "--best-metric bleu needs translations to score: give --eval-bleu-every 1" in capsys.readouterr().err
    assert main(corpus.flags(tmp_path / "run", "--early-stop-patience", "0")) == 2
    assert "training.early_stop_patience must be at least 1" in capsys.readouterr().err


def test_only_evaluations_of_the_metric_count():
    position = Position()
    for chrf, best, since in ((10.0, True, 0), (None, False, 0), (9.0, False, 1), (11.0, True, 0)):
        scores = {} if chrf is None else {"bleu": 1.0, "chrf": chrf}
        position = position.after_epoch(1.0, scores, "chrf", {})
        assert (position.is_best, position.since_best) == (best, since)
    assert position.best_scores == {"bleu": 1.0, "chrf": 11.0}


def test_scores_are_sacrebleus():
    """And the error rates are those found by hand."""
    references = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    predictions = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    found = corpus_scores(references, predictions)
    assert found["bleu"] == sacrebleu.corpus_bleu(predictions, [references]).score
    assert found["chrf"] == sacrebleu.corpus_chrf(predictions, [references]).score
    assert corpus_scores(references, references) == pytest.approx(
        {"bleu": 100.0, "chrf": 100.0, "cer": 0.0, "wer": 0.0, "rouge_l": 100.0}
    )
    assert corpus_scores(["a b c d"], ["a x c"])["wer"] == 50.0
    assert corpus_scores(["abcd"], ["abxd"])["cer"] == 25.0
    assert corpus_scores(["a b c d"], ["a c"])["rouge_l"] == pytest.approx(200 * 2 / 6)
    assert corpus_scores(["a"], [""])["cer"] == 100.0
