"""CSL-Daily, OpenASL and YouTube-ASL: a pickle, a table of clock times, and captions from the web."""

import json
import pickle

import numpy as np
import pytest

from slt_jax.corpora.captions import AutomaticCaptions, clean_caption, read_captions
from slt_jax.corpora.data_report import words_of
from slt_jax.corpora.rows import parse_clock
from slt_jax.errors import UserError
from tests.corpora import official
from tests.corpora.made import FakeExtraction
from tests.corpora.test_official import facts, indices, prepared, table


@pytest.mark.parametrize(("protocol", "signer"), [(2, int), (4, np.int64), (5, str)])
def test_csl_daily(tmp_path, protocol, signer):
    source, output = official.csl_daily(tmp_path / "csl", protocol=protocol, signer=signer), tmp_path / "data"
    extract = FakeExtraction()
    found = prepared("csl-daily", source, output, extract=extract, allow_missing=True)
    assert {split: len(ids) for split, ids in indices(output).items()} == {"test": 2, "train": 3, "val": 1}
    row = table(output / "meta.csv")[1]
    assert (row["id"], row["texto"], row["gloss"], row["signer"], row["lang"]) == (
        "S000001_P0001_T00", "我有3个苹果", "他 今天", "1", "zh"
    )  # fmt: skip
    assert row["duration"] == "0.133"
    assert extract.calls[0][0].rate == 30.0
    assert {(drop.video_id, drop.reason) for drop in found.corpus.drops} == {
        ("S000005_P0004_T00", "no annotation"), ("S000006_P0000_T00", "no split of its own")
    }  # fmt: skip
    assert facts(found)["scripts"] == "Han 6"
    assert words_of("我有3个Äpfel, ja") == ["我", "有", "3", "个", "äpfel", "ja"]


