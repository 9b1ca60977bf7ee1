"""Packs behind a URL: fetched once, whole or not at all."""

from pathlib import Path

import fsspec
import pytest

from slt_jax.cli.pack_dataset import main
from slt_jax.data import shards
from slt_jax.data.clip_files import BadClip, scan
from slt_jax.data.packs import open_pack
from slt_jax.errors import UserError
from tests.data.packed import IDS, loader, pack_of
from tests.data.test_loader import assert_equal


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "slt_jax" / "packs"


def upload(pack: str, url: str) -> None:
    files = fsspec.filesystem("memory")
    for path in Path(pack).iterdir():
        files.pipe(f"{url}/{path.name}", path.read_bytes())


def test_a_remote_pack_is_fetched_once(folders, cache, monkeypatch):
    url = "memory://bucket/fetched"
    upload(pack_of(folders), url)
    fetched, fetch = [], shards._fetch
    monkeypatch.setattr(shards, "_fetch", lambda url, target: (fetched.append(url), fetch(url, target)))
    loose = scan(folders.dirs, IDS)
    for _ in range(2):
        files = open_pack(url).files(IDS)
        assert_equal(loader(loose, train=True).epoch(), loader(files, train=True).epoch())
    count = len(open_pack(url).shards)
    assert sorted(fetched) == [f"{url}/clips-{n:05d}.array_record" for n in range(count)] + [f"{url}/index.json"] * 3
    assert main(["verify", url]) == 0

    folders.image(folders.root / "face" / "whole_f000002.jpg", 3)  # written again at its old place
    upload(pack_of(folders, "again"), url)
    files = open_pack(url).files(IDS)
    assert_equal(loader(scan(folders.dirs, IDS)).epoch(), loader(files).epoch())


def test_workers_fetch_what_a_url_names(folders, cache):
    pack = pack_of(folders)
    files = open_pack(f"file://{pack}").files(IDS)
    with loader(files, num_workers=2, batch_size=1) as ours:
        assert_equal(loader(scan(folders.dirs, IDS), batch_size=1).epoch(), ours.epoch())
    (place,) = cache.iterdir()
    assert not list(place.glob("*.tmp"))
    assert len(list(place.glob("*.array_record"))) == len(open_pack(pack).shards)


def test_what_cannot_be_fetched_is_no_bad_clip(folders, cache):
    """Clips are not skipped because the network is down, and half a file never takes its place."""
    url = "memory://bucket/broken"
    upload(pack_of(folders), url)
    files = fsspec.filesystem("memory")
    files.pipe(f"{url}/clips-00000.array_record", b"half")
    with pytest.raises(UserError, match=r"broken/clips-00000\.array_record: is not what the index says") as error:
        list(loader(open_pack(url).files(IDS), skip_bad_clips=True).epoch())
    assert not isinstance(error.value, BadClip)
    files.rm(f"{url}/clips-00000.array_record")
    with pytest.raises(UserError, match=r"broken/clips-00000\.array_record: cannot be fetched"):
        list(loader(open_pack(url).files(IDS), skip_bad_clips=True).epoch())
    assert not list(cache.rglob("clips-00000.array_record"))
    with pytest.raises(UserError, match=r"--packs memory://nowhere/index\.json: cannot be fetched"):
        open_pack("memory://nowhere")
    with pytest.raises(UserError, match=r"--packs nothing://at/all/index\.json: cannot be fetched"):
        open_pack("nothing://at/all")
