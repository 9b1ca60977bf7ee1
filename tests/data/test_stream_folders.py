"""Folders in which a person sees frames and a program does not."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from slt_jax.data.clip_files import scan
from slt_jax.data.contract import check_data_set
from slt_jax.data.metadata import ClipRow, read_metadata, select
from slt_jax.data.packs import open_pack
from slt_jax.data.splits import usable
from slt_jax.data.stream_folders import check_streams
from slt_jax.errors import UserError
from tests.data.packed import IDS, pack_of


def rename(change):
    def apply(folder):
        for path in sorted(folder.iterdir()):
            path.rename(folder / change(path.name))

    return apply


def into_folders(folder):
    for path in sorted(folder.iterdir()):
        (folder / path.name[0]).mkdir(exist_ok=True)
        path.rename(folder / path.name[0] / path.name)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / ".DS_Store").touch()


KINDS = {
    "another ending": (rename(lambda name: name.replace(".jpg", ".webp")), r"6 \.webp files \(a_f000000\.webp\)"),
    "no f": (rename(lambda name: name.replace("_f", "_")), r"6 \.jpg files \(a_000000\.jpg\)"),
    "no number": (rename(lambda name: name + "~"), r"6 \.jpg~ files"),
    "folders": (into_folders, r"2 folders \(a\)"),
    "empty": (empty, "nothing;"),
    "not UTF-8": (rename(lambda name: name.replace("_f", "\udcf1")), r"\(a\\udcf1000000\.jpg\)"),
}


@pytest.mark.parametrize("stream", ["face", "hand_l"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_instead_is_told(factory, kind, stream):
    change, found = KINDS[kind]
    factory.write("a", 3)
    factory.write("b", 3)
    change(factory.root / stream)
    (factory.root / "meta.csv").write_text("id;text\na;one\nb;two\n")
    (factory.root / "train.csv").write_text("id\na\nb\n")
    flag = {"face": "--face-dir", "hand_l": "--hand-left-dir"}[stream]
    message = rf"{flag} .*{stream}: has no frame of the 2 clips, it holds .*{found}.*<id>_f%06d\.jpg or \.png"
    clips = [ClipRow("a", "one"), ClipRow("b", "two")]
    with pytest.raises(UserError, match=message) as error:
        usable(clips, scan(factory.dirs, ["a", "b"]), 13, "--train-index", skip_bad_clips=True)
    assert str(error.value).isprintable()
    report = check_data_set(factory.dirs, factory.root / "meta.csv", {"train": factory.root / "train.csv"})
    assert str(error.value) in [finding.detail for finding in report.findings if finding.severity == "error"]


def test_one_clip_may_lack_what_others_have(factory):
    factory.write("a", 3, without={"face": [0, 1, 2]})
    factory.write("b", 3, without={"hand_l": [0, 1, 2], "hand_r": [0, 1, 2]})
    factory.write("c", 3)
    files = scan(factory.dirs, ["a", "b", "c", "absent"])
    check_streams(files.values())
    for video_id in ("a", "b", "c"):
        check_streams([files[video_id]])
    check_streams([files["absent"]])  # an error of its own
    (factory.root / "hand_l" / "notes.txt").touch()
    check_streams([files["b"]])


def test_one_clip_alone_may_show_no_hand(factory):
    factory.write("a", 3, without={"hand_l": [0, 1, 2]})
    check_streams(scan(factory.dirs, ["a"]).values())
    rename(lambda name: name.replace(".jpg", ".gif"))(factory.root / "face")
    with pytest.raises(UserError, match=r"no frame of the clip, it holds 3 \.gif files"):
        check_streams(scan(factory.dirs, ["a"]).values())


def test_frames_of_other_clips_are_no_faces_of_these(factory):
    factory.write("a", 3, without={"face": [0, 1, 2]})
    factory.write("b", 3, without={"face": [0, 1, 2]})
    factory.write("c", 3)
    with pytest.raises(UserError, match=r"has no frame of the 2 clips, it holds 3 frames of other clips \(c_f000000"):
        check_streams(scan(factory.dirs, ["a", "b"]).values())


def test_no_clip_with_any_file_is_told_by_what_is_there(factory):
    factory.write("a", 3, pose=False)
    rename(lambda name: name.replace(".jpg", ".webp"))(factory.root / "face")
    for stream in ("hand_l", "hand_r"):
        empty(factory.root / stream)
    with pytest.raises(UserError, match=r"--face-dir .*has no frame of the clip, it holds 3 \.webp files"):
        usable([ClipRow("a", "one")], scan(factory.dirs, ["a"]), 13, "--train-index", skip_bad_clips=False)


def test_a_pack_without_faces_is_told(folders):
    for path in (folders.root / "face").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"--packs .*pack: has no frame of the 5 clips in the stream face"):
        check_streams(open_pack(pack_of(folders)).files(IDS).values())


@pytest.mark.parametrize("digits", ["99999999999999999999", "20240101120000"])
def test_a_file_whose_number_is_no_frames_is_named(factory, digits):
    factory.write("a", 2)
    name = f"a_f{digits}.jpg"
    shutil.copy(factory.root / "face" / "a_f000000.jpg", factory.root / "face" / name)
    with pytest.raises(UserError, match=f"'{name}' would be frame {digits} of its clip; frames are counted from 0"):
        scan(factory.dirs, ["a"])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_written_in_two_ways(factory, form):
    """As one character, or as a letter and its accent, as macOS writes the names of files."""
    factory.write("señal", 3)
    plain = scan(factory.dirs, ["señal"])["señal"]
    for stream in ("face", "hand_l", "hand_r", "pose"):
        rename(lambda name: unicodedata.normalize(form, name))(factory.root / stream)
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "señal")
    (factory.root / "meta.csv").write_text(f"id;text\n{unicodedata.normalize('NFC', 'señal')};one\n", encoding="utf-8")
    (row,) = select([other], read_metadata(factory.root / "meta.csv"), "--train-index")
    assert row.text == "one"
    found = scan(factory.dirs, [other])[other]
    assert found.pose is not None
    for stream in ("face", "hand_l", "hand_r"):
        np.testing.assert_array_equal(found.frames[stream].numbers, plain.frames[stream].numbers)
        assert all(Path(found.frames[stream].path(other, position)).is_file() for position in range(3))
