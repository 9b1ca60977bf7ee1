"""Videos in, streams out: what the loader reads, what a second run leaves alone, what a bad video leaves behind."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slt_jax.cli.extract import main
from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.errors import UserError
from slt_jax.media import extract_many
from slt_jax.media.extract_many import extract_videos
from slt_jax.media.jobs import Job, find_videos
from slt_jax.media.settings import ExtractionSettings
from tests.media.synthetic import DIMMEST, SquareDetector, picture, signing, write_sound, write_video

SETTINGS = ExtractionSettings(crop_size=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Two good clips and three bad files; not to be changed."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "one.mp4", signing(12))
    write_video(folder / "below" / "two.MKV", signing(9), rate=50)
    (folder / "broken.mp4").write_bytes(b"\0" * 100)
    write_video(folder / "empty_room.mp4", [np.zeros((64, 64, 3), np.uint8)] * 5)
    write_sound(folder / "sound.m4a").rename(folder / "sound.mov")
    return folder


def extract(
    videos: Path, out: Path, settings: ExtractionSettings = SETTINGS, workers: int = 0, **options
) -> dict[str, dict]:
    jobs = find_videos(videos)
    options = {"progress": False, "make_detector": SquareDetector} | options
    return {record["video_id"]: record for record in extract_videos(jobs, out, settings, workers, **options)}


def tree(folder: Path, *, without: tuple[str, ...] = ("metadata.jsonl",)) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in without)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def loaded(out: Path, video_id: str, length: int) -> dict[str, np.ndarray]:
    files = scan(folders_under(out), [video_id])[video_id]
    return read_clip(files, sequence_length=length, image_size=32, num_landmarks=13)


def test_streams_as_the_loader_reads_them(videos, tmp_path):
    records = extract(videos, tmp_path)
    assert records["one"]["frames"] == 12
    clip = loaded(tmp_path, "one", 12)
    assert clip["pad_mask"].all()
    assert not clip["miss_mask_hl"].any()
    assert not clip["miss_mask_hr"].any()
    for stream, channel in (("face", 0), ("hand_l", 1), ("hand_r", 2)):
        middle = clip[stream][:, 12:20, 12:20].reshape(-1, 3).astype(int)
        assert (middle[:, channel] > 150).all()
        assert (np.delete(middle, channel, axis=1) < 90).all()
    pose = clip["pose"].reshape(12, 13, 3)
    assert clip["pose_conf_mask"][:, 0].all()
    np.testing.assert_allclose(pose[:, 1:3, :2].mean(1), 0.5, atol=0.01)
    assert (pose[:, 5, 0] > pose[:, 6, 0]).all()  # the left wrist is on the right of the picture
    two = loaded(tmp_path, "two", 6)
    assert two["pad_mask"].sum() == records["two"]["frames"] == 4  # 9 frames at 50 a second


def test_bad_videos_are_told_and_the_others_go_on(videos, tmp_path):
    records = extract(videos, tmp_path)
    assert {name for name, record in records.items() if record["status"] == "ok"} == {"one", "two"}
    for name, reason in (
        ("broken", "cannot be opened as a video"), ("empty_room", "nobody is found"), ("sound", "no video stream"),
    ):  # fmt: skip
        assert reason in records[name]["reason"]
        assert not list(tmp_path.rglob(f"{name}_f*"))
        assert not list(tmp_path.rglob(f"{name}.npz"))
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert {line["video_id"]: line for line in lines} == records
    assert {path.name for path in tmp_path.iterdir()} == {"face", "hand_l", "hand_r", "pose", "metadata.jsonl"}


def test_names_that_no_file_can_have_fail_alone(videos, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(videos / "one.mp4", folder / "good.mp4")
    shutil.copy(videos / "one.mp4", os.fsencode(folder) + b"/se\xf1al.mp4")
    strange = {"a/b": "has a /", "../c": "has a /", "nul\0": "NUL", "x" * 5000: "5000 bytes", "": "is empty"}
    jobs = [*find_videos(folder), *(Job(folder / "good.mp4", video_id) for video_id in strange)]
    jobs += [Job("nul\0.mp4", "nul_video"), Job("y" * 5000 + ".mp4", "long_video"), Job("z\udcf1.mp4", "absent")]
    out = tmp_path / "out"
    records = extract_videos(jobs, out, SETTINGS, 0, progress=False, make_detector=SquareDetector)
    assert [record["status"] for record in records] == ["ok"] + ["failed"] * (len(jobs) - 1)
    assert r"videos/se\udcf1al.mp4: id 'se\udcf1al' is not UTF-8" in records[1]["reason"]
    for record, why in zip(records[2:], strange.values(), strict=False):
        assert why in record["reason"]
    assert all(record["reason"].isprintable() for record in records[1:])
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert sorted(line["video_id"] for line in lines) == sorted(record["video_id"] for record in records)
    assert {path.name for path in tmp_path.iterdir()} == {"videos", "out"}
    assert {path.name for path in out.iterdir()} == {"face", "hand_l", "hand_r", "pose", "metadata.jsonl"}
    resumed = extract_videos(jobs, out, SETTINGS, 0, progress=False, make_detector=SquareDetector, resume=True)
    assert resumed == records


def test_the_number_of_workers_changes_nothing(videos, tmp_path):
    extract(videos, tmp_path / "none", workers=0)
    records = extract(videos, tmp_path / "two", workers=2)
    assert tree(tmp_path / "two") == tree(tmp_path / "none")
    assert list(records) == [job.video_id for job in find_videos(videos)]


class Fatal(SquareDetector):
    """Takes its process with it when it sees a dim hand."""

    def body(self, image, *wanted):
        if 70 < image[60, 62, 1] < 150:
            os._exit(3)
        return super().body(image, *wanted)


def test_a_worker_that_dies_fails_its_video_alone(videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    write_video(folder / "deadly.mp4", [picture(96, 96, {"face": (48, 24), "left": (62, 60, DIMMEST)})] * 3)
    records = extract(folder, tmp_path / "out", workers=1, make_detector=Fatal)
    assert records["deadly"]["status"] == "failed"
    assert "worker ended with exit code 3" in records["deadly"]["reason"]
    assert records["one"]["status"] == records["two"]["status"] == "ok"
    assert not (tmp_path / "out" / extract_many.WORKING).exists()


def test_sources_and_validity_are_stored(tmp_path):
    right = (34, 60)
    lefts = [(62, 60), (62, 60, DIMMEST), (62, 60, 80), None, (62, 60)]
    images = [picture(96, 96, {"face": (48, 24), "right": right} | ({"left": x} if x else {})) for x in lefts]
    write_video(tmp_path / "videos" / "a.mp4", images, rate=5)  # too slow for anything to be tracked
    extract(tmp_path / "videos", tmp_path / "out", dataclasses.replace(SETTINGS, fps=5))
    with np.load(tmp_path / "out" / "pose" / "a.npz") as archive:
        data = dict(archive)
    assert data["source_hand_l"].tolist() == ["holistic", "retry", "pose", "", "holistic"]
    assert data["miss_hand_l"].tolist() == [False, False, False, True, False]
    assert data["wrist_in_hand_l"].tolist() == [True, True, True, False, True]
    assert data["source_face"].tolist() == ["holistic"] * 5
    assert data["landmarks"][:3].tolist() == ["nose", "left_shoulder", "right_shoulder"]
    assert (str(data["landmark_set"]), str(data["pose_space"]), float(data["fps"])) == ("upper13", "signing", 5.0)
    assert str(data["pose_norm"]).strip()  # whatever text later v9 finds here, it takes the pose for normalised
    assert np.isnan(data["box_hand_l"][3]).all()
    wrist = data["pose"].reshape(5, 13, 3)[0, 5, :2] * data["space_unit"] + data["space_origin"]
    np.testing.assert_allclose(wrist, (62, 60), atol=1.5)
    clip = loaded(tmp_path / "out", "a", 5)
    assert clip["miss_mask_hl"].tolist() == data["miss_hand_l"].tolist()


def test_what_rests_is_tracked_and_its_crops_are_there(tmp_path):
    images = [picture(96, 96, {"face": (48, 24), "left": (62, 60), "right": (34, 60)})] * 7
    write_video(tmp_path / "videos" / "a.mp4", images)
    record = extract(tmp_path / "videos", tmp_path / "out")["a"]
    with np.load(tmp_path / "out" / "pose" / "a.npz") as archive:
        data = dict(archive)
    for side in ("hand_l", "hand_r"):
        assert data[f"source_{side}"].tolist() == ["holistic", "tracked", "tracked"] * 2 + ["holistic"]
        np.testing.assert_allclose(data[f"box_{side}"], np.tile(data[f"box_{side}"][0], (7, 1)), atol=0.5)
    assert data["source_face"].tolist() == ["holistic"] + ["tracked"] * 4 + ["holistic", "tracked"]
    assert record["files"] == {"face": 7, "hand_l": 7, "hand_r": 7, "pose": 1}


def test_resuming(videos, tmp_path, monkeypatch):
    extract(videos, tmp_path)
    before = tree(tmp_path)
    seen = []
    original = extract_many._extract_clip
    monkeypatch.setattr(extract_many, "_extract_clip", lambda *args: seen.append(args[3].video_id) or original(*args))

    extract(videos, tmp_path, resume=True)
    assert sorted(seen) == ["broken", "empty_room", "sound"]  # what failed is tried again
    assert tree(tmp_path) == before

    seen.clear()
    (tmp_path / "hand_l" / "one_f000003.jpg").unlink()
    extract(videos, tmp_path, resume=True)
    assert "one" in seen
    assert "two" not in seen
    assert tree(tmp_path) == before

    seen.clear()
    extract(videos, tmp_path, ExtractionSettings(crop_size=32, pose="raw"), resume=True)
    assert {"one", "two"} <= set(seen)
    assert tree(tmp_path) != before

    with open(tmp_path / "metadata.jsonl", "a") as record:
        record.write('{"video_id": "one", "stat')  # killed while it wrote
    assert extract(videos, tmp_path, ExtractionSettings(crop_size=32, pose="raw"), resume=True)["one"]["status"] == "ok"


def test_files_of_an_earlier_extraction_do_not_stay(videos, tmp_path):
    extract(videos, tmp_path)
    assert (tmp_path / "face" / "one_f000011.jpg").exists()
    with pytest.raises(UserError, match=r"holds 2 of these clips already.*--resume.*--overwrite"):
        extract(videos, tmp_path)
    extract(videos, tmp_path, ExtractionSettings(crop_size=32, fps=10, image_format="png"), overwrite=True)
    assert sorted(path.name for path in (tmp_path / "face").glob("one_*")) == [f"one_f{n:06d}.png" for n in range(5)]
    assert loaded(tmp_path, "one", 8)["pad_mask"].sum() == 5


def test_a_stopped_run_leaves_no_half_clip(videos, tmp_path):
    class Stopping(SquareDetector):
        calls = 0

        def body(self, image, *wanted):
            Stopping.calls += 1
            if Stopping.calls == 15:
                raise KeyboardInterrupt
            return super().body(image, *wanted)

    with pytest.raises(KeyboardInterrupt):
        extract(videos, tmp_path, make_detector=Stopping)
    done = {json.loads(line)["video_id"] for line in (tmp_path / "metadata.jsonl").read_text().splitlines()}
    assert {path.stem for path in (tmp_path / "pose").iterdir()} == done & {"one", "two"}
    assert len(done & {"one", "two"}) == 1
    assert not (tmp_path / extract_many.WORKING).exists()


def test_parts_of_one_video(videos, tmp_path):
    jobs = [Job(videos / "one.mp4", "early", 0.0, 0.2), Job(videos / "one.mp4", "late", 0.28, None),
            Job(videos / "one.mp4", "after", 9.0, 10.0)]  # fmt: skip
    records = extract_videos(jobs, tmp_path, SETTINGS, 0, progress=False, make_detector=SquareDetector)
    assert [record.get("frames") for record in records] == [5, 5, None]
    assert "no picture can be read in the part" in records[2]["reason"]
    with pytest.raises(UserError, match="would both be clip early"):
        extract_videos([jobs[0], jobs[0]], tmp_path, SETTINGS, 0)


def test_options_of_the_pictures(videos, tmp_path):
    one = videos / "one.mp4"
    plain, blurred, mirrored = (tmp_path / name for name in ("plain", "blurred", "mirrored"))
    for out, options in ((plain, {}), (blurred, {"face_blur": True}), (mirrored, {"mirrored": True})):
        jobs = [Job(one, "one")]
        extract_videos(
            jobs, out, ExtractionSettings(crop_size=32, **options), 0, progress=False, make_detector=SquareDetector
        )
    face = [np.asarray(Image.open(out / "face" / "one_f000003.jpg")).astype(int) for out in (plain, blurred)]
    assert face[0][..., 0].std() > 1.5 * face[1][..., 0].std()
    # The mirror puts green, the left hand, on the left; there is no swapping of streams, the signer stays the same.
    with np.load(plain / "pose" / "one.npz") as straight, np.load(mirrored / "pose" / "one.npz") as turned:
        assert straight["box_hand_l"][0, 0] > 48 > turned["box_hand_l"][0, 0]


def test_fps_limit_keeps_the_own_rate(videos, tmp_path):
    records = extract(videos, tmp_path, ExtractionSettings(crop_size=32, fps_limit=30))
    assert (records["one"]["fps"], records["two"]["fps"]) == (25.0, 30.0)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def squares(monkeypatch):
    """The command finds squares."""
    monkeypatch.setattr(extract_many, "Detector", lambda min_confidence: SquareDetector())


def test_the_command(videos, tmp_path, squares, capsys):
    flags = ["--workers", "0", "--crop-size", "32", "--landmarks", "17", "--pose", "raw"]
    assert main([str(videos), str(tmp_path / "out"), *flags, "--metadata", str(tmp_path / "record.jsonl")]) == 1
    said = capsys.readouterr()
    assert "2 of 5 videos, 16 frames" in said.out
    assert said.err == "slt-extract: 3 failed: broken, empty_room, sound\n"
    assert len((tmp_path / "record.jsonl").read_text().splitlines()) == 5
    with np.load(tmp_path / "out" / "pose" / "one.npz") as archive:
        assert archive["pose"].shape == (12, 51)
    good = ["--videos", str(videos / "one.mp4"), "--output", str(tmp_path / "out"), *flags]
    assert main(good) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*good, "--overwrite"]) == 0


BAD = {
    "no video": ([], "--videos (a folder of videos) is not given"),
    "twice": (["x", "y", "--output", "z"], "--output (a folder for the streams) is given twice"),
    "no folder": (["/no/such", "out"], "--videos /no/such: no such folder or video"),
    "fps": (["V", "out", "--fps", "0"], "--fps 0"),
    "set": (["V", "out", "--landmarks", "uper13"], "did you mean 'upper13'"),
    "number": (["V", "out", "--landmarks", "12"], "--landmarks 12"),
    "pose": (["V", "out", "--pose", "row"], "did you mean 'raw'"),
    "box": (["V", "out", "--signer-box", "1,2,3"], "LEFT,TOP,RIGHT,BOTTOM"),
    "box order": (["V", "out", "--signer-box", "9,0,1,1"], "--signer-box 9,0,1,1"),
    "confidence": (["V", "out", "--min-confidence", "1"], "--min-confidence 1"),
    "format": (["V", "out", "--image-format", "gif"], "--image-format gif"),
    "workers": (["V", "out", "--workers", "-1"], "--workers -1"),
    "both": (["V", "out", "--resume", "--overwrite"], "--overwrite"),
    "flag": (["V", "out", "--face-blurr"], "did you mean '--face-blur'"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_one_line(videos, tmp_path, squares, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    arguments, named = BAD[name]
    assert main([str(videos) if part == "V" else part for part in arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("workers", ["0", "1"])
def test_without_mediapipe_the_extra_is_named(videos, tmp_path, capsys, monkeypatch, workers):
    if workers == "0":
        monkeypatch.setitem(sys.modules, "mediapipe", None)
    else:  # a spawned process has modules of its own
        (tmp_path / "path" / "mediapipe").mkdir(parents=True)
        (tmp_path / "path" / "mediapipe" / "__init__.py").write_text("raise ImportError")
        monkeypatch.syspath_prepend(str(tmp_path / "path"))
    assert main([str(videos), str(tmp_path / "out"), "--workers", workers]) == 2
    assert 'needs mediapipe: pip install "slt-jax[media]"' in capsys.readouterr().err


def test_an_empty_folder_and_doubled_names(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "holds no video" in capsys.readouterr().err
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).write_bytes(b"")
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "would both be clip a" in capsys.readouterr().err


def test_a_folder_of_videos_that_may_not_be_read_is_told():
    """Its videos would be missing, and nobody would notice."""
    script = """
import os, sys
from pathlib import Path
from slt_jax.media.jobs import find_videos
print([job.video_id for job in find_videos(sys.argv[1])])
Path(sys.argv[1], "closed").chmod(0)
if os.geteuid() == 0:  # who may read everything
    os.setresuid(65534, 65534, 65534)
try:
    find_videos(sys.argv[1])
except PermissionError as error:
    print(Path(error.filename).name)
"""
    with tempfile.TemporaryDirectory() as place:  # tmp_path is in a folder of one user's
        folder, closed = Path(place), Path(place, "closed")
        folder.chmod(0o755)
        (folder / "a.mp4").touch()
        closed.mkdir()
        done = subprocess.run([sys.executable, "-c", script, place], capture_output=True, text=True, check=False)
        closed.chmod(0o755)
    assert (done.stdout, done.stderr) == ("['a']\nclosed\n", "")
