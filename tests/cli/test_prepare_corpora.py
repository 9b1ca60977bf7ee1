"""`slt-prepare CORPUS`: its audit, its exit codes, tables with columns of any name, and mistakes in one line."""

import json
import re

import pytest

from slt_jax.cli.prepare_dataset import main
from slt_jax.data.metadata import read_index, read_metadata
from tests.cli.test_prepare_dataset import LSA_T
from tests.corpora import official
from tests.corpora.made import FakeExtraction, write_videos


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_a_dry_run_audits_and_writes_nothing(tmp_path, capsys):
    source = official.how2sign(tmp_path / "h2s")
    assert run("how2sign", "--source", source, "--dry-run", "--limit", 3) == 0
    told = capsys.readouterr().out
    assert "  clips found: 27 of 28 rows, 1 lost (3.6%)" not in told  # of those that are prepared
    assert "  split train: 3 clips of 31,128 that are published" in told
    assert "  train: clips 3, videos 1" in told
    assert not list(tmp_path.glob("*/meta.csv"))


def test_too_many_lost_rows_are_an_error_that_says_how_to_go_on(tmp_path, capsys):
    source, output = official.how2sign(tmp_path / "h2s", missing=3), tmp_path / "data"
    arguments = ("how2sign", "--source", source, "--output", output, "--dry-run")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "3 of 28 rows (10.7%) are lost, more than 5%, 3 of 3 for: clip not found" in error
    assert "dropped.csv names them; --allow-missing goes on without them" in error
    assert (output / "dropped.csv").read_text().count("clip not found") == 3
    assert run(*arguments, "--allow-missing") == 0
    assert len(read_metadata(output / "meta.csv")) == 25


def test_a_corpus_without_any_clip_still_names_them(tmp_path, capsys):
    source, output = official.how2sign(tmp_path / "h2s", missing=0), tmp_path / "data"
    for split in ("train", "val", "test"):
        (source / f"{split}_rgb_front_clips").rename(tmp_path / split)
    assert run("how2sign", "--source", source, "--output", output, "--dry-run") == 2
    assert "28 of 28 rows (100.0%) are lost" in capsys.readouterr().err
    assert (output / "dropped.csv").read_text().count("clip not found") == 28
    assert run("how2sign", "--source", source, "--output", output, "--dry-run", "--allow-missing") == 2
    assert "no row can be used, 28 of 28 for: clip not found" in capsys.readouterr().err


def test_what_the_extraction_loses_counts_too(tmp_path, monkeypatch, capsys):
    lost = [f"te0BL0rO5e-8_{number}-5-rgb_front" for number in range(2)]
    monkeypatch.setattr("slt_jax.media.extract_many.extract_videos", FakeExtraction(broken=lost))
    source = official.how2sign(tmp_path / "h2s", missing=0)
    assert run("how2sign", "--source", source, "--output", tmp_path / "data") == 1
    assert "7.1% of the rows are lost, more than 5%" in capsys.readouterr().err


RECORDS = [
    {"SENTENCE_NAME": f"v{number}", "SENTENCE": f"text {number}", "id": 7, "FILE": f"film{number % 3}", "FROM": number,
     "TO": number + 1.5, "part": ["train", "dev", "test"][number % 3], "who": "Ana"}
    for number in range(9)
]  # fmt: skip
COLUMNS = "id=SENTENCE_NAME,text=SENTENCE,video=FILE,start=FROM,end=TO,split=part,signer=who"


@pytest.mark.parametrize("ending", ["json", "jsonl", "tsv", "csv"])
def test_a_table_with_columns_of_any_name(tmp_path, monkeypatch, ending):
    extract = FakeExtraction()
    monkeypatch.setattr("slt_jax.media.extract_many.extract_videos", extract)
    source, output = write_videos(tmp_path / "films", [f"film{number}.mp4" for number in range(3)]), tmp_path / "data"
    mark = {"tsv": "\t", "csv": ";"}.get(ending, "")
    lines = [mark.join(RECORDS[0]), *(mark.join(map(str, record.values())) for record in RECORDS)]
    texts = {"json": json.dumps(RECORDS), "jsonl": "\n".join(map(json.dumps, RECORDS)) + "\n"}
    path = official.write(source / f"table.{ending}", texts.get(ending, "\n".join(lines) + "\n"))
    assert run("table", "--source", source, "--output", output, "--columns", COLUMNS, "--fps", 4) == 0
    metadata = read_metadata(output / "meta.csv")
    assert [read_index(output / "index" / f"{split}.csv") for split in ("train", "val", "test")] == [
        ["v0", "v3", "v6"], ["v1", "v4", "v7"], ["v2", "v5", "v8"]
    ]  # fmt: skip
    assert metadata["v4"].text == "text 4"
    assert metadata["v4"].extra["signer"] == "Ana"
    assert (extract.calls[0][4].video.name, extract.calls[0][4].start) == ("film1.mp4", 4.0)
    assert (output / "meta.csv").read_text().startswith("id;texto;video;start;end;duration;split;fps")
    path.rename(tmp_path / f"elsewhere.{ending}")
    arguments = ("--metadata", tmp_path / f"elsewhere.{ending}", "--columns", COLUMNS, "--dry-run")
    assert run("table", *arguments) == 0


