"""Each way to break the data contract is found, named by clip, and nothing else is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slt_jax.data.contract import ERROR, WARNING, check_data_set
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.text import train_tokenizer
from slt_jax.errors import UserError
from tests.data.conftest import STREAMS, ClipFactory

FRAMES = 5
META = "id;text;fps;duration;frame_count"


class DataSet:
    """Four clips in two splits, without fault until something breaks them."""

    def __init__(self, root: Path):
        self.clips = ClipFactory(root)
        self.root, self.dirs = root, self.clips.dirs
        for name in "abcd":
            self.clips.write(name, FRAMES, miss_hand_l=np.zeros(FRAMES, bool))
        self.tables([f"{name};texto {name};5;1.0;{FRAMES}" for name in "abcd"], "abc", "d")

    def tables(self, rows, train, val) -> None:
        (self.root / "meta.csv").write_text("\n".join([META, *rows]) + "\n", encoding="utf-8")
        for split, ids in (("train", train), ("val", val)):
            (self.root / f"{split}.csv").write_text("\n".join(["video_id", *ids]) + "\n", encoding="utf-8")

    def image(self, stream: str, frame: int, name: str = "a") -> Path:
        return self.root / stream / f"{name}_f{frame:06d}.jpg"

    def pose(self, change=lambda pose: pose, **arrays) -> None:
        np.savez(self.root / "pose" / "a.npz", pose=change(self.clips.pose(FRAMES)), **arrays)

    def findings(self, **options) -> set[tuple[str, str, str]]:
        indices = {split: self.root / f"{split}.csv" for split in ("train", "val")}
        self.report = check_data_set(self.dirs, self.root / "meta.csv", indices, **options)
        return {(finding.severity, finding.clip, finding.kind) for finding in self.report.findings}


@pytest.fixture
def data(tmp_path) -> DataSet:
    return DataSet(tmp_path / "data")


def test_a_sound_data_set_has_no_findings(data):
    seen = []
    assert data.findings(progress=lambda done, total: seen.append((done, total))) == set()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    one = data.report.clips["a"]
    assert (one.frames, one.landmarks, one.images, one.seen) == (
        FRAMES, 13, dict.fromkeys(STREAMS, FRAMES), {"hand_l": FRAMES, "hand_r": FRAMES}
    )  # fmt: skip


def put(columns: dict, rows=slice(None)):
    """Changes some columns of the pose array."""

    def change(pose):
        for column, value in columns.items():
            pose[rows, column] = value
        return pose

    return change


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])


def cut_image(path: Path) -> None:
    """An image whose header is whole and whose last rows are missing."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    cut_short(path)


def draw(path: Path, size, mode="RGB") -> None:
    Image.new(mode, size, 90).save(path)


