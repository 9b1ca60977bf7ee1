"""A corpus becomes a data set that training and the contract's check take as it is."""

import csv
import json
import unicodedata
from dataclasses import replace

import pytest

from slt_jax.corpora.prepare import PreparationRequest, file_id, prepare
from slt_jax.data.contract import check_data_set
from slt_jax.data.corpus_folder import SPLITS, folders_under
from slt_jax.data.metadata import read_index, read_metadata, select
from slt_jax.errors import UserError
from tests.corpora.made import HEADER, FakeExtraction, rows, write_csv, write_videos

VIDEOS = [f"v{n}.{ending}" for n, ending in enumerate(("mp4", "MKV", "webm", "mov", "avi"))]


@pytest.fixture
def request_for(tmp_path):
    """A request for a corpus of five videos with five clips each; keywords change it."""
    metadata = write_csv(tmp_path / "corpus.csv", rows(5, 5))
    videos = write_videos(tmp_path / "videos", VIDEOS)

    def make(**changes) -> PreparationRequest:
        given = {"metadata": metadata, "videos": videos, "output": tmp_path / "data", "fps": 5.0,
                 "shares": (0.6, 0.2, 0.2)}  # fmt: skip
        return PreparationRequest(**(given | changes))

    return make


def table(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def test_a_prepared_corpus_keeps_the_contract(request_for, tmp_path):
    request = request_for()
    prepared = prepare(request, FakeExtraction(without={"v0_0": {"hand_l": [0, 1]}}))
    data = request.output
    indices = {split: data / "index" / f"{split}.csv" for split in SPLITS}
    report = check_data_set(folders_under(data), data / "meta.csv", indices)
    assert report.findings == []
    assert len(report.clips) == 25
    metadata = read_metadata(data / "meta.csv")
    of_video = {}
    for split, path in indices.items():
        clips = select(read_index(path), metadata, split)
        assert [clip.video_id for clip in clips] == [clip.video_id for clip in prepared.splits[split]]
        for clip in clips:
            assert of_video.setdefault(clip.extra["video"], split) == split == clip.extra["split"]
            assert (clip.fps, clip.frame_count) == (5.0, report.clips[clip.video_id].frames)
            assert clip.duration == pytest.approx(float(clip.extra["end"]) - float(clip.extra["start"]))
    assert {split: len(clips) for split, clips in prepared.splits.items()} == {"train": 15, "val": 5, "test": 5}


def test_clips_are_cut_where_the_table_says(request_for, tmp_path):
    extract = FakeExtraction()
    metadata = write_csv(tmp_path / "c.csv", ["x;uno;v1;1.5;4;2.5", "y;dos;v0.mp4;0;3;3", "z;tres;v2;0;2;2"])
    prepare(request_for(metadata=metadata), extract)
    (jobs,) = extract.calls
    assert [(job.video.name, job.video_id, job.start, job.end) for job in jobs] == [
        ("v1.MKV", "x", 1.5, 4.0), ("v0.mp4", "y", 0.0, 3.0), ("v2.webm", "z", 0.0, 2.0)
    ]  # fmt: skip


def test_what_is_dropped_on_the_way_is_told_and_in_no_table(request_for, tmp_path):
    lines = [*rows(5, 5), "lost;hola;elsewhere;0;2;2", "mute;;v1;0;2;2"]
    request = request_for(metadata=write_csv(tmp_path / "c.csv", lines))
    prepared = prepare(request, FakeExtraction(broken=["v3_2"]))
    dropped = table(request.output / "dropped.csv")
    assert [(row["line"], row["id"], row["reason"], row["detail"]) for row in dropped] == [
        ("19", "v3_2", "extraction failed", "nobody is in it"),
        ("27", "lost", "video not found", "elsewhere"),
        ("28", "mute", "no text", ""),
    ]
    assert prepared.failed == 1
    ids = [video_id for split in SPLITS for video_id in read_index(request.output / "index" / f"{split}.csv")]
    assert (
        sorted(ids)
        == sorted(read_metadata(request.output / "meta.csv"))
        == sorted(f"v{video}_{clip}" for video in range(5) for clip in range(5) if (video, clip) != (3, 2))
    )


def test_ids_that_cannot_be_file_names_are_replaced_and_kept_beside(request_for, tmp_path):
    names = ["a/b", "a?b", "ñandú 1", "x" * 300, "x" * 299 + "y"]
    lines = [f"{name};texto {n};v{n};0;2;2" for n, name in enumerate(names)]
    request = request_for(metadata=write_csv(tmp_path / "c.csv", lines))
    prepare(request, FakeExtraction())
    metadata = read_metadata(request.output / "meta.csv")
    assert [clip.extra["source_id"] for clip in metadata.values()] == names
    assert "ñandú 1" in metadata
    assert len(set(metadata)) == len(names)
    assert all((request.output / "pose" / f"{video_id}.npz").exists() for video_id in metadata)


def test_file_ids_differ_wherever_ids_do():
    assert file_id("good-id_1.é") == "good-id_1.é"
    assert len({file_id(name) for name in ("a/b", "a\\b", "a_b", ".a_b", "a_b ", "a:b")}) == 6


def test_a_dry_run_needs_neither_videos_nor_extraction(request_for, tmp_path):
    def never(*_, **__):
        raise AssertionError

    request = request_for(videos=None, dry_run=True)
    prepare(request, never)
    written = sorted(path.relative_to(request.output).as_posix() for path in request.output.rglob("*.*"))
    assert written == [
        "dropped.csv", "index/test.csv", "index/train.csv", "index/val.csv", "meta.csv", "prepare.json",
        "repaired.csv", "report.html",
    ]  # fmt: skip
    before = {path: path.read_bytes() for path in request.output.rglob("*.csv")}
    prepare(request_for(videos=None, dry_run=True, output=None), never)
    prepare(request, never)
    assert {path: path.read_bytes() for path in request.output.rglob("*.csv")} == before


@pytest.mark.parametrize("dry", [False, True])
def test_a_video_that_rows_name_in_several_ways_stays_in_one_split(request_for, tmp_path, dry):
    lines = []
    for number, row in enumerate(rows(5, 6)):
        cells = row.split(";")
        video = next(name for name in VIDEOS if name.startswith(cells[2] + "."))
        cells[2] = (cells[2], video, f"clips/{video}")[number % 3]
        lines.append(";".join(cells))
    request = request_for(metadata=write_csv(tmp_path / "c.csv", lines), dry_run=dry)
    prepared = prepare(replace(request, videos=None) if dry else request, FakeExtraction())
    videos = [{clip.video_id.split("_")[0] for clip in clips} for clips in prepared.splits.values()]
    assert sorted(video for split in videos for video in split) == ["v0", "v1", "v2", "v3", "v4"]
    assert sum(len(clips) for clips in prepared.splits.values()) == 30


def test_a_video_whose_accents_are_written_in_two_ways_is_one(request_for, tmp_path):
    """As macOS writes the names of files, and as tables write them."""
    names = [unicodedata.normalize(form, "seña") for form in ("NFC", "NFD")]
    lines = [f"c{n};frase {n} de la seña;{names[n % 2]};{n};{n + 1};1" for n in range(6)]
    lines += [f"d{n};frase {n} de otro;otro;{n};{n + 1};1" for n in range(6)]
    videos = write_videos(tmp_path / "accents", [f"{names[1]}.mp4", "otro.mp4"])
    request = request_for(metadata=write_csv(tmp_path / "c.csv", lines), videos=videos, shares=(0.5, 0.5, 0.0))
    prepared = prepare(request, FakeExtraction())
    assert not prepared.corpus.drops
    groups = [{clip.video_id[0] for clip in clips} for clips in prepared.splits.values()]
    assert sorted(map(len, groups)) == [0, 1, 1]


def test_splits_of_the_file_itself(request_for, tmp_path):
    lines = ["a;uno;v0;0;2;2;TRAIN", "b;dos;v0;2;4;2;dev", "c;tres;v1;0;2;2;test", "d;cuatro;v1;2;4;2;",
             "e;cinco;v2;0;2;2;training"]  # fmt: skip
    metadata = write_csv(tmp_path / "c.csv", lines, HEADER + ";split")
    prepared = prepare(request_for(metadata=metadata, keep_split=True, dry_run=True))
    assert {split: [clip.video_id for clip in clips] for split, clips in prepared.splits.items()} == {
        "train": ["a", "e"], "val": ["b"], "test": ["c"]
    }  # fmt: skip
    assert prepared.cut == ["v0"]
    assert [(drop.video_id, drop.reason) for drop in prepared.corpus.drops] == [("d", "no split of its own")]


def test_an_empty_share_leaves_no_index_behind(request_for):
    request = request_for(dry_run=True)
    prepare(request)
    assert (request.output / "index" / "test.csv").exists()
    prepare(request_for(dry_run=True, shares=(0.8, 0.2, 0.0)))
    assert sorted(path.name for path in (request.output / "index").iterdir()) == ["train.csv", "val.csv"]


def test_tables_of_others_are_not_written_over(request_for, tmp_path):
    request = request_for(dry_run=True)
    source = write_csv(request.output.parent / "meta.csv", rows(5, 5))
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"holds a meta\.csv that this command did not write"):
        prepare(request_for(metadata=source, output=tmp_path, dry_run=True))
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": (0.8, 0.1, 0.2)}, "--splits 0.8,0.1,0.2: .* add up to 1"),
        ({"shares": (0.0, 0.5, 0.5)}, "--splits 0,0.5,0.5: .* train above 0"),
        ({"seed": -1}, "--seed -1"),
        ({"videos": None}, "--videos is not given"),
        ({"output": None}, "--output is not given"),
        ({"fps": 0.0}, "--fps 0"),
        ({"keep_split": True}, "--keep-split: .* names no split"),
    ],
)
def test_wrong_requests(request_for, changes, message):
    with pytest.raises(UserError, match=message) as error:
        prepare(request_for(**changes), FakeExtraction())
    assert "\n" not in str(error.value)


def test_no_row_that_can_be_used(request_for, tmp_path):
    metadata = write_csv(tmp_path / "c.csv", ["a;;v0;0;1;1", "b;;v0;1;2;1", "c;hola;v0;;;1"])
    with pytest.raises(UserError, match="no row can be used, 2 of 3 for: no text"):
        prepare(request_for(metadata=metadata))


def test_the_report_shows_what_there_is(request_for, tmp_path):
    lines = [*rows(5, 5), "<script>;;v0;0;2;2", "lost;hola;elsewhere;0;2;2"]
    lines[0] = lines[0].rsplit(";", 1)[0] + ";6.359.999.999"
    request = request_for(metadata=write_csv(tmp_path / "c.csv", lines))
    lost = {f"v{video}_{clip}": {"hand_l": list(range(99)), "face": [1]} for video in range(5) for clip in range(5)}
    prepare(request, FakeExtraction(without=lost))
    page = (request.output / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert page.count("100.0%") >= 2  # left hands missing
    assert "<td>video not found" in page
    assert "6.359.999.999 → " in page
    assert "face frames missing" in page
    assert "&lt;script&gt; (line 27)" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert json.loads((request.output / "prepare.json").read_text())["seed"] == 1234
