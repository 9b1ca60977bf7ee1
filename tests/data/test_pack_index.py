"""The index of a pack: columns now, lines in its first version; neither is believed."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from slt_jax.data.clip_files import scan
from slt_jax.data.feature_cache import Features
from slt_jax.data.packs import from_runs, open_pack, to_runs
from slt_jax.errors import UserError
from tests.data.packed import IDS, pack_of


def test_numbers_as_runs():
    for numbers in ([], [0], [5, 6, 7], [0, 2, 3, 9, 10, 11]):
        array = np.array(numbers, np.int64)
        np.testing.assert_array_equal(from_runs(to_runs(array)), array)
    assert to_runs(np.array([0, 1, 2, 5])) == [[0, 3], [5, 1]]


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
