"""A pack is the folders it was written from: the same batches, the same errors, and it notices any change."""

import base64
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from slt_jax.cli.pack_dataset import main
from slt_jax.config import DataConfig
from slt_jax.data.clip_files import BadClip, scan
from slt_jax.data.feature_cache import Features, fingerprint
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packs import from_runs, open_pack, to_runs
from slt_jax.data.quality import report_quality
from slt_jax.data.splits import find_files, usable
from slt_jax.errors import UserError
from slt_jax.evaluation.checkpoints import _data
from slt_jax.evaluation.clip_selection import open_clips
from slt_jax.pictures.sheet import clip_sheet
from slt_jax.training.feature_pass import _images
from tests.base.test_places import files_of_at_most
from tests.data.packed import IDS, loader, pack_of
from tests.data.test_loader import assert_equal, seen

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_those_of_the_folders(folders, workers):
    loose, packed = scan(folders.dirs, IDS), open_pack(pack_of(folders)).files(IDS)
    options = {"train": True, "flip_probability": 0.5}
    with loader(packed, num_workers=workers, **options) as ours:
        for epoch in (0, 1):
            assert_equal(loader(loose, **options).epoch(epoch), ours.epoch(epoch))


def test_what_is_looked_at_before_a_run_is_the_same(folders, caplog):
    caplog.set_level(logging.INFO)
    files = scan(folders.dirs, IDS), open_pack(pack_of(folders)).files(IDS)
    clips = [ClipRow(video_id, "text", fps=30.0, duration=1.0, frame_count=5) for video_id in IDS]
    reports = []
    for own in files:
        found = usable(clips, own, 13, "--train-index", skip_bad_clips=False)
        problems = report_quality(found.clips, own)
        reports.append((found.frames, problems, [record.getMessage() for record in caplog.records]))
        caplog.clear()
    assert reports[0] == reports[1]
    assert reports[0][0] == {"whole": 5, "gaps": 9, "named": 4, "poseless": 6, "long": 30}
    assert len(reports[0][1]) == 4
    for own in files:
        with pytest.raises(UserError, match=r"pose.whole\.npz: 13 landmarks \(39 columns\), expected 33; set --pose"):
            usable(clips, own, 33, "--train-index", skip_bad_clips=True)


def test_clips_that_cannot_be_read_are_the_same_errors(folders, caplog):
    """What a look finds is known from the index; what only decoding finds is found when it is decoded."""
    (folders.root / "pose" / "gaps.npz").write_bytes(b"no npz")
    inside = folders.root / "face" / "long_f000000.jpg"
    inside.write_bytes(b"\xff\xd8 not what it seems \xff\xd9")
    pack = pack_of(folders)
    ids = (*IDS, "unknown")
    clips = [ClipRow(video_id, "text") for video_id in ids]
    told = {}
    for place, files in ((str(folders.root), scan(folders.dirs, ids)), (pack, open_pack(pack).files(ids))):
        with pytest.raises(BadClip, match=r"gaps\.npz: cannot be read as an npz file"):
            usable(clips, files, 13, "--train-index", skip_bad_clips=False)
        found = usable(clips, files, 13, "--train-index", skip_bad_clips=True)
        assert [clip.video_id for clip in found.clips] == ["whole", "named", "poseless", "long"]
        with pytest.raises(BadClip) as error:
            list(loader({"long": files["long"]}).epoch())
        skipping = loader({i: files[i] for i in ("whole", "long")}, skip_bad_clips=True)
        assert seen(skipping.epoch()) == ["whole"]
        told[place] = found.skipped["gaps"], str(error.value).replace(place, "ROOT"), skipping.bad_clips.keys()
        assert "unknown" in found.skipped["unknown"]
    assert told[str(folders.root)] == told[pack]
    assert told[pack][1] == "ROOT/face/long_f000000.jpg: cannot be read as an image (no jpg or png)"


def test_an_evaluation_and_its_pictures_read_packs(folders):
    pack, index = pack_of(folders), folders.root / "index.csv"
    index.write_text("\n".join(IDS))
    data = DataConfig(packs=pack, metadata_csv=str(folders.root / "meta.csv"))
    found = open_clips(index, data, 13)
    loose = scan(folders.dirs, IDS)
    assert list(found.frames) == list(IDS)
    for video_id in IDS:
        ours, theirs = (np.asarray(clip_sheet(files[video_id])) for files in (found.files, loose))
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="--metadata-csv is not given"):
        open_clips(index, DataConfig(packs=pack), 13)


