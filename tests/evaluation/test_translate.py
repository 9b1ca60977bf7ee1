"""The parts of an evaluation by themselves: batches to texts and times, buckets, labels, scores."""

import csv
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slt_jax.data.loader import Batch
from slt_jax.decoding import translate as module
from slt_jax.decoding.results import Prediction
from slt_jax.decoding.scores import clip_chrf, corpus_scores, rouge_l, signatures
from slt_jax.decoding.search import Search
from slt_jax.decoding.translate import BatchDecoder, translate
from slt_jax.evaluation.checkpoints import labels
from slt_jax.evaluation.clip_selection import batch_rows, length_buckets
from slt_jax.evaluation.report import write_predictions
from slt_jax.runtime.sharding import device_mesh

# --- translations and their times ---------------------------------------------------------------------------------


class Echo(nnx.Module):
    """A decoder that says the numbers it is shown."""

    def generate(self, encoded, encoder_mask, **options):
        assert options == {"max_length": 7, "min_length": 2, "num_beams": 1, "early_stopping": False}
        return encoded[:, :, 0].astype(int)


class Words:
    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


class Loaded:
    """Batches of two rows and of three frames, then of five; the second has one clip only."""

    def __init__(self):
        self.opened = 0

    def epoch(self):
        for number, (frames, valid) in enumerate([(3, [True, True]), (3, [False, True]), (5, [True, True])]):
            self.opened += 1
            arrays = {"face": np.zeros((2, frames, 1, 1, 3), np.uint8), "valid": np.array(valid)}
            arrays["ids"] = np.array([[10 * number], [10 * number + 1]])
            yield Batch(arrays, [f"{number}a", f"{number}b"], ["0", "1"])


@pytest.fixture
def batches(monkeypatch) -> BatchDecoder:
    """Every run of a batch takes 2 s by its clock, the first of a shape 30 s."""
    shapes, now = [], [0.0]

    def encode(batch):
        now[0] += 2 if batch["face"].shape in shapes else 30
        shapes.append(batch["face"].shape)
        return batch["ids"][:, :, None].astype(float), jnp.ones((2, 1), bool)

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return BatchDecoder(encode, Echo(), device_mesh(), Search(max_length=7))


def test_every_clip_once_and_no_filling(batches):
    found = translate(Loaded(), batches, Words())
    assert [(p.video_id, p.prediction, p.reference) for p in found] == [
        ("0a", "0", "0"), ("0b", "1", "1"), ("1b", "11", "1"), ("2a", "20", "0"), ("2b", "21", "1"),
    ]  # fmt: skip
    assert found[0].chrf == 100
    assert found[3].chrf == clip_chrf("0", "20")


def test_compilation_is_in_no_clips_time(batches):
    batches.warm_up = True
    times = [p.latency_ms for p in translate(Loaded(), batches, Words())]
    assert times == [1000, 1000, 2000, 1000, 1000]  # two seconds over the clips of a batch
    assert batches.compile_seconds == 2 * 28


@pytest.mark.parametrize(("limit", "opened"), [(1, 1), (2, 1), (3, 2), (None, 3)])
def test_a_limit_opens_no_more_batches_than_it_takes(batches, limit, opened):
    loader = Loaded()
    assert len(translate(loader, batches, Words(), limit=limit)) == (limit or 5)
    assert loader.opened == opened


def test_stopping(batches):
    assert len(translate(Loaded(), batches, Words(), stopped=lambda: True)) == 2


def test_several_beams_stop_early():
    assert Search(9, num_beams=4).options() == {
        "max_length": 9, "min_length": 2, "num_beams": 4, "early_stopping": True,
    }  # fmt: skip


# --- buckets ------------------------------------------------------------------------------------------------------


def test_a_clip_is_shown_in_the_shortest_length_that_holds_it():
    frames = dict(zip("abcdefg", [1, 32, 33, 64, 65, 128, 500], strict=True))
    assert length_buckets(frames, 128, 2) == {32: ["a", "b"], 64: ["c", "d"], 128: ["e", "f", "g"]}


def test_lengths_are_rounded_up():
    assert list(length_buckets({"a": 2, "b": 3, "c": 6}, 6, 1)) == [2, 3, 6]
    assert list(length_buckets({"a": 1, "b": 9}, 1, 1)) == [1]


def test_few_clips_go_with_longer_ones():
    assert length_buckets({"a": 1, "b": 33, "c": 34, "d": 100}, 128, 2) == {64: ["b", "c", "a"], 128: ["d"]}
    assert length_buckets({"a": 1, "b": 33}, 128, 4) == {128: ["b", "a"]}


@pytest.mark.parametrize(
    ("clips", "batch_size", "devices", "rows"),
    [(11, 4, 1, 4), (9, 4, 1, 3), (8, 4, 1, 4), (1, 4, 1, 1), (3, 16, 8, 8), (17, 16, 8, 16), (18, 8, 2, 6)],
)
def test_rows_of_a_batch(clips, batch_size, devices, rows):
    assert batch_rows(clips, batch_size, devices) == rows


# --- reports ------------------------------------------------------------------------------------------------------


def test_any_text_comes_back_from_the_predictions(tmp_path):
    texts = ['¿vos, "Ñandú"?', "a;b\tc", "two\nlines", "a lone \r return", "", " <b>&amp;"]
    predictions = [Prediction(str(n), text, text[::-1], 1.25, 0.0) for n, text in enumerate(texts)]
    write_predictions(tmp_path / "p.csv", predictions)
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reference"] for row in rows] == texts
    assert [row["prediction"] for row in rows] == [text[::-1] for text in texts]
    assert {row["latency_ms"] for row in rows} == {"1.25"}


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/runs/one/best.pt"], ["best"]),
        (["/runs/one/best.pt", "/runs/two/best.pt", "/runs/two/last.pt"], ["one_best", "two_best", "last"]),
        (["/a/run/best.pt", "/b/run/best.pt"], ["a_run_best", "b_run_best"]),
        (["/run/Best.pt", "/other/best.pt"], ["run_Best", "other_best"]),  # file names may not tell case
        (["/a/run.pt", "/a/run"], ["a_run_1", "a_run_2"]),
        (["/epoch.1.pt", "/epoch.2.pth"], ["epoch.1", "epoch.2"]),
        (["/runs/b", "/runs/a/../v1.2"], ["b", "v1.2"]),
    ],
)
def test_labels(paths, names):
    assert labels([Path(path) for path in paths]) == names


# --- scores -------------------------------------------------------------------------------------------------------


def test_scores():
    """Worked out by hand: one word of three wrong, then a text missing altogether."""
    scores = corpus_scores(["la madre compra", "no"], ["la madre vende", ""])
    assert scores["wer"] == pytest.approx(100 * 2 / 4)
    assert scores["cer"] == pytest.approx(100 * (6 + 2) / (15 + 2))  # compra, vende: no letter stays
    assert scores["rouge_l"] == pytest.approx((100 * 2 / 3 + 0) / 2)
    assert signatures()["chrf"].startswith("nrefs:1|case:mixed|")
    perfect = corpus_scores(["el padre no quiere carne"] * 2, ["el padre no quiere carne"] * 2)
    assert perfect == pytest.approx({"bleu": 100, "chrf": 100, "cer": 0, "wer": 0, "rouge_l": 100})


def test_order_of_words_counts_for_rouge_l():
    assert rouge_l("a b c d", "d a b") == pytest.approx(200 * 2 / 7)
    assert rouge_l("", "") == 100
    assert rouge_l("a", "") == 0
