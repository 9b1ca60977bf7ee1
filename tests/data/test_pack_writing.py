"""slt-pack writes whole packs or none, and notices any change of the pack and of the folders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slt_jax.cli.pack_dataset import main
from slt_jax.config import DataConfig
from slt_jax.data.clip_files import BadClip, scan
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packs import open_pack
from slt_jax.data.splits import find_files, usable
from slt_jax.errors import UserError
from tests.data.packed import IDS, loader, pack_of
from tests.data.test_loader import assert_equal, seen

ROOT = Path(__file__).resolve().parents[2]


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