def test_an_evaluation_inherits_the_pack_unless_folders_are_given(folders):
    saved = SimpleNamespace(config={"data": {"packs": "packed", "face_dir": "face", "metadata_csv": "meta.csv"}})
    assert _data(saved, {}).packs == "packed"
    assert _data(saved, {"packs": "moved"}).packs == "moved"
    assert _data(saved, {"face_dir": "elsewhere"}).packs is None


def test_features_are_computed_from_the_same_images(folders):
    loose, packed = scan(folders.dirs, IDS), open_pack(pack_of(folders)).files(IDS)
    with ThreadPoolExecutor(2) as pool:
        for video_id in IDS:
            images = [list(_images(files[video_id].loaded(), 16, pool)) for files in (loose, packed)]
            assert [place[:2] for place in images[0]] == [place[:2] for place in images[1]]
            np.testing.assert_array_equal(*[[image for *_, image in of] for of in images])
    folders.image(folders.root / "face" / "whole_f000002.jpg", 3)
    again = open_pack(pack_of(folders, "again")).files(IDS)
    assert [fingerprint(packed[i]) == fingerprint(again[i]) for i in IDS] == [False, True, True, True, True]


def test_shards_are_bounded_and_little_travels_to_workers(folders):
    pack = open_pack(pack_of(folders, shard_bytes=20_000))
    records = {}
    for entry in pack.clips.values():
        records.setdefault(entry["shard"], []).append(entry["size"])
    assert len(records) == len(pack.shards) > 2
    for sizes in records.values():
        assert sum(sizes) <= 20_000 or len(sizes) == 1
    assert len(pickle.dumps(pack.files(["whole"]))) < 2000


def test_a_full_disk_leaves_no_part_of_a_pack(folders):
    largest = max(entry["size"] for entry in open_pack(pack_of(folders)).clips.values())
    with files_of_at_most(largest), pytest.raises(OSError, match="array_record"):
        pack_of(folders, "other", shard_bytes=1)
    assert not list((folders.root.parent / "other").iterdir())


def test_numbers_as_runs():
    for numbers in ([], [0], [5, 6, 7], [0, 2, 3, 9, 10, 11]):
        array = np.array(numbers, np.int64)
        np.testing.assert_array_equal(from_runs(to_runs(array)), array)
    assert to_runs(np.array([0, 1, 2, 5])) == [[0, 3], [5, 1]]


# --- writing ------------------------------------------------------------------------------------------------------


def command(folders, *arguments) -> int:
    return main([arguments[0], *map(str, arguments[1:])])


def test_the_command_writes_and_says_what_it_left_out(folders, capsys):
    pack = folders.root.parent / "pack"
    (folders.root / "face" / "gaps_f000001.jpg").write_bytes(b"")
    assert command(folders, "write", "--root", folders.root, "--output", pack) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("not packed: ")
    assert "gaps_f000001.jpg: cannot be read as an image" in out[0]
    assert out[1].startswith("1 clips cannot be read")
    assert out[2].startswith(f"written: {pack}: 4 clips in 1 files, ")
    assert command(folders, "verify", pack) == 0
    assert command(folders, "verify", pack, "--root", folders.root) == 0
    assert capsys.readouterr().out.splitlines() == ["5 clips in 1 files, 0 problems"] * 2

    assert command(folders, "write", "--root", folders.root, "--output", pack) == 2
    assert f"--output {pack}: holds a pack" in capsys.readouterr().err
    index = folders.root / "some.csv"
    index.write_text("whole\nlong\n")
    assert command(folders, "write", "--root", folders.root, "--output", pack / "some", "--index", index) == 0
    assert list(open_pack(str(pack / "some")).clips) == ["whole", "long"]


def test_a_pack_of_some_streams(folders, capsys):
    root, pack = folders.root, folders.root.parent / "pack"
    for name in ("face", "hand_l", "hand_r"):
        shutil.rmtree(root / name)
    ids = ("whole", "gaps", "long")
    (root / "meta.csv").write_text("id;texto\n" + "".join(f"{i};text of {i}\n" for i in ids))
    write = ["write", "--root", root, "--output", pack]
    assert command(folders, *write) == 2
    assert "--face-dir" in capsys.readouterr().err
    assert command(folders, *write, "--streams", "nose") == 2
    assert "--streams, model.streams: unknown stream 'nose'" in capsys.readouterr().err
    assert command(folders, *write, "--streams", "pose") == 0
    assert command(folders, "verify", pack, "--root", root) == 0
    assert capsys.readouterr().out.endswith("3 clips in 1 files, 0 problems\n")
    with pytest.raises(
        UserError, match=r"was written without face, hand_l, hand_r, of pose alone; write the pack again"
    ):
        open_pack(str(pack))
    loose = scan({"pose": root / "pose"}, ids, ["pose"])
    packed = find_files(DataConfig(packs=str(pack)), ids, ["pose"])
    for files in (loose, packed):
        assert usable([ClipRow(i, "x") for i in ids], files, 13, "--train-index", skip_bad_clips=False).frames == {
            "whole": 5, "gaps": 9, "long": 30,
        }  # fmt: skip
    assert_equal(loader(loose, streams=("pose",)).epoch(), loader(packed, streams=("pose",)).epoch())


