"""Several machines extract one corpus, and frames are a source like videos."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slt_jax.base.files import holding
from slt_jax.cli.extract import main
from slt_jax.errors import UserError
from slt_jax.media.extract_many import extract_videos
from slt_jax.media.frames import frames_of, numbered
from slt_jax.media.jobs import Job, find_videos
from slt_jax.media.machines import Part, merge_records, parse_part, records_of_parts
from slt_jax.media.settings import ExtractionSettings
from tests.media.synthetic import SquareDetector, signing
from tests.media.test_extract_many import SETTINGS, tree

SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}


def write_frames(folder: Path, count: int = 4, name: str = "images{:04d}.png") -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(signing(count)):
        Image.fromarray(image).save(folder / name.format(number + 1))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Five clips as folders of frames, as PHOENIX and CSL-Daily come."""
    root = tmp_path_factory.mktemp("frames")
    for number in range(5):
        write_frames(root / "train" / f"clip_{number}", 3)
    return root


def extract(jobs, out: Path, **options) -> dict[str, dict]:
    made = extract_videos(jobs, out, SETTINGS, 0, progress=False, make_detector=SquareDetector, **options)
    return {record["video_id"]: record for record in made}


# --- machines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environment", "part"),
    [("0/4", {}, Part(0, 4)), ("3/4", {}, Part(3, 4)), ("auto", SLURM, Part(2, 4)),
     ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_STEP": "2"}, Part(2, 4))],
)  # fmt: skip
def test_parts_are_named_or_slurms(text, environment, part):
    assert parse_part(text, environment) == part


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("4/4", {}, "--shard 4/4: parts count from 0 on, so the last one is 3/4"), ("a/b", {}, "must be I/N, such as"),
        ("1", {}, "must be I/N"), ("0/0", {}, "--shard 0/0"), ("-1/4", {}, "must be I/N"),
        ("auto", {}, "--shard auto: SLURM_ARRAY_TASK_ID is not set"),
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "12"}, r"the array has gaps \(task 12 of 4\); submit --array=0-3"),
    ],
)  # fmt: skip
def test_parts_that_are_none_are_refused(text, environment, message):
    with pytest.raises(UserError, match=message):
        parse_part(text, environment)


def test_a_clips_part_depends_on_its_id_alone():
    ids = [f"clip_{n}" for n in range(400)]
    owners = [[part for part in range(4) if Part(part, 4).has(i)] for i in ids]
    assert all(len(owner) == 1 for owner in owners)
    assert min(np.bincount([owner[0] for owner in owners])) > 60
    assert [Part(0, 3).has(i) for i in ("a", "b", "c", "ñ")] == [False, False, False, True]  # for ever


def test_the_parts_make_what_one_machine_makes(corpus, tmp_path, capsys):
    jobs = find_videos(corpus, frames=True)
    assert len(extract(jobs, tmp_path / "one")) == 5
    made = [extract(jobs, tmp_path / "many", part=Part(index, 3)) for index in range(3)]
    assert sorted(i for part in made for i in part) == [f"clip_{n}" for n in range(5)]
    with pytest.raises(UserError, match="holds records of 3 parts; when they are done, merge them with --merge"):
        extract(jobs, tmp_path / "many", resume=True)
    with pytest.raises(UserError, match=r"--shard 0/2: .*holds records of 3 parts"):
        extract(jobs, tmp_path / "many", part=Part(0, 2), resume=True)
    assert main(["--merge", "--output", str(tmp_path / "many")]) == 0
    assert "3 shards, 5 clips" in capsys.readouterr().out
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    one, many = ((tmp_path / name / "metadata.jsonl").read_text() for name in ("one", "many"))
    assert many == one
    # Whoever goes on afterwards, in parts or not, finds all of it done.
    again = extract(jobs, tmp_path / "many", part=Part(1, 2), resume=True)
    assert all(again[video_id] == json.loads(line) for line in many.splitlines()
               if (video_id := json.loads(line)["video_id"]) in again)  # fmt: skip


def test_a_part_that_died_goes_on(corpus, tmp_path):
    jobs, part = find_videos(corpus, frames=True), Part(0, 1)
    extract(jobs[:2], tmp_path, part=part)
    record = part.record(tmp_path / "metadata.jsonl")
    with open(record, "a", encoding="utf-8") as file:
        file.write('{"video_id": "clip_2", "sta')  # killed there
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "pose").iterdir()}
    assert len(extract(jobs, tmp_path, part=part, resume=True)) == 5
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(record.read_text().splitlines()) == 5


@pytest.mark.parametrize("part", [Part(0, 2), None])
def test_two_processes_do_not_make_the_same_part(corpus, tmp_path, part):
    jobs, out = find_videos(corpus, frames=True), tmp_path / "out"
    extract(jobs, out, part=part)
    name = "metadata.shard-0-of-2.jsonl" if part else "metadata.jsonl"
    assert not (out / ".extracting").exists()
    (out / ".extracting").mkdir()
    with holding(out / ".extracting" / f"{name}.lock") as held:
        assert held
        message = "another process is extracting " + ("part 0 of 2; give each" if part else "these clips; wait for it")
        with pytest.raises(UserError, match=f"--output {out}: {message}"):
            extract(jobs, out, part=part, resume=True)
        if part:
            extract(jobs, out, part=Part(1, 2))
    extract(jobs, out, part=part, resume=True)
    assert not (out / ".extracting").exists()


