"""The learning benchmark: what it takes away is away, and what it says follows from what it found."""

import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
import simplejpeg

from convert import read_pt, write_pt
from slt_jax.cli import train
from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.errors import UserError
from slt_jax.synthetic.generator import LEVELS, generate
from tools.benchmarks import curve, options
from tools.benchmarks.ablations import averaged, blanked, needed, variants
from tools.benchmarks.learning import CONFIG, OF_LEVEL, measure, plot, read_results, table

RESULTS = {
    "complete, seed 1": {"bleu": 60.0, "chrf": 70.0, "seconds": 9},
    "complete, seed 2": {"bleu": 64.0, "chrf": 74.0, "seconds": 9},
    "without face": {"bleu": 40.0, "chrf": 50.0, "seconds": 9},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("learning") / "signs"
    generate(root, num_train=2, num_val=1, num_test=1, image_size=24, workers=0, progress=False)
    return root


@pytest.mark.parametrize("stream", ["face", "hand_l", "hand_r", "pose"])
def test_a_blank_stream_shows_nothing_and_leaves_the_others(stream, corpus, tmp_path):
    def arrays(**replaced):
        files = scan(folders_under(corpus) | replaced, ["train_000000"])["train_000000"]
        return read_clip(files, sequence_length=32, image_size=24, num_landmarks=13)

    before, after = arrays(), arrays(**{stream: blanked(stream, corpus, tmp_path)})
    assert before[stream].any()
    assert not after[stream].any()
    for name in before.keys() - {stream, "pose_conf_mask"}:
        np.testing.assert_array_equal(after[name], before[name])


def test_blank_crops_are_made_once(corpus, tmp_path):
    folder = blanked("face", corpus, tmp_path)
    first = next(folder.iterdir())
    assert not simplejpeg.decode_jpeg(first.read_bytes()).any()
    first.unlink()
    assert blanked("face", corpus, tmp_path) == folder
    assert not first.exists()


def test_the_average_is_scored_where_a_run_keeps_one(tmp_path):
    last = tmp_path / "last.pt"
    write_pt(last, {"model_state": {"w": np.zeros(2), "still": np.zeros(1)}, "config": {"seed": 3}})
    assert averaged(last) == last
    write_pt(last, read_pt(last) | {"ema_state": {"w": np.ones(2)}, "optimizer_state": {}})
    saved = read_pt(averaged(last))
    assert saved.keys() == {"model_state", "config"}
    assert {key: array.tolist() for key, array in saved["model_state"].items()} == {"w": [1, 1], "still": [0]}


def test_variants_bring_what_they_begin_with():
    every = variants(2)
    assert [v.name for v in needed(["trained"], every)] == ["complete, seed 2", "trained backbones, frozen"]
    assert needed([], every) == every
    assert needed(["nothing"], every) == []


def test_table_tells_what_is_lost():
    text = table(RESULTS)
    assert "| without face | 40.0 | 50.0 | 22.0 | 9 |" in text
    assert "mean and standard deviation of 2 | 62.0 ± 2.8 | 72.0 ± 2.8" in text


def test_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    assert plot(RESULTS, tmp_path / "learning.png").read_bytes().startswith(b"\x89PNG")


def test_results_of_other_settings_are_refused(tmp_path):
    file = tmp_path / "results.json"
    assert read_results(file, {"epochs": 1}) == {}
    file.write_text(json.dumps({"settings": {"epochs": 1}, "results": RESULTS}))
    assert read_results(file, {"epochs": 1}) == RESULTS
    with pytest.raises(UserError, match="--output"):
        read_results(file, {"epochs": 2})


def test_a_corpus_of_another_level_is_refused(corpus, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "runs"
    shutil.copytree(corpus, folder / "corpus")
    with pytest.raises(UserError, match="level full, asked is hard; choose another --output"):
        measure(Namespace(output=str(folder), level="hard", train=2, test=1, epochs=None, only=(), seeds=1))


def test_a_clip_of_the_hard_level_is_trained_on_as_a_whole():
    words = ["--config", str(CONFIG), "--work-dir", "w", *OF_LEVEL["hard"]]
    config, _ = train.configure(train.parse(words))
    assert config.model.sequence_length == LEVELS["hard"].frames[1]


def test_a_curve_has_equal_steps_and_the_first_clips(corpus, tmp_path):
    pytest.importorskip("matplotlib")
    known = curve.variants(corpus, [1000, 16000], 500, 2)
    for variant in known[:8]:
        config, _ = train.configure(train.parse(["--config", str(CONFIG), "--work-dir", "w", *variant.flags]))
        assert config.training.max_steps == 500
        assert config.training.epochs == (1 if "16000" in variant.name else 8)
        assert config.data.train_index == str(curve.index_of(corpus, int(variant.name.split()[-4])))
    found = {variant.name: {"bleu": 10.0 * number} for number, variant in enumerate(known)}
    assert "| glosses | 50.0 | 90.0 |" in curve.table(found)  # of the first seed 10 and 50, of the second 90 and 130
    assert curve.plot(found, tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    shutil.copytree(corpus, tmp_path / "runs" / "corpus")
    with pytest.raises(UserError, match="has 2 training clips, asked are 3; choose another --output"):
        curve.measure(Namespace(output=str(tmp_path / "runs"), level="full", test=1, clips=[1, 3], steps=1, only=(),
                                seeds=1))  # fmt: skip


def test_options_are_flags_of_training_and_their_means_are_told(tmp_path):
    pytest.importorskip("matplotlib")
    for variant in options.variants(1):
        teacher = ["--teacher", "last.pt"] if variant.taught_by else []
        words = ["--config", str(CONFIG), "--work-dir", "w", *variant.flags, *teacher]
        train.configure(train.parse(words))
    aligned = needed([options.ALIGNED], options.variants(2))
    assert [v.begins_with for v in aligned] == [None, aligned[0].name, None, aligned[2].name]
    assert [v.taught_by for v in needed([options.TAUGHT], options.variants(1))] == [None, f"{options.PLAIN}, seed 1"]
    found = {f"{name}, seed {seed}": {"bleu": bleu + seed, "chrf": bleu, "seconds": 9}
             for name, bleu in ((options.PLAIN, 60.0), ("glosses", 70.0)) for seed in (1, 2)}  # fmt: skip
    assert "| glosses | 71.5 ± 0.7 | 70.0 ± 0.0 | +10.0 | 71.0, 72.0 | 9 |" in options.table(found)
    del found["glosses, seed 1"]  # a gain is one on the same seeds
    assert "| glosses | 72.0 | 70.0 | +10.0 | 72.0 | 9 |" in options.table(found)
    assert options.plot(found, tmp_path / "options.png").read_bytes().startswith(b"\x89PNG")