def test_mistakes_are_one_line(folders, capsys, tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text("whole\nnobody\n")
    root = ["--root", folders.root]
    for arguments, message in (
        (["write", "--output", tmp_path / "p"], "--face-dir is not given, nor --root"),
        (["write", *root, "--output", tmp_path / "p", "--index", bad], "1 of 2 clips have no row in the metadata"),
        (["write", *root, "--output", tmp_path / "p", "--shard-mb", 0], "--shard-mb 0: must be at least 1"),
        (["write", "--root", tmp_path / "x", "--output", tmp_path / "p"], "x"),
        (["write", *root, "--output", bad], f"--output {bad}: is a file; name a folder"),
        (["verify", tmp_path], "there is no index.json"),
    ):
        assert command(folders, *arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1


WRITER = """
import sys
from pathlib import Path
from slt_jax.data import packing
from slt_jax.cli.pack_dataset import main
pack_clip = packing._pack_clip
def slow(clip, files):
    if clip.video_id == "long":
        print("ready", flush=True)
        sys.stdin.read()
    return pack_clip(clip, files)
packing._pack_clip = slow
packing.THREADS = 1
main(sys.argv[1:])
"""


def test_a_killed_writer_leaves_no_pack(folders):
    pack = folders.root.parent / "pack"
    arguments = ["write", "--root", str(folders.root), "--output", str(pack), "--shard-mb", "1"]
    process = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, cwd=ROOT)  # fmt: skip
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    assert [path.suffix for path in pack.iterdir()] == [".tmp"]
    with pytest.raises(UserError, match=r"there is no index\.json"):
        open_pack(str(pack))
    (pack / "clips-00007.array_record").write_bytes(b"of an earlier one")
    assert main(arguments) == 0
    assert sorted(path.name for path in pack.iterdir()) == ["clips-00000.array_record", "index.json"]
    assert main(["verify", str(pack)]) == 0


# --- damage -------------------------------------------------------------------------------------------------------


def change(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def test_verify_finds_damage_by_clip(folders, capsys):
    pack = Path(pack_of(folders, shard_bytes=10**9))
    shard = pack / "clips-00000.array_record"
    shard.write_bytes(shard.read_bytes().replace(b"text of gaps", b"text of apes"))
    assert main(["verify", str(pack)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "clips-00000.array_record: is not the file that was written (checksum)"
    assert out[1].startswith(f"gaps: {shard}: clip gaps cannot be read (")
    assert out[2] == "5 clips in 1 files, 2 problems"
    files = open_pack(str(pack)).files(IDS)
    with pytest.raises(BadClip, match=r"clips-00000\.array_record: clip gaps cannot be read"):
        list(loader(files).epoch())
    assert seen(loader(files, skip_bad_clips=True).epoch()) == ["whole", "named", "poseless", "long"]


def test_verify_finds_every_change_of_the_folders(folders, capsys):
    pack = pack_of(folders)
    root = folders.root
    folders.image(root / "face" / "whole_f000002.jpg", 3)
    (root / "hand_r" / "whole_f000004.jpg").unlink()
    folders.image(root / "hand_l" / "gaps_f000003.jpg", 3)
    np.savez(root / "pose" / "gaps.npz", pose=np.zeros((9, 39), np.float32))
    (root / "face" / "named_f1.jpeg").rename(root / "face" / "named_f000001.jpg")
    (root / "pose" / "long.npz").write_bytes(b"")
    meta = (root / "meta.csv").read_text().replace("text of poseless", "other") + "new;words\n"
    (root / "meta.csv").write_text(meta)
    folders.write("new", 3)
    assert main(["verify", pack, "--root", str(root)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[:5] == [
        "whole: face: frame 2 not as in the folder", "whole: hand_r: frame 4 not as in the folder",
        "gaps: hand_l: frame 3 not as in the folder", "gaps: pose: not as in the folder",
        "named: face: file names are not as in the folder",
    ]  # fmt: skip
    assert out[5] == "poseless: text is 'text of poseless' in the pack, 'other' in the metadata"
    assert out[6].startswith("long: cannot be read in the folders: ")
    assert out[7:] == ["new: is not in the pack", "5 clips in 3 files, 8 problems"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pack: (pack / "index.json").unlink(), r"there is no index\.json; is this the folder of a whole pack\?"),
        (lambda pack: (pack / "index.json").write_text("[1, 2"), "index.json is damaged; write the pack again"),
        (lambda pack: (pack / "index.json").write_text('{"format": "slt_jax pack", "version": 9}'), "another version"),
        (lambda pack: (pack / "clips-00001.array_record").unlink(), "array_record is missing; see slt-pack verify"),
        (lambda pack: os.truncate(pack / "clips-00001.array_record", 70_000), "has 70000 bytes, the index says"),
    ],
)
def test_a_pack_that_is_not_whole_is_told_at_once(folders, damage, message):
    pack = Path(pack_of(folders))
    damage(pack)
    with pytest.raises(UserError, match=message) as error:
        open_pack(str(pack))
    assert str(error.value).startswith(f"--packs {pack}: ")


def test_shards_of_another_pack_are_not_mistaken(folders):
    pack, other = Path(pack_of(folders)), folders.root.parent / "other"
    shutil.copytree(pack, other)
    first, second = (pack / f"clips-0000{n}.array_record" for n in (0, 1))
    index = json.loads((other / "index.json").read_text())
    index["shards"][0], index["shards"][1] = index["shards"][1], index["shards"][0]
    (other / "index.json").write_text(json.dumps(index))
    assert first.exists()
    assert second.exists()
    with pytest.raises(BadClip, match=r"the index says|should be is|cannot be read"):
        list(loader(open_pack(str(other)).files(IDS)).epoch())


def as_lines(pack: Path, change=lambda index: None) -> None:
    """The index as the first version wrote it, with an entry for each clip in place of columns."""
    index = json.loads((pack / "index.json").read_text())
    entries = [{"id": video_id} | entry for video_id, entry in open_pack(str(pack)).clips.items()]
    index |= {"version": 1, "clips": entries}
    change(index)
    shards, clips = (
        ",\n".join(map(json.dumps, index[name])) if isinstance(index[name], list) else "{}"
        for name in ("shards", "clips")
    )
    text = f'{{"format": "slt_jax pack", "version": 1, "shards": [\n{shards}\n], "clips": [\n{clips}\n]}}\n'
    (pack / "index.json").write_text(text)


def edit_lines(pack: Path, change) -> None:
    """The same, changed, in one line."""
    as_lines(pack)
    index = json.loads((pack / "index.json").read_text())
    change(index)
    (pack / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("chunk", [1 << 22, 200])
def test_an_index_of_the_first_version_is_read(folders, monkeypatch, chunk):
    (folders.root / "face" / "gaps_f000001.jpg").write_bytes(b"")
    pack = Path(pack_of(folders))
    now, loose = open_pack(str(pack)), scan(folders.dirs, IDS)
    as_lines(pack)
    monkeypatch.setattr("slt_jax.data.pack_index.CHUNK", chunk)
    then = open_pack(str(pack))
    assert dict(then.clips) == dict(now.clips)
    assert "bad" in then.clips["gaps"]
    ids = ["long", "nobody", "whole"]
    for files in (then.files(ids), now.files(ids)):
        assert list(files) == ids
        assert "nobody" in files["nobody"].record.bad
        for video_id in ("long", "whole"):
            assert files[video_id].frames["face"].numbers.tolist() == loose[video_id].frames["face"].numbers.tolist()


def put(what: str, **values):
    return lambda index: index[what][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("clips", id="/etc/cron.d/job"), r"id '/etc/cron\.d/job' has a / "),
        (put("clips", id="../../elsewhere"), r"id '\.\./\.\./elsewhere' has a / "),
        (put("clips", id=".."), "id '..' is the name of a folder"),
        (put("clips", id="a\0b"), "NUL"),
        (put("clips", id="\udcff"), "not UTF-8"),
        (put("clips", id="x" * 5000), "5000 bytes"),
        (put("clips", id=7), "is damaged"),
        (put("shards", name="/etc/passwd"), "shard '/etc/passwd' has a / "),
        (put("shards", name="../clips-00000.array_record"), "shard .* has a / "),
        (put("clips", face=[[0, 10**12]]), "is damaged"),
        (put("clips", face=[[0, -5]]), "is damaged"),
        (put("clips", face=7), "is damaged"),
        (put("clips", pose=[10**12, 39]), "is damaged"),
        (put("clips", shard=99), "is damaged"),
        (put("clips", sha256="zz"), "is damaged"),
        (put("clips", face=[[5, 2], [0, 3]]), "is damaged"),
        (put("clips", face=[[0, 3], [2, 3]]), "is damaged"),
        (put("clips", pose=[-1, -1]), "is damaged"),
        (lambda index: index.update(clips=[[]]), "is damaged"),
        (lambda index: index.update(clips={"a": 1}), "is damaged"),
    ],
)
def test_an_index_with_lines_is_not_believed(folders, change, message):
    pack = Path(pack_of(folders))
    edit_lines(pack, change)
    with pytest.raises(UserError, match=message) as error:
        open_pack(str(pack))
    assert str(error.value).startswith(f"--packs {pack}: ")
    assert "\n" not in str(error.value)


def spoiled(name, dtype, *values):
    """An index whose column `name` begins with these numbers."""

    def change(index):
        *path, last = name.split(".")
        place = index["clips"]
        for part in path:
            place = place[part]
        array = np.frombuffer(base64.b64decode(place[last]), dtype).copy()
        array[: len(values)] = values
        place[last] = base64.b64encode(array.tobytes()).decode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["clips"]["id"].__setitem__(0, "../../elsewhere"), r"id '\.\./\.\./elsewhere' has a / "),
        (lambda index: index["clips"]["id"].__setitem__(0, 7), "is damaged"),
        (lambda index: index["clips"]["id"].pop(), "is damaged"),
        (lambda index: index["clips"].update(size="%%%"), "is damaged"),
        (lambda index: index["clips"].update(size=7), "is damaged"),
        (lambda index: index["clips"].update(bad={"99": "x"}), "is damaged"),
        (lambda index: index["clips"].update(bad={"0": 7}), "is damaged"),
        (lambda index: index["clips"].update(bad={"0": "bad, and has frames"}), "is damaged"),
        (lambda index: index["clips"].pop("sha256"), "is damaged"),
        (lambda index: index.update(clips=[]), "is damaged"),
        (put("shards", name="../clips-00000.array_record"), "shard .* has a / "),
        (spoiled("shard", "<i8", 99), "is damaged"),
        (spoiled("record", "<i8", -1), "is damaged"),
        (spoiled("pose", "<i4", 10**9), "is damaged"),
        (spoiled("pose", "<i4", -1, 5), "is damaged"),
        (spoiled("face.ends", "<i8", 10**12), "is damaged"),
        (spoiled("face.ends", "<i8", -1), "is damaged"),
        (spoiled("face.runs", "<i4", 0, -5), "is damaged"),
        (spoiled("face.runs", "<i4", 0, 2**31 - 1), "is damaged"),
        (spoiled("face.runs", "<i4", -1, 1), "is damaged"),
    ],
)
def test_an_index_is_not_believed(folders, change, message):
    pack = Path(pack_of(folders))
    index = json.loads((pack / "index.json").read_text())
    change(index)
    (pack / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message) as error:
        open_pack(str(pack))
    assert str(error.value).startswith(f"--packs {pack}: ")
    assert "\n" not in str(error.value)