def test_a_missing_part_is_named(corpus, tmp_path, capsys):
    extract(find_videos(corpus, frames=True), tmp_path, part=Part(1, 3))
    assert main(["--merge", "--output", str(tmp_path)]) == 2
    assert "--merge: the records of 0/3, 2/3 are missing; extract them with --shard" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds no metadata"):
        merge_records(tmp_path / "pose" / "metadata.jsonl")
    assert main(["--merge", "--output", str(tmp_path), "--shard", "0/2"]) == 2
    assert "--merge needs --output alone" in capsys.readouterr().err


def test_a_part_without_clips_has_a_record_too(tmp_path, corpus):
    jobs = find_videos(corpus, frames=True)[:1]
    for index in range(2):
        extract(jobs, tmp_path, part=Part(index, 2))
    assert len(records_of_parts(tmp_path / "metadata.jsonl")) == 2
    assert merge_records(tmp_path / "metadata.jsonl") == (1, 2)


# --- frames -------------------------------------------------------------------------------------------------------


def test_frames_have_the_rate_that_is_given(tmp_path):
    write_frames(tmp_path / "in" / "clip", 8)
    for fps, limit, frames in ((25.0, None, 8), (None, None, 8), (8.0, 4.0, 4)):
        settings = ExtractionSettings(fps=fps, fps_limit=limit, crop_size=32)
        jobs = find_videos(tmp_path / "in", frames=True)
        out = tmp_path / f"{fps}_{limit}"
        (record,) = extract_videos(jobs, out, settings, 0, progress=False, make_detector=SquareDetector)
        assert (record["frames"], record["fps"]) == (frames, limit or fps or 25.0)
        assert len(list((out / "face").iterdir())) == frames


def test_frames_go_by_their_numbers():
    assert sorted(["a10.png", "a9.png", "b1.png", "a1.png"], key=numbered) == ["a1.png", "a9.png", "a10.png", "b1.png"]


@pytest.mark.parametrize("form", ["{clip}/images{n:04d}.png", "{clip}.{n:06d}.png", "{clip}_f{n:06d}.png"])
def test_a_tar_of_frames_is_as_its_folders(corpus, tmp_path, form):
    with tarfile.open(tmp_path / "shard-000.tar", "w") as archive:
        for folder in sorted((corpus / "train").iterdir()):
            for number, frame in enumerate(frames_of(folder)):
                entry = tarfile.TarInfo(form.format(clip=folder.name, n=number))
                entry.size = len(frame.read())
                archive.addfile(entry, io.BytesIO(frame.read()))
            archive.addfile(tarfile.TarInfo(f"{folder.name}.json"))
    jobs = find_videos(tmp_path, frames=True)
    assert [job.video_id for job in jobs] == [f"clip_{n}" for n in range(5)]
    out = tmp_path / "out"
    assert all(record["status"] == "ok" for record in extract(jobs[:2], out / "tar").values())
    extract(find_videos(corpus, frames=True)[:2], out / "folders")
    assert tree(out / "tar") == tree(out / "folders")
    assert len(extract(jobs[:2], out / "tar", resume=True)) == 2


def test_what_is_wrong_with_frames_is_one_line(tmp_path):
    folder = write_frames(tmp_path / "clip", 3)
    (folder / "images0002.png").write_bytes(b"\x89PNG no picture")
    (record,) = extract([Job(folder, "clip")], tmp_path / "out").values()
    assert record["status"] == "failed"
    assert record["reason"].startswith(f"{folder / 'images0002.png'}: a frame cannot be read (")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.tar").write_bytes(b"\x1f\x8b no tar")
    with pytest.raises(
        UserError, match=r"x\.tar: cannot be read as a \.tar of frames .*is it compressed, or cut short"
    ):
        find_videos(tmp_path / "bad", frames=True)
    with pytest.raises(UserError, match=r"holds no video \("):
        find_videos(folder)  # for whom frames are no videos


def test_links_are_followed_and_loops_are_not(corpus, tmp_path):
    (tmp_path / "all").mkdir()
    os.symlink(corpus / "train", tmp_path / "all" / "train")
    os.symlink(tmp_path / "all", tmp_path / "all" / "loop")
    os.symlink(corpus, tmp_path / "all" / "zweiter")  # the same clips by another way
    jobs = find_videos(tmp_path / "all", frames=True)
    assert [job.video_id for job in jobs] == [f"clip_{n}" for n in range(5)]


def test_the_output_is_no_input(corpus, tmp_path):
    root = tmp_path / "data"
    write_frames(root / "clip", 3)
    for _ in range(2):
        jobs = find_videos(root, frames=True, apart_from=root / "processed")
        assert [job.video_id for job in jobs] == ["clip"]
        extract(jobs, root / "processed", overwrite=True)