BREAKS = {
    "no files": (
        lambda d: [p.unlink() for s in (*STREAMS, "pose") for p in (d.root / s).glob("a*")], ERROR, "no files"
    ),
    "no face": (lambda d: [p.unlink() for p in (d.root / "face").glob("a_*")], ERROR, "no face images"),
    "no left hand": (lambda d: [p.unlink() for p in (d.root / "hand_l").glob("a_*")], WARNING, "no hand_l images"),
    "face gap": (lambda d: d.image("face", 2).unlink(), WARNING, "face frames missing"),
    "no pose": (lambda d: (d.root / "pose" / "a.npz").unlink(), WARNING, "pose missing"),
    "short pose": (
        lambda d: shutil.copy(d.image("face", 0), d.image("face", FRAMES)), ERROR, "pose shorter than the images"
    ),
    "truncated": (lambda d: cut_image(d.image("hand_r", 3)), ERROR, "hand_r images unreadable"),
    "no image": (lambda d: d.image("face", 1).write_bytes(b"<html>"), ERROR, "face images unreadable"),
    "empty image": (lambda d: d.image("face", 1).write_bytes(b""), ERROR, "face images unreadable"),
    "not square": (
        lambda d: [draw(p, (16, 12)) for p in (d.root / "face").glob("a_*")], WARNING, "face images not square"
    ),
    "sizes": (lambda d: draw(d.image("hand_l", 0), (20, 20)), WARNING, "hand_l images of several sizes"),
    "grey": (lambda d: draw(d.image("face", 4), (16, 16), "L"), WARNING, "face images not RGB"),
    "names": (
        lambda d: d.image("face", 4).rename(d.root / "face" / "a_f4.jpg"), WARNING, "face names"
    ),
    "pose shape": (lambda d: d.pose(lambda p: p.reshape(FRAMES, 1, 13, 3)), ERROR, "pose shape"),
    "pose columns": (lambda d: d.pose(lambda p: p[:, :37]), ERROR, "pose shape"),
    "never sure": (
        lambda d: d.pose(lambda p: p * np.tile([1, 1, 0.1], 13).astype("f4")), WARNING, "pose never confident"
    ),
    "around 0": (lambda d: d.pose(put(dict.fromkeys(range(0, 18, 3), -0.2))), WARNING, "pose around 0"),
    "no rows": (lambda d: d.pose(lambda p: p[:0]), ERROR, "pose shape"),
    "landmarks": (lambda d: d.pose(lambda p: p[:, :36]), ERROR, "number of landmarks"),
    "float64": (lambda d: d.pose(lambda p: p.astype(np.float64)), WARNING, "pose type"),
    "nan": (lambda d: d.pose(put({4: np.nan}, 1)), ERROR, "pose not finite"),
    "infinite": (lambda d: d.pose(put({2: np.inf})), ERROR, "pose not finite"),
    "pixels": (lambda d: d.pose(put({0: 320.0, 1: 240.0})), ERROR, "pose out of range"),
    "confidence": (lambda d: d.pose(put({2: 1.5})), ERROR, "pose confidence"),
    "percent": (lambda d: d.pose(put({5: -0.1})), ERROR, "pose confidence"),
    "no key": (lambda d: np.savez(d.root / "pose" / "a.npz", keypoints=np.zeros(3)), ERROR, "pose unreadable"),
    "no npz": (lambda d: (d.root / "pose" / "a.npz").write_bytes(b"PK\x03\x04 no"), ERROR, "pose unreadable"),
    "cut npz": (lambda d: cut_short(d.root / "pose" / "a.npz"), ERROR, "pose unreadable"),
    "mask length": (lambda d: d.pose(miss_hand_l=np.zeros(3, bool)), WARNING, "miss_hand_l"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_clip_is_found_alone(name, data):
    break_it, severity, kind = BREAKS[name]
    break_it(data)
    assert data.findings() == {(severity, "a", kind)}


ROWS = {name: f"{name};texto {name};5;1.0;5" for name in "abcd"}
TABLES = {
    "no metadata": ([ROWS[n] for n in "bcd"], "abc", "d", {(ERROR, "a", "in an index without metadata")}),
    "no index": ([ROWS[n] for n in "abcd"], "bc", "d", {(WARNING, "a", "in no index")}),
    "two splits": ([ROWS[n] for n in "abcd"], "abc", "da", {(ERROR, "a", "in two splits")}),
    "no text": (["a; ;5;1.0;5", *(ROWS[n] for n in "bcd")], "abc", "d", {(ERROR, "a", "empty text")}),
    "same text": (
        ["a;texto d;5;1.0;5", *(ROWS[n] for n in "bcd")], "abc", "d", {(WARNING, "d", "text used before")}
    ),
    "fps": (["a;texto a;25;1.0;5", *(ROWS[n] for n in "bcd")], "abc", "d",
            {(WARNING, "a", "fps differs from the metadata")}),
    "duration": (["a;texto a;5;3;5", *(ROWS[n] for n in "bcd")], "abc", "d",
                 {(WARNING, "a", "fps differs from the metadata")}),
    "within tolerance": (["a;texto a;5.9;1.0;5", *(ROWS[n] for n in "bcd")], "abc", "d", set()),
    "frame count": (["a;texto a;5;1.0;9", *(ROWS[n] for n in "bcd")], "abc", "d",
                    {(WARNING, "a", "frame_count differs from the metadata")}),
    "twice in an index": ([ROWS[n] for n in "abcd"], "abca", "d",
                          {(ERROR, "train.csv", "index cannot be read"), (WARNING, "a", "in no index"),
                           (WARNING, "b", "in no index"), (WARNING, "c", "in no index")}),
    "twice in the metadata": ([*ROWS.values(), "a;otro;5;1.0;5"], "abc", "d",
                              {(ERROR, "meta.csv", "metadata cannot be read")}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_do_not_fit_each_other(name, data):
    *tables, expected = TABLES[name]
    data.tables(*tables)
    assert data.findings() == expected


def test_landmarks_as_the_model_wants_them(data):
    assert data.findings(landmarks=13) == set()
    assert data.findings(landmarks=33) == {(ERROR, name, "number of landmarks") for name in "abcd"}


def test_a_hand_counts_as_missing_where_the_pose_file_says_so(data):
    data.image("hand_l", 0).unlink()
    data.pose(miss_hand_l=np.array([True, True, True, False, False]))
    data.findings()
    assert data.report.clips["a"].seen == {"hand_l": 2, "hand_r": FRAMES}
    assert data.report.clips["a"].images["hand_l"] == FRAMES - 1


def test_what_is_not_there_cannot_be_checked(data):
    shutil.rmtree(data.root / "hand_l")
    with pytest.raises(UserError, match=r"--hand-left-dir .*hand_l: no such directory"):
        data.findings()
    (data.root / "hand_l").mkdir()
    (data.root / "val.csv").unlink()
    with pytest.raises(UserError, match=r"index val .*val\.csv: no such file"):
        data.findings()


def test_real_streams_keep_the_contract(real_clips):
    """Lost hands are legal; in two of the clips one hand is never seen."""
    indices = {split: real_clips / "index" / f"{split}.csv" for split in ("train", "val", "test")}
    report = check_data_set(folders_under(real_clips / "processed"), real_clips / "meta.csv", indices)
    assert len(report.clips) == 8
    assert report.count(ERROR) == 0
    assert {(finding.clip, finding.kind) for finding in report.findings} == {
        ("slp_asl_wrong_what", "no hand_l images"), ("slp_pose_test_video", "no hand_l images")
    }  # fmt: skip


def test_texts_that_a_tokenizer_cuts_or_does_not_know(data, tmp_path):
    tokenizer = train_tokenizer(["texto a"], tmp_path, 300)
    data.tables([f"{name};texto {name};5;1.0;{FRAMES}" for name in "abc"] + ["d;texto mucho más largo;;;"], "abc", "d")
    assert data.findings(tokenizer=tokenizer, max_target_length=12) == {(WARNING, "d", "text is cut")}
    (found,) = data.report.findings
    assert found.detail == f"{len(tokenizer('texto mucho más largo')['input_ids'])} tokens, --max-target-length 12"
    assert data.findings(tokenizer=tokenizer) == set()
