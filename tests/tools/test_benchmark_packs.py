"""The benchmark of packs, small: every figure is there, and the cache is emptied one way or the other."""

from tests.tools.test_benchmark import benchmark
from tools.benchmarks import packs


def test_packs(tmp_path, monkeypatch, capsys):
    drop = tmp_path / "drop_caches"  # not the system's, which would slow down everybody else
    drop.touch()
    monkeypatch.setattr(packs, "DROP", drop)
    small = ["--clips", "5", "--frames", "3", "--image-size", "16", "--rounds", "2", "--disk", str(tmp_path)]
    results = benchmark("packs", tmp_path, *small)
    assert results["facts"]["files"] == 5 * (3 * 3 + 1) + 2
    assert results["facts"]["cache emptied by"] == "drop_caches"
    assert drop.read_text() == "3"
    assert list(results["results"]) == [
        "looking before a run", "reading", "batches", "batches from the page cache"
    ]  # fmt: skip
    for result in results["results"].values():
        packed, loose = (result["seconds_per_clip"][name]["median"] for name in ("packed", "loose"))
        assert result["loose_over_packed"]["median"] == loose / packed
        assert result["packed_clips_per_second"] == 1 / packed
    assert "loose / packed: median" in capsys.readouterr().out
    assert not [path for path in tmp_path.iterdir() if path.name not in ("results.json", "drop_caches")]


def test_without_root_files_are_forgotten_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "DROP", tmp_path / "none")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    assert packs.forget([file]).startswith("posix_fadvise")
    assert file.read_bytes() == b"content"
