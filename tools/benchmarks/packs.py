"""Clips a second from packs and from loose files, with nothing of either in the page cache."""

import argparse
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from slt_jax.data.clip_files import ClipFiles, scan
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import ClipRow
from slt_jax.data.packing import write_pack
from slt_jax.data.packs import open_pack
from slt_jax.data.quality import report_quality
from slt_jax.data.splits import usable
from slt_jax.streams import IMAGES
from tools.benchmarks.problem import positive
from tools.benchmarks.timing import Seconds, alternate, as_text, ratios, summary, timed

LANDMARKS, PICTURES, QUALITY = 13, 64, 90
SHARD_BYTES = 256_000_000
DROP = Path("/proc/sys/vm/drop_caches")


def add_flags(top: argparse.ArgumentParser) -> None:
    top.add_argument("--clips", type=positive, default=200, metavar="N", help="clips to read (default: 200)")
    top.add_argument("--frames", type=positive, default=32, metavar="N", help="frames of each clip (default: 32)")
    top.add_argument("--image-size", type=positive, default=112, metavar="N", help="side of the crops (default: 112)")
    top.add_argument("--rounds", type=positive, default=3, metavar="N", help="turns of each side (default: 3)")
    top.add_argument("--disk", metavar="DIR", default=None, help="a folder on the disk to read from (default: /tmp's)")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=arguments.disk) as folder:
        return _measure(Path(folder), arguments)


def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    root, pack = folder / "loose", folder / "pack"
    clips = write_corpus(root, arguments.clips, arguments.frames, arguments.image_size)
    ids = [clip.video_id for clip in clips]
    folders = folders_under(root)
    write_pack(pack, clips, scan(folders, ids), shard_bytes=SHARD_BYTES)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    find = {"packed": lambda: open_pack(str(pack)).files(ids), "loose": lambda: scan(folders, ids)}
    files = {name: find_files() for name, find_files in find.items()}
    loaders = {name: loader(clips, source, arguments) for name, source in files.items()}
    works = {
        "looking before a run": {name: partial(look, clips, find_files) for name, find_files in find.items()},
        "reading": {name: partial(read, clips, source) for name, source in files.items()},
        "batches": {name: partial(batches, epochs) for name, epochs in loaders.items()},
    }
    results, way = {}, ""
    for what, sides in works.items():

        def cold(work) -> Seconds:
            nonlocal way
            way = forget(paths)
            return timed(work)

        taken = alternate({name: partial(cold, work) for name, work in sides.items()}, arguments.rounds)
        results[what] = compared(taken, len(clips))
    for work in works["batches"].values():
        work()
    results["batches from the page cache"] = compared(
        alternate({name: partial(timed, work) for name, work in works["batches"].items()}, arguments.rounds), len(clips)
    )
    facts = {
        "clips": len(clips), "files": len(paths), "megabytes": sum(path.stat().st_size for path in paths) / 2e6,
        "cache emptied by": way, "disk": arguments.disk or tempfile.gettempdir(),
    }  # fmt: skip
    report(facts, results)
    return {"facts": facts, "results": results}


# --- the data -----------------------------------------------------------------------------------------------------


def write_corpus(root: Path, clips: int, frames: int, size: int) -> list[ClipRow]:
    """Clips of smooth random pictures, in the layout of docs/data.md."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 255, (max(size // 8, 1),) * 2 + (3,), dtype=np.uint8))
        smooth = np.ascontiguousarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
        pictures.append(simplejpeg.encode_jpeg(smooth, quality=QUALITY))
    folders = folders_under(root)
    for folder in folders.values():
        folder.mkdir(parents=True)
    for clip in range(clips):
        for stream in IMAGES:
            for frame in range(frames):
                picture = pictures[rng.integers(PICTURES)]
                (folders[stream.name] / f"clip{clip:06d}_f{frame:06d}.jpg").write_bytes(picture)
        np.savez(root / "pose" / f"clip{clip:06d}.npz", pose=rng.random((frames, 3 * LANDMARKS), np.float32))
    return [ClipRow(f"clip{clip:06d}", "words") for clip in range(clips)]


def forget(paths: list[Path]) -> str:
    """Take files out of the page cache, and say how: root drops all of it, names and places of files included."""
    os.sync()
    if os.access(DROP, os.W_OK):
        DROP.write_text("3")
        return "drop_caches"
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return "posix_fadvise (names and places of files stay known)"


# --- what is timed ------------------------------------------------------------------------------------------------


def look(clips: list[ClipRow], find) -> None:
    """What training does before it begins."""
    files = find()
    report_quality(usable(clips, files, LANDMARKS, "--train-index", skip_bad_clips=False).clips, files)


def read(clips: list[ClipRow], files: Mapping[str, ClipFiles]) -> None:
    """Every file of every clip to memory, clips in random order, nothing decoded."""
    for number in np.random.default_rng(1).permutation(len(clips)):
        clip = files[clips[number].video_id].loaded()
        with clip.open_pose() as file:
            file.read()
        for frames in clip.frames.values():
            if frames.data is None:
                for position in range(len(frames.numbers)):
                    Path(frames.path(clip.video_id, position)).read_bytes()


def loader(clips: list[ClipRow], files: Mapping[str, ClipFiles], arguments: argparse.Namespace) -> Loader:
    labels = np.zeros((len(clips), 1), np.int32)
    return Loader(
        clips, files, labels, LoaderSettings(4, arguments.frames, arguments.image_size, LANDMARKS, train=True)
    )


def batches(loader: Loader) -> None:
    """An epoch of training batches, decoded by as many threads as there are cores."""
    for _ in loader.epoch():
        pass
    loader.close()  # else the next epoch's first batches are decoded already


def compared(taken: Mapping[str, list[Seconds]], clips: int) -> dict[str, Any]:
    seconds = {name: summary([one / clips for one in times]) for name, times in taken.items()}
    packed, loose = seconds["packed"], seconds["loose"]
    rates = {f"{name}_clips_per_second": 1 / one["median"] for name, one in seconds.items()}
    return {"seconds_per_clip": seconds, "loose_over_packed": ratios(packed, loose)} | rates


def report(facts: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    print(
        f"{facts['clips']} clips, {facts['files']} files, {facts['megabytes']:.0f} MB loose; page cache emptied by "
        f"{facts['cache emptied by']}"
    )
    for what, result in results.items():
        print(f"{what}, a clip:")
        for name, seconds in result["seconds_per_clip"].items():
            print(f"  {name:6s} {as_text(seconds)}; {result[f'{name}_clips_per_second']:,.1f} clips/s")
        print("  loose / packed: " + ", ".join(f"{k} {v:.2f}" for k, v in result["loose_over_packed"].items()))