def test_a_deeply_nested_index_is_damaged(folders):
    pack = Path(pack_of(folders))
    (pack / "index.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        open_pack(str(pack))


def test_features_of_an_id_that_is_a_path_have_no_place(tmp_path):
    features = Features(tmp_path / "key", {})
    for video_id in (str(tmp_path / "outside"), "../../../outside", ".."):
        with pytest.raises(UserError, match=r"--feature-cache .* cannot be part of a file name"):
            features.path(video_id, mirrored=False)
    assert features.path("a", mirrored=False).is_relative_to(tmp_path)


def test_without_the_package_the_extra_is_named(folders, monkeypatch):
    pack = pack_of(folders)
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(UserError, match=r"pip install 'slt-jax\[packs\]'"):
        open_pack(pack)


def test_folders_are_read_where_no_pack_is_named(folders):
    given = dict(zip(("face_dir", "hand_left_dir", "hand_right_dir", "pose_dir"),
                     (folders.root / name for name in ("face", "hand_l", "hand_r", "pose")), strict=True))  # fmt: skip
    data = DataConfig(**{key: str(path) for key, path in given.items()})
    assert find_files(data, ["whole"])["whole"].record is None
    packed = DataConfig(**{key: str(path) for key, path in given.items()}, packs=pack_of(folders))
    assert find_files(packed, ["whole"])["whole"].record is not None  # the pack goes before them