def test_a_table_of_folders_of_frames(tmp_path, monkeypatch):
    extract = FakeExtraction()
    monkeypatch.setattr("slt_jax.media.extract_many.extract_videos", extract)
    for name in ("a", "b"):
        official.frames(tmp_path / "frames" / name, 6)
    official.write(tmp_path / "t.csv", "id;text;fps\na;hola;12\nb;chau;12\n")
    arguments = ("--metadata", tmp_path / "t.csv", "--source", tmp_path / "frames", "--output", tmp_path / "data")
    assert run("table", *arguments, "--splits", "0.5,0.5,0") == 0
    assert {(job.video.name, job.rate) for job in extract.calls[0]} == {("a", 12.0), ("b", 12.0)}


@pytest.mark.skipif(not LSA_T.exists(), reason="LSA-T's metadata is not here")
def test_lsa_t_as_it_circulates(tmp_path, capsys):
    assert run("lsa-t", "--source", LSA_T.parent, "--output", tmp_path / "data", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "clips found: 8,412 of 8,459 rows, 47 lost (0.6%)" in told
    assert "languages: es 8,412" in told
    assert len(read_metadata(tmp_path / "data" / "meta.csv")) == 8412
    assert run("lsa-t", "--source", LSA_T.parent, "--dry-run", "--videos", tmp_path) == 2
    assert "holds no video" in capsys.readouterr().err


def test_lsa_t_as_its_page_gives_it(tmp_path, monkeypatch):
    """The text is called `label`, the subtitle lines `splits`, and the clips are files of their own."""
    extract = FakeExtraction()
    monkeypatch.setattr("slt_jax.media.extract_many.extract_videos", extract)
    source = tmp_path / "lsa"
    rows = [f'p{n}_0,"hola, {n}",p{n},list,1.5,3.5,"2","[(\'hola, {n}\', 1.5, 3.5)]",0,0' for n in range(6)]
    header = "id,label,video,playlist,start,end,duration,splits,prev_delta,post_delta"
    official.write(source / "meta.csv", "\n".join([header, *rows]) + "\n")
    write_videos(source / "clips", [f"p{n}_0.mp4" for n in range(3)] + [f"p{n}.mp4" for n in range(3, 6)])
    assert run("lsa-t", "--source", source, "--output", tmp_path / "data", "--fps", 4) == 0
    assert {(job.video_id, job.start) for job in extract.calls[0]} == {
        *((f"p{n}_0", None) for n in range(3)), *((f"p{n}_0", 1.5) for n in range(3, 6))
    }  # fmt: skip
    assert read_metadata(tmp_path / "data" / "meta.csv")["p2_0"].text == "hola, 2"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["how2sing", "--source", "."], "CORPUS how2sing: unknown; did you mean 'how2sign'?"),
        (["how2sign", "--dry-run"], "--source is not given: the folder of how2sign"),
        (["how2sign", "--source", "."], "--output is not given; only --dry-run goes without"),
        (["how2sign", "--source", ".", "--seed", "1"], "--seed: how2sign has its own; leave the flag out"),
        (["how2sign", "--source", ".", "--splits", "1,0,0"], "--splits: how2sign has its own"),
        (["how2sign", "--source", ".", "--limit", "0"], "--limit 0: must be 1 or more"),
        (["how2sign", "--source", ".", "--split", "dev"], "'dev' is no split; known: train, val, test"),
        (["table", "--source", "FOLDER", "--dry-run"], "name its table with --metadata"),
        (["table", "--metadata", "T", "--columns", "id=x", "--dry-run"], "--columns id=x: .* has no such column"),
        (["table", "--metadata", "T", "--columns", "what=a", "--dry-run"], "not ROLE=NAME with a role of id, text"),
        (["--source", ".", "--metadata", "T"], "--source needs a corpus: slt-prepare table --metadata"),
        (["lsa-t", "--source", "FOLDER", "--dry-run"], "holds no meta.csv or labels.csv"),
    ],
)
def test_mistakes_are_one_line(arguments, named, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    places = {"FOLDER": tmp_path / "folder", "T": official.write(tmp_path / "t.csv", "a;b\n1;2\n")}
    assert run(*(places.get(argument, argument) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert re.search(named, error), error
    assert error.count("\n") == 1
