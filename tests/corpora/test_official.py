"""Corpora in the shape of their authors become splits that nobody drew, and nothing of them is lost without a word."""

import csv
from pathlib import Path

import pytest

from slt_jax.corpora.prepare import PreparationRequest, prepare
from slt_jax.data.metadata import read_index, read_metadata
from slt_jax.errors import UserError
from tests.corpora import official
from tests.corpora.made import FakeExtraction


def prepared(corpus: str, source: Path, output: Path | None = None, *, extract=None, **changes):
    given = {"corpus": corpus, "source": source, "output": output, "dry_run": extract is None}
    return prepare(PreparationRequest(**(given | changes)), extract)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def facts(found) -> dict[str, str]:
    return dict(found.audit.facts)


def indices(output: Path) -> dict[str, list[str]]:
    return {path.stem: read_index(path) for path in sorted((output / "index").iterdir())}


def test_how2sign_from_clips(tmp_path):
    source, output = official.how2sign(tmp_path / "h2s"), tmp_path / "data"
    found = prepared("how2sign", source, output, extract=FakeExtraction())
    assert {split: len(ids) for split, ids in indices(output).items()} == {"test": 4, "train": 19, "val": 4}
    rows = {row["id"]: row for row in table(output / "meta.csv")}
    one = rows["tr0BL0rO5e-8_1-5-rgb_front"]
    assert (one["texto"], one["signer"], one["lang"], one["video"]) == ('He said "hello', "5", "en", "tr0BL0rO5e-8")
    assert rows["tr0BL0rO5e-8_2-5-rgb_front"]["texto"] == 'She said "stop" twice.'
    assert rows["tr0BL0rO5e-8_3-5-rgb_front"]["texto"] == "with a tab"
    assert one["start"] == ""  # the clip is a file of its own, cut by other times
    (lost,) = table(output / "dropped.csv")
    assert lost["line"] == "2"
    assert (lost["id"], lost["reason"]) == ("tr0BL0rO5e-8_0-5-rgb_front", "clip not found")
    assert lost["detail"] == "train_rgb_front_clips/raw_videos/tr0BL0rO5e-8_0-5-rgb_front.mp4"
    assert lost["file"] == "how2sign_realigned_train.csv"
    told = facts(found)
    assert told["rows"] == "28"
    assert told["clips found"] == "27 of 28 rows, 1 lost (3.6%)"
    assert told["split train"] == "19 clips of 31,128 that are published"
    assert told["texts that occur twice or more"].startswith("13 clips, 5 texts")
    assert told["scripts"] == "Latin 27"
    assert set(read_metadata(output / "meta.csv")) == set(rows)


def test_how2sign_from_long_videos_is_cut_by_the_aligned_times(tmp_path):
    extract = FakeExtraction()
    prepared("how2sign", official.how2sign(tmp_path / "h2s", long_videos=True), tmp_path / "data", extract=extract,
             fps=2.0)  # fmt: skip
    (jobs,) = extract.calls
    assert len(jobs) == 28
    assert (jobs[1].video.name, jobs[1].start, jobs[1].end) == ("tr0BL0rO5e-8-5-rgb_front.mp4", 10.5, 14.75)
    assert "video_id" not in {job.video_id for job in jobs}


def test_how2sign_as_its_own_script_lays_it_out(tmp_path):
    flat = official.how2sign(tmp_path / "flat", missing=0)
    home = tmp_path / "deep" / "How2Sign" / "sentence_level"
    for split in ("train", "val", "test"):
        texts = home / split / "text" / "en" / "raw_text" / "re_aligned"
        texts.mkdir(parents=True)
        (flat / f"how2sign_realigned_{split}.csv").rename(texts / f"how2sign_realigned_{split}.csv")
        (home / split / "rgb_front").mkdir()
        (flat / f"{split}_rgb_front_clips" / "raw_videos").rename(home / split / "rgb_front" / "raw_videos")
    assert len(prepared("how2sign", tmp_path / "deep").corpus.clips) == 28


