"""A pack is the folders it was written from: the same batches, the same errors."""

import logging
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from slt_jax.config import DataConfig
from slt_jax.data.clip_files import BadClip, scan
from slt_jax.data.feature_cache import fingerprint
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packs import open_pack
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
