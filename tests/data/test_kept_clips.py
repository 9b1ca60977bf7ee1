"""Decoded frames that are kept in memory are those of the files, in every process, and take what was allowed."""

import numpy as np
import pytest

from slt_jax.data.clip_files import scan
from slt_jax.data.packs import open_pack
from slt_jax.training.memory import keep_decoded
from tests.data.packed import IDS, loader, pack_of
from tests.data.test_loader import assert_equal

PLENTY = 10**9


def files_of(folders, packed):
    return open_pack(pack_of(folders)).files(IDS) if packed else scan(folders.dirs, IDS)


@pytest.mark.parametrize("packed", [False, True], ids=["files", "pack"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches_epoch_after_epoch(folders, packed, workers):
    options = {"train": True, "flip_probability": 0.5}
    files = files_of(folders, packed)
    with loader(files, **options) as plain, loader(files, num_workers=workers, **options) as keeping:
        assert keeping.keep_frames(PLENTY) > 0
        for epoch in range(3):
            assert_equal(plain.epoch(epoch), keeping.epoch(epoch))


@pytest.mark.parametrize(
    ("packed", "workers", "gone"),
    [(False, 0, ("*.jpg", "*.npz")), (True, 0, ("*.array_record",)), (False, 2, ("*.jpg",))],
)
def test_the_next_epoch_reads_no_file(folders, packed, workers, gone):
    """With two processes, what one has decoded the other finds; each reads its own poses."""
    with loader(files_of(folders, packed), num_workers=workers) as keeping:
        keeping.keep_frames(PLENTY)
        first = list(keeping.epoch())
        keeping.close()  # and what it has read ahead
        for pattern in gone:
            found = list(folders.root.parent.rglob(pattern))
            assert found
            for file in found:
                file.write_bytes(bytes(file.stat().st_size))
        assert_equal(first, keeping.epoch())


def test_all_frames_or_none(folders):
    files = scan(folders.dirs, IDS)
    counts = [[len(frames.numbers) for frames in clip.frames.values()] for clip in files.values()]
    needed = sum(map(sum, counts)) * (16 * 16 * 3 + 1) + sum(map(max, counts)) * 12 * 13  # and 13 landmarks
    with loader(files) as keeping:
        assert [keeping.keep_frames(limit) for limit in (0, needed - 1)] == [0, 0]
        assert needed <= keeping.keep_frames(needed) < needed + 2**17
    with loader(files, streams=("pose",)) as keeping:
        assert keeping.keep_frames(PLENTY) == 0


def test_a_frame_that_cannot_be_read_stays_an_error(folders, caplog):
    files = scan(folders.dirs, IDS)
    (folders.root / "face" / "whole_f000001.jpg").write_bytes(b"no image")
    with loader(files, skip_bad_clips=True) as plain, loader(files, skip_bad_clips=True) as keeping:
        keeping.keep_frames(PLENTY)
        for _ in range(2):
            assert_equal(plain.epoch(), keeping.epoch())
        assert keeping.bad_clips == plain.bad_clips
        assert list(keeping.bad_clips) == ["whole"]


def test_the_share_is_of_what_is_free(folders, monkeypatch, capsys):
    """The validation split gets what training leaves. What the step may take, by guess or as it said, is not free."""
    from slt_jax.runtime.sharding import device_mesh

    mesh, small = device_mesh(), {"face": np.zeros((1, 2, 16, 16, 3), np.uint8)}
    files = scan(folders.dirs, IDS)
    with loader(files, train=True) as train, loader(files) as val:
        needed = train.keep_frames(PLENTY)
        free = 2 * 16 * 16 * 3 * 10_000  # what the step may take
        monkeypatch.setattr("slt_jax.training.memory.promised_bytes", lambda: None)
        for share, more, kept in ((0.5, 2 * needed, 1), (0.5, 4 * needed, 2), (0.0, 10**12, 0), (0.5, 0, 0)):
            monkeypatch.setattr("slt_jax.training.memory.free_bytes", lambda more=more: free + more)
            assert keep_decoded((train, val), share, small, mesh) == kept * needed
            assert ("hold decoded frames" in capsys.readouterr().out) == bool(kept)
        monkeypatch.setattr("slt_jax.training.memory.free_bytes", lambda: 3 * needed)
        for promised, kept in ((0, 1), (2 * needed, 0)):
            monkeypatch.setattr("slt_jax.training.memory.promised_bytes", lambda promised=promised: promised)
            assert keep_decoded((train, val), 0.5, small, mesh) == kept * needed