def test_clips_of_length_0_repeated_ids_and_broken_times_are_named(tmp_path):
    source = official.how2sign(tmp_path / "h2s", missing=0)
    official.video(source / "val_rgb_front_clips" / "raw_videos" / "va0BL0rO5e-8_2-5-rgb_front.mp4", b"")
    path = source / "how2sign_realigned_test.csv"
    lines = path.read_text().splitlines()
    again = lines[1].rsplit("\t", 1)[0] + "\tanother text"
    long_only = "x\tx-5-rgb_front\tx_0\tx_0-5-rgb_front\t9.5\t9.5\tno time at all"
    short = "y\ty-5-rgb_front"
    path.write_text("\n".join([*lines, again, long_only, short, "z\tz\tz_0\tz_0\t1\t2\t  "]))
    official.video(source / "raw_videos" / "x-5-rgb_front.mp4")
    with pytest.raises(UserError, match=r"5 of 32 rows \(15.6%\) are lost, more than 5%, 1 of 5 for: "):
        prepared("how2sign", source, tmp_path / "data")
    assert {(row["id"], row["reason"]) for row in table(tmp_path / "data" / "dropped.csv")} == {
        ("va0BL0rO5e-8_2-5-rgb_front", "clip of length 0"),
        ("te0BL0rO5e-8_0-5-rgb_front", "id used before"),
        ("x_0-5-rgb_front", "end not after start"),
        ("", "a damaged row"),
        ("z_0", "no text"),
    }
    assert not (tmp_path / "data" / "meta.csv").exists()
    assert "<h2>Audit</h2>" in (tmp_path / "data" / "report.html").read_text()
    found = prepared("how2sign", source, tmp_path / "data", allow_missing=True)
    assert len(table(tmp_path / "data" / "meta.csv")) == len(found.corpus.clips) == 27


def test_phoenix_is_read_from_folders_of_frames(tmp_path):
    extract, output = FakeExtraction(), tmp_path / "data"
    found = prepared("phoenix14t", official.phoenix14t(tmp_path / "p"), output, extract=extract)
    assert {split: len(ids) for split, ids in indices(output).items()} == {"test": 2, "train": 6, "val": 2}
    (jobs,) = extract.calls
    assert (jobs[0].video.is_dir(), jobs[0].rate, jobs[0].start) == (True, 25.0, None)
    row = table(output / "meta.csv")[1]
    assert row["id"] == "02April_2010_Thursday_heute-6691"
    assert (row["texto"], row["gloss"], row["signer"], row["lang"]) == (
        'im "süden', "JETZT WETTER MORGEN 1", "Signer02", "de"
    )  # fmt: skip
    assert row["duration"] == "0.240"
    told = facts(found)
    assert told["signers in both train and val"] == "2 (Signer01, Signer02)"
    assert told["videos in both train and val"] == "1 (01April_2010_Thursday_heute)"
    assert told["texts of val that train has"] == "1 of 2 clips"
    assert told["languages"] == "de 10"


def test_an_empty_folder_and_an_id_of_two_splits(tmp_path):
    source = official.phoenix14t(tmp_path / "p", clips=(("train", 39), ("dev", 1)), pictures=1)
    home = source / "PHOENIX-2014-T-release-v3" / "PHOENIX-2014-T"
    for path in (home / "features/fullFrame-210x260px/train/05April_2010_Thursday_heute-6694").iterdir():
        path.unlink()
    with (home / "annotations/manual/PHOENIX-2014-T.dev.corpus.csv").open("a") as file:
        file.write("02April_2010_Thursday_heute-6691|x|-1|-1|Signer01|REGEN|es regnet\n")
    found = prepared("phoenix14t", source)
    assert {(drop.video_id, drop.reason, drop.file) for drop in found.corpus.drops} == {
        ("02April_2010_Thursday_heute-6691", "id used before", "PHOENIX-2014-T.dev.corpus.csv"),
        ("05April_2010_Thursday_heute-6694", "folder without frames", "PHOENIX-2014-T.train.corpus.csv"),
    }


def test_one_split_and_a_few_clips(tmp_path, capsys):
    source, output = official.how2sign(tmp_path / "h2s"), tmp_path / "data"
    prepared("how2sign", source, output, split="test")
    assert {split: len(ids) for split, ids in indices(output).items()} == {"test": 4}
    found = prepared("how2sign", source, output, limit=2)
    assert {split: len(ids) for split, ids in indices(output).items()} == {"test": 2, "train": 2, "val": 2}
    assert len(found.corpus.clips) == len(table(output / "meta.csv")) == 6
    (source / "how2sign_realigned_val.csv").unlink()
    prepared("how2sign", source)
    assert "no how2sign_realigned_val.csv; the split val is left out" in capsys.readouterr().out


@pytest.mark.parametrize("corpus", ["how2sign", "phoenix14t"])
def test_a_folder_that_holds_something_else_is_one_line(corpus, tmp_path):
    with pytest.raises(UserError, match=r"--source .*: holds none of .*\(looked in: "):
        prepared(corpus, tmp_path)
    with pytest.raises(UserError, match=r"--source .*nowhere: no such folder"):
        prepared(corpus, tmp_path / "nowhere")


def test_a_table_of_another_kind_is_one_line(tmp_path):
    official.write(tmp_path / "how2sign_realigned_test.csv", "id;text\na;b\n")
    with pytest.raises(UserError, match=r"no column video_id in its header \(id;text\); is it the official file\?"):
        prepared("how2sign", tmp_path)