def test_csl_daily_says_what_is_wrong_with_its_files(tmp_path):
    with pytest.raises(UserError, match=r"no csl2020ct_v2\.pkl \(looked in: sentence_label, the folder itself\)"):
        prepared("csl-daily", tmp_path)
    source = official.csl_daily(tmp_path / "csl")
    (source / "sentence_label" / "csl2020ct_v2.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match=r"csl2020ct_v2\.pkl: holds no list `info`"):
        prepared("csl-daily", source)
    (source / "sentence_label" / "csl2020ct_v2.pkl").write_bytes(pickle.dumps({"info": [{"name": "a"}]}))
    with pytest.raises(UserError, match=r"entry 1 has no name or no label_char"):
        prepared("csl-daily", source)


def test_openasl(tmp_path, capsys):
    source, output = official.openasl(tmp_path / "openasl"), tmp_path / "data"
    extract = FakeExtraction()
    found = prepared("openasl", source, output, extract=extract, fps=4.0)
    assert "1 of 24 boxes are none" in capsys.readouterr().out
    assert {split: len(ids) for split, ids in indices(output).items()} == {"test": 3, "train": 18, "val": 2}
    jobs = extract.calls[0]
    assert (jobs[1].video.name, jobs[1].start, jobs[1].end) == ("video000001.mp4", 61.5, 64.0)
    assert (jobs[0].signer_box, jobs[1].signer_box) == (None, (0.0, 0.0, 0.6, 1.0))
    row = table(output / "meta.csv")[1]
    assert row["source_id"] == "video000001-00:01:01.500-1"
    assert ":" not in row["id"]
    assert row["texto"] == 'The "news 1'
    assert [(drop.video_id[:4], drop.reason) for drop in found.corpus.drops] == [("gone", "clip not found")]
    assert facts(found)["videos in both train and test"] == "2 (video000000, video000001)"


def test_openasl_clips_that_its_own_script_cut(tmp_path):
    source = official.openasl(tmp_path / "openasl")
    official.video(source / "video-clip" / "goneXXXXXXX-00%05%01.500-23.mp4")
    found = prepared("openasl", source)
    assert len(found.corpus.clips) == 24
    (clip,) = [clip for clip in found.corpus.clips if clip.video.startswith("gone")]
    assert (clip.start, clip.signer_box) == (None, None)


def test_youtube_asl(tmp_path):
    source, output = official.youtube_asl(tmp_path / "yt"), tmp_path / "data"
    extract = FakeExtraction()
    found = prepared("youtube-asl", source, output, extract=extract, fps=4.0)
    assert {row["id"]: row["texto"] for row in table(output / "meta.csv")} == {
        "-Abcdefgh01_00001": "Hello, everyone & welcome.",
        "-Abcdefgh01_00004": "I'm (Deaf), too.",
        "bbbbbbbbbb2_00001": "First line second line",
        "cccccccccc3_00001": "The sign for tea",
    }
    assert indices(output).keys() == {"train"}
    first = extract.calls[0][0]
    assert (first.video.name, first.start, first.end) == ("-Abcdefgh01.mp4", 1.0, 3.5)
    assert {(drop.video_id, drop.reason) for drop in found.corpus.drops} == {
        ("-Abcdefgh01_00002", "too short or too long"),
        ("-Abcdefgh01_00003", "nothing that is signed"),
        ("bbbbbbbbbb2_00002", "too short or too long"),
        ("cccccccccc3_00002", "too long a text"),
        ("dddddddddd4", "automatic captions"),
    }
    assert found.corpus.lost == []
    assert facts(found)["rows"] == "9, 5 not counted, as its authors do"


def test_videos_that_are_gone_are_lost(tmp_path):
    source = official.youtube_asl(tmp_path / "yt", gone=True)
    with pytest.raises(UserError, match=r"1 of 5 rows \(20.0%\) are lost, more than 5%, 1 of 1 for: no captions found"):
        prepared("youtube-asl", source)
    (source / "videos" / "bbbbbbbbbb2.mp4").unlink()
    found = prepared("youtube-asl", source, allow_missing=True)
    assert {(drop.video_id, drop.reason) for drop in found.corpus.lost} == {
        ("bbbbbbbbbb2_00001", "clip not found"), ("gone000000_", "no captions found")
    }  # fmt: skip
    with pytest.raises(UserError, match="--split test: youtube-asl is only for training"):
        prepared("youtube-asl", source, split="test")


@pytest.mark.parametrize(
    ("written", "signed"),
    [
        ("<c.yellow>Hi</c> {\\an8}there", "Hi there"),
        ("&lt;b&gt;Tom &amp;amp; Ann", "Tom & Ann"),
        ("INTERVIEWER 2: Why?", "Why?"),
        (">> Why not?", "Why not?"),
        ("AT 5:30 WE EAT", "AT 5:30 WE EAT"),
        ("Note: bring water", "Note: bring water"),
        ("♪ ♪", ""),
        ("[Applause] ... ", ""),
        ("(UPBEAT MUSIC)", ""),
        ("He lives (with his cat) here", "He lives (with his cat) here"),
        ("- Yes.\n- No.", "Yes. No."),
        ("I\u200b am\xa0here\u00ad", "I am here"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
    ],
)
def test_captions_are_cleaned(written, signed):
    assert clean_caption(written) == signed


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.vtt", "nothing here\n", "holds no captions"),
        ("a.json3", "{", "no JSON"),
        ("a.json3", "[]", "no list `events`"),
    ],
)
def test_files_that_are_no_captions(tmp_path, name, content, reason):
    path = official.write(tmp_path / name, content)
    with pytest.raises(UserError, match=reason):
        read_captions(path)


def test_captions_that_a_machine_heard(tmp_path):
    heard = {
        "events": [{"tStartMs": 0, "dDurationMs": 2000, "segs": [{"utf8": "so"}, {"utf8": " we", "tOffsetMs": 200}]}]
    }
    path = official.write(tmp_path / "a.json3", json.dumps(heard))
    with pytest.raises(AutomaticCaptions):
        read_captions(path)


def test_an_empty_webvtt_has_no_captions(tmp_path):
    assert read_captions(official.write(tmp_path / "a.vtt", "WEBVTT\n\n")) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:01:02.5", 62.5), ("1:00:00,25", 3600.25), ("3.5", 3.5), ("", None), ("a:b", None), ("0:75", None),
     ("-1", None), ("nan", None), ("inf", None), ("1:2:3:4", None)],
)  # fmt: skip
def test_clock_times(text, seconds):
    assert parse_clock(text) == seconds
