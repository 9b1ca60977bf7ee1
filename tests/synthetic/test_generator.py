"""The generated corpus keeps the data contract, and each stream says something that no other does."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from slt_jax.errors import UserError
from slt_jax.synthetic.contact_sheet import contact_sheet, draw_text
from slt_jax.synthetic.generator import ClipSpec, generate, isolated, plan, render_clip
from slt_jax.synthetic.grammar import (
    ADJECTIVES,
    INTRANSITIVE,
    NOUNS,
    NUMERALS,
    PERSONS,
    TIMES,
    TRANSITIVE,
    clause,
    conjugate,
    noun_phrase,
    pronoun,
    sample_sentences,
    small_sentences,
)
from slt_jax.synthetic.lexicon import SIGNS, minimal_pairs
from slt_jax.synthetic.signers import SIGNERS

STREAMS = ("face", "hand_l", "hand_r", "pose")
TINY = {"num_train": 12, "num_val": 3, "num_test": 3, "level": "small", "image_size": 32, "progress": False}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("signs") / "corpus"
    generate(out, **TINY, seed=3, workers=0)
    return out


def read_meta(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "meta.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_directory_keeps_the_contract(corpus):
    rows = read_meta(corpus)
    assert list(rows[0])[:5] == ["id", "texto", "fps", "duration", "frame_count"]
    ids = []
    for split, count in (("train", 12), ("val", 3), ("test", 3)):
        header, *lines = (corpus / "index" / f"{split}.csv").read_text(encoding="utf-8").splitlines()
        assert header == "video_id"
        assert len(lines) == count
        ids += lines
    assert ids == [row["id"] for row in rows]
    for row in rows:
        count = int(row["frame_count"])
        assert 12 <= count <= 16
        assert float(row["duration"]) == pytest.approx(count / float(row["fps"]), abs=1e-3)
        with np.load(corpus / "pose" / f"{row['id']}.npz") as arrays:
            assert arrays["pose"].shape == (count, 39)
            assert arrays["pose"].dtype == np.float32
            missing = {"hand_l": arrays["miss_hand_l"], "hand_r": arrays["miss_hand_r"], "face": np.zeros(count, bool)}
        for stream, lost in missing.items():
            names = sorted(p.name for p in (corpus / stream).glob(f"{row['id']}_f*.jpg"))
            assert names == [f"{row['id']}_f{frame:06d}.jpg" for frame in range(count) if not lost[frame]]
    image = simplejpeg.decode_jpeg((corpus / "face" / f"{ids[0]}_f000000.jpg").read_bytes())
    assert image.shape == (32, 32, 3)


def test_some_hands_are_missing_and_most_are_not(corpus):
    lost = []
    for path in (corpus / "pose").glob("*.npz"):
        with np.load(path) as arrays:
            lost.append(arrays["miss_hand_r"])
    assert any(m[2:-2].any() for m in lost), "no gap inside a clip"
    assert 0.02 < np.concatenate(lost).mean() < 0.5


def test_bytes_do_not_depend_on_the_workers(corpus, tmp_path):
    generate(tmp_path / "again", **TINY, seed=3, workers=2)
    assert files(tmp_path / "again") == files(corpus)


def test_another_seed_is_another_corpus():
    counts = {"train": 5, "val": 1, "test": 1}
    assert plan(counts, 0, "full")[0] != plan(counts, 1, "full")[0]


@pytest.mark.parametrize(
    ("level", "counts"),
    [
        ("small", {"train": 500, "val": 60, "test": 60}),
        ("small", {"train": 0, "val": 0, "test": 300}),
        ("full", {"train": 800, "val": 100, "test": 100}),
    ],
)
def test_splits_share_signers_but_no_sentence(level, counts):
    specs, texts = plan(counts, 5, level)
    assert sum(counts.values()) == len(specs)
    assert not texts["train"] & texts["val"]
    assert not texts["train"] & texts["test"]
    assert not texts["val"] & texts["test"]
    if counts["train"]:
        train, test = ([s for v, s in specs.items() if v.startswith(split)] for split in ("train", "test"))
        assert {s.signer for s in test} <= {s.signer for s in train}
        assert {g for s in test for g in s.sentence.glosses} <= {g for s in train for g in s.sentence.glosses}


@pytest.mark.parametrize("stream", STREAMS)
def test_minimal_pairs_differ_in_one_stream_only(stream):
    pairs = minimal_pairs()[stream]
    assert len(pairs) >= 4
    for a, b in pairs:
        one, two = (render_clip(ClipSpec(isolated(gloss), frames=8, seed=(4,)), 32) for gloss in (a, b))
        for other in STREAMS:
            same = np.array_equal(getattr(one, other), getattr(two, other))
            assert same == (other != stream), f"{a} and {b}: {other}"
        assert np.array_equal(one.miss_hand_l, two.miss_hand_l)
        assert np.array_equal(one.miss_hand_r, two.miss_hand_r)


def roles(gloss: str) -> set:
    """Where a gloss may stand; of two that share a role either makes a sentence."""
    if gloss in TRANSITIVE:
        return {("verb", kind) for kind in TRANSITIVE[gloss][1]}
    for words in (NOUNS, ADJECTIVES):
        if gloss in words:
            return {words[gloss][-1]}
    return {tuple(words) for words in (PERSONS, TIMES, NUMERALS, INTRANSITIVE) if gloss in words}


@pytest.mark.parametrize("stream", STREAMS)
def test_no_stream_can_be_done_without(stream):
    """Two of five sentences hold a sign for which another would do as well, were it not for this stream."""
    told = {gloss for a, b in minimal_pairs()[stream] if roles(a) & roles(b) for gloss in (a, b)}
    sentences = sample_sentences(np.random.default_rng(0), 1000, "full")
    assert np.mean([bool(told & set(s.glosses)) for s in sentences]) > 0.4


@pytest.mark.parametrize("mark", ["neg", "yn", "wh"])
def test_negation_and_questions_leave_the_hands_alone(mark):
    plain = isolated("COMER")
    marked = type(plain)(plain.text, plain.glosses, (frozenset({mark}),))
    one, two = (render_clip(ClipSpec(s, frames=8, seed=(4,)), 32) for s in (plain, marked))
    assert np.array_equal(one.hand_r, two.hand_r)
    assert not np.array_equal(one.face, two.face)


def test_left_handed_signers_sign_with_the_left():
    left_handed = next(i for i, signer in enumerate(SIGNERS) if signer.left_handed)
    clip = render_clip(ClipSpec(isolated("AGUA"), frames=16, signer=left_handed, seed=(1,)), 32)
    left_wrist, right_wrist = (clip.pose.reshape(-1, 13, 3)[:, landmark, 1] for landmark in (5, 6))
    assert left_wrist.min() < right_wrist.min() - 0.1  # y grows downwards


def test_lexicon_is_large_and_every_gloss_is_used():
    assert len(SIGNS) >= 60
    sentences = sample_sentences(np.random.default_rng(0), 3000, "full")
    assert {gloss for s in sentences for gloss in s.glosses} == set(SIGNS)
    assert all(3 <= len(s.text.split()) <= 8 for s in sentences)
    assert all(s.text == s.text.lower() and ";" not in s.text for s in sentences)
    assert len(small_sentences()) == len({s.text for s in small_sentences()}) == 192


def test_spanish_is_not_the_gloss_order():
    mate = noun_phrase("MATE", "object")
    madre, hermana = noun_phrase("MADRE", "subject", "MI"), noun_phrase("HERMANA", "object", "TU")
    said = clause(madre, "COMPRAR", complement=noun_phrase("PAN", "object"), time="AYER", negated=True)
    assert said.text == "ayer mi madre no compró pan"
    assert said.gloss_text == "AYER MI MADRE PAN^neg COMPRAR^neg"
    for sentence, text in (
        (clause(pronoun("VOS"), "TOMAR", complement=mate, time="MAÑANA"), "mañana vas a tomar mate"),
        (
            clause(pronoun("VOS"), "TENER", complement=noun_phrase("LLAVE", "object", "", "DOS"), question="yn"),
            "¿tenés dos llaves?",
        ),
        (clause(pronoun("NOSOTROS"), "VER", complement=hermana, time="AYER"), "ayer vimos a tu hermana"),
        (clause(noun_phrase("MAESTRA", "subject"), "CANSADO"), "la maestra está cansada"),
        (clause(noun_phrase("PERRO", "subject", "MI", "TRES"), "BLANCO"), "mis tres perros son blancos"),
        (clause(pronoun("YO"), "IR", complement=noun_phrase("HOSPITAL", "place")), "voy al hospital"),
        (clause(madre, "VIVIR", question="wh", wh="DÓNDE"), "¿dónde vive mi madre?"),
        (clause(pronoun("USTEDES"), "LEER", time="AYER", question="wh", wh="QUÉ"), "¿qué leyeron ustedes ayer?"),
    ):
        assert sentence.text == text


def test_conjugation_has_no_holes():
    for infinitive, _ in TRANSITIVE.values():
        for tense in ("present", "past", "future"):
            forms = [conjugate(infinitive, tense, person) for person in range(5)]
            assert all(re.fullmatch(r"[a-záéíóú ]+", form) for form in forms)
    assert [conjugate("buscar", "past", p) for p in range(3)] == ["busqué", "buscaste", "buscó"]


def test_a_directory_with_files_is_not_touched(corpus, tmp_path):
    with pytest.raises(UserError, match="--overwrite"):
        generate(corpus, **TINY)
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match=r"synthetic\.json"):
        generate(tmp_path, **TINY, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_overwrite_replaces_a_corpus_and_failure_leaves_nothing(tmp_path, monkeypatch):
    small = TINY | {"num_train": 1, "num_val": 1, "num_test": 1, "workers": 0}
    generate(tmp_path / "c", **small, seed=0)
    before = files(tmp_path / "c")
    monkeypatch.setattr("slt_jax.synthetic.generator._write_tables", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(tmp_path / "c", **small, seed=1, overwrite=True)
    assert files(tmp_path / "c") == before
    monkeypatch.undo()
    generate(tmp_path / "c", **small, seed=1, overwrite=True)
    assert files(tmp_path / "c") != before
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.parametrize(
    ("wrong", "flag"),
    [
        ({"level": "huge"}, "--level"),
        ({"num_train": -1}, "--train"),
        ({"frames": (9, 5)}, "--frames"),
        ({"image_size": 3}, "--image-size"),
        ({"workers": -1}, "--workers"),
        ({"fps": 0}, "--fps"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_wrong_arguments_name_the_flag(wrong, flag, tmp_path):
    with pytest.raises(UserError, match=flag):
        generate(tmp_path / "c", **TINY | wrong)
    assert not list(tmp_path.iterdir())


def test_contact_sheets(corpus, tmp_path):
    from_files = contact_sheet(corpus, tmp_path / "a.png", [read_meta(corpus)[0]["id"]], columns=6)
    clip = render_clip(ClipSpec(small_sentences()[0], frames=6), 32)
    from_memory = contact_sheet(clip, tmp_path / "b.png", columns=6)
    with Image.open(from_files) as a, Image.open(from_memory) as b:
        assert a.size == b.size
    with pytest.raises(UserError, match="nobody"):
        contact_sheet(corpus, tmp_path / "c.png", ["nobody"])


@pytest.mark.parametrize(("plain", "accented"), [("n", "ñ"), ("e", "é"), ("?", "¿"), ("u", "ü")])
def test_sheet_titles_show_accents(plain, accented):
    drawn = []
    for text in (plain, accented):
        image = Image.new("RGB", (30, 30), "white")
        draw_text(image, (5, 5), text, 16)
        drawn.append(np.array(image))
    assert (drawn[1] < 128).any()
    assert not np.array_equal(*drawn)


def test_command(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "tools" / "make_synthetic_signs.py"), str(tmp_path / "c"), "--level", "small"]
    counts = ["--train", "2", "--val", "1", "--test", "1", "--workers", "0"]
    options = ["--image-size", "32", "--frames", "8", "10", "--contact-sheet", str(tmp_path / "s.png")]
    done = subprocess.run([*command, *counts, *options], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "4 clips" in done.stdout
    assert (tmp_path / "s.png").is_file()
    again = subprocess.run([*command, *counts], capture_output=True, text=True, cwd=root)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert "Traceback" not in again.stderr
