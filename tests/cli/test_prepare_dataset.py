"""`slt-prepare`: its output, its exit codes, mistakes in one line, and the commands of docs/preparing.md."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slt_jax.cli import validate_data
from slt_jax.cli.prepare_dataset import main
from slt_jax.cli.validate_metrics import read_reference
from slt_jax.data.metadata import read_index, read_metadata
from tests.commands import command_of
from tests.corpora.made import HEADER, FakeExtraction, rows, write_csv, write_videos
from tests.data.conftest import SHARED

ROOT = Path(__file__).resolve().parents[2]
LSA_T = SHARED / "lsa_t" / "meta.csv"
VIDEOS = [f"v{n}.mp4" for n in range(5)]


@pytest.fixture
def corpus_csv(tmp_path) -> Path:
    return write_csv(tmp_path / "corpus.csv", [*rows(5, 4), "mute;;v0;0;1;1"])


@pytest.fixture
def extraction(monkeypatch) -> FakeExtraction:
    fake = FakeExtraction(broken=["v1_1"])
    monkeypatch.setattr("slt_jax.media.extract_many.extract_videos", fake)
    return fake


def test_a_dry_run_says_what_it_found_and_writes_nothing(corpus_csv, capsys):
    assert main(["--metadata", str(corpus_csv), "--dry-run", "--splits", "0.6,0.2,0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("21 rows, 20 kept, 1 dropped")
    assert lines[1] == "  dropped 1: no text"
    assert [line.split(",")[:2] for line in lines[2:5]] == [
        ["  train: clips 12", " videos 3"], ["  val: clips 4", " videos 1"], ["  test: clips 4", " videos 1"]
    ]  # fmt: skip
    assert list(corpus_csv.parent.iterdir()) == [corpus_csv]


def test_a_clip_that_fails_is_exit_code_1(corpus_csv, extraction, tmp_path, capsys):
    arguments = ["--metadata", str(corpus_csv), "--videos", str(write_videos(tmp_path / "videos", VIDEOS)),
                 "--output", str(tmp_path / "data"), "--fps", "4", "--splits", "0.6,0.2,0.2"]  # fmt: skip
    assert main(arguments) == 1
    assert "dropped 1: extraction failed" in capsys.readouterr().out
    extraction.broken.clear()
    assert main(arguments) == 0  # the same command goes on
    assert len(read_metadata(tmp_path / "data" / "meta.csv")) == 20


def test_ctrl_c_is_one_line(corpus_csv, monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("slt_jax.media.extract_many.extract_videos", interrupted)
    videos = write_videos(tmp_path / "videos", VIDEOS)
    assert main(["--metadata", str(corpus_csv), "--videos", str(videos), "--output", str(tmp_path / "data")]) == 130
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--metadata is not given"),
        (["--metadata", "none.csv", "--dry-run"], "none.csv: No such file"),
        (["--metadata", "CSV"], "--videos is not given; only --dry-run goes without"),
        (["--metadata", "CSV", "--videos", "nowhere", "--output", "x"], "nowhere"),
        (["--metadata", "CSV", "--dry-run", "--splits", "0.9,0.1"], "--splits"),
        (["--metadata", "CSV", "--dry-run", "--splits", "a,b,c"], "--splits"),
        (["--metadata", "CSV", "--dry-run", "--splits", "0.9,0.2,0.1"], "add up to 1"),
        (["--metadata", "CSV", "--dry-run", "--split", "1,0,0"], "did you mean '--splits'"),
        (["--metadata", "CSV", "--dry-run", "--output", "CSV"], "is a file; name a folder"),
        (["--metadata", "CSV", "--dry-run", "--keep-split"], "--keep-split"),
        (["--metadata", "ONE", "--dry-run"], "--splits: 1 video cannot fill 3 splits"),
    ],
)
def test_mistakes_are_one_line(arguments, named, corpus_csv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one = write_csv(tmp_path / "one.csv", rows(1, 5))
    places = {"CSV": str(corpus_csv), "ONE": str(one)}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("slt-prepare: error: ")
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(not LSA_T.exists(), reason="LSA-T's metadata is not here")
def test_the_real_corpus(tmp_path, capsys):
    data = tmp_path / "data"
    assert main(["--metadata", str(LSA_T), "--dry-run", "--output", str(data)]) == 0
    assert "8459 rows, 8412 kept, 47 dropped" in capsys.readouterr().out
    metadata = read_metadata(data / "meta.csv")
    ids = [read_index(data / "index" / f"{split}.csv") for split in ("train", "val", "test")]
    assert sum(map(len, ids)) == len(metadata) == 8412
    assert [len(split) / 8412 for split in ids] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    videos = [{metadata[video_id].extra["video"] for video_id in split} for split in ids]
    assert not videos[0] & videos[1] | videos[0] & videos[2] | videos[1] & videos[2]
    known = {metadata[video_id].text for video_id in ids[0]}
    for split in ids[1:]:  # greetings are said in every programme, nothing else is
        assert sum(metadata[video_id].text in known for video_id in split) / len(split) < 0.05
    for clip in metadata.values():
        assert clip.duration == pytest.approx(float(clip.extra["end"]) - float(clip.extra["start"]), abs=2e-3)


def test_the_guide(extraction, tmp_path, monkeypatch, capsys):
    guide = (ROOT / "docs" / "preparing.md").read_text(encoding="utf-8")
    (csv,) = re.findall(r"```csv\n(.*?)```", guide, flags=re.DOTALL)
    (tmp_path / "corpus.csv").write_text(csv, encoding="utf-8")
    write_videos(tmp_path / "videos", [f"programa{n}.mp4" for n in (1, 2, 3)])
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    reference = read_reference(ROOT / "configs" / "debug_reference.json")
    record = {"epoch": 2} | {metric: expected.value for metric, expected in reference.items()}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    monkeypatch.chdir(tmp_path)
    commands = "".join(re.findall(r"```bash\n(.*?)```", guide, flags=re.DOTALL)).splitlines()
    for command in commands:
        main, arguments = command_of(shlex.split(command))
        assert main(arguments) == 0, f"{command}\n{capsys.readouterr()}"
    assert len(commands) == 6
    for folder in ("prepared", "data"):
        assert len(read_metadata(Path(folder) / "meta.csv")) == 4
    (example,) = re.findall(r"```json\n(.*?)```", guide, flags=re.DOTALL)
    Path("example.json").write_text(example)
    assert read_reference(Path("example.json"))["val_loss"] == reference["val_loss"]


def test_real_videos(tmp_path):
    pytest.importorskip("mediapipe")
    videos = SHARED / "real_clips" / "videos"
    if not videos.exists():
        pytest.skip("the real clips are not here")
    lines = ["a;hola;slp_asl_house;0.2;1.2;1", "b;chau;slp_asl_different;0.2;1.2;", "c;nada;lsat_clip1;90;92;2"]
    metadata = write_csv(tmp_path / "corpus.csv", lines, HEADER)
    command = [sys.executable, "tools/prepare_dataset.py", "--metadata", metadata, "--videos", videos,
               "--output", tmp_path / "data", "--fps", "10", "--splits", "0.4,0.3,0.3", "--workers", "0"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # the third clip lies behind the end of its video
    assert "dropped 1: extraction failed" in done.stdout
    clips = read_metadata(tmp_path / "data" / "meta.csv")
    assert {clip.video_id: clip.frame_count for clip in clips.values()} == {"a": 10, "b": 10}
    assert validate_data.main(["--root", str(tmp_path / "data")]) == 0
