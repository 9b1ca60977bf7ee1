"""What opening a split of many packed clips takes: seconds and memory, stage by stage, as `open_splits` has them."""

import hashlib
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slt_jax.data.loader import Loader, LoaderSettings
from slt_jax.data.metadata import read_index, read_metadata, select
from slt_jax.data.pack_index import INDEX, columns_of, index_text, joined
from slt_jax.data.packs import open_pack
from slt_jax.data.shards import Shard
from slt_jax.data.splits import tell_doubts, usable
from slt_jax.data.text import encode_targets, load_tokenizer, train_tokenizer
from slt_jax.streams import IMAGES, STREAMS
from tools.benchmarks.processes import Side

LANDMARKS, LENGTH, IMAGE_SIZE, BATCH, TARGET = 13, 64, 224, 8, 128
CLIPS_A_SHARD = 5000
WORDS = ("la", "casa", "está", "en", "el", "camino", "y", "nadie", "sabía", "qué", "hacer", "cuando", "llegó", "mañana")


def write_split(folder: Path, clips: int) -> None:
    """Metadata, an index of all clips and the index of their pack. The shards have their sizes, and nothing in them."""
    draw = random.Random(0)
    ids = [f"{draw.getrandbits(44):011x}-{number % 100:02d}" for number in range(clips)]
    texts = [" ".join(draw.choices(WORDS, k=9)) for _ in ids]
    frames = [draw.randrange(25, 250) for _ in ids]
    rows = zip(ids, texts, frames, strict=True)
    lines = [f"{i};{text};25;{count / 25:g};{draw.randrange(200)};es" for i, text, count in rows]
    (folder / "meta.csv").write_text("\n".join(["id;texto;fps;duration;signer;lang", *lines, ""]), encoding="utf-8")
    (folder / "train.csv").write_text("\n".join(["video_id", *ids, ""]), encoding="utf-8")
    train_tokenizer(texts[:2000], folder / "tokenizer")
    pack = folder / "pack"
    pack.mkdir()
    shards = [
        Shard(f"clips-{number:05d}.array_record", 1000, CLIPS_A_SHARD, "0" * 64)
        for number in range(-(-clips // CLIPS_A_SHARD))
    ]
    for shard in shards:
        (pack / shard.name).write_bytes(b"\0" * shard.size)
    parts = [columns_of(_entries(ids, frames, draw, start)) for start in range(0, clips, CLIPS_A_SHARD)]
    (pack / INDEX).write_text(
        index_text(shards, [stream.name for stream in STREAMS], ids, joined(parts)), encoding="utf-8"
    )


def _entries(ids: list[str], frames: list[int], draw: random.Random, start: int) -> list[dict[str, Any]]:
    """What the index says of the clips of a shard: every frame of the face, one gap in each hand."""
    entries = []
    for number in range(start, min(start + CLIPS_A_SHARD, len(ids))):
        count = frames[number]
        gap = draw.randrange(1, count - 1)
        entry = {"id": ids[number], "size": 4000 * count, "pose": [count, 3 * LANDMARKS]}
        entry |= {"sha256": hashlib.sha256(ids[number].encode()).hexdigest()}
        entry |= {"shard": number // CLIPS_A_SHARD, "record": number % CLIPS_A_SHARD}
        for stream in IMAGES:
            entry[stream.name] = [[0, gap], [gap + 1, count - gap - 1]] if stream.mask else [[0, count]]
        entries.append(entry)
    return entries


class Opening:
    """Stages in a process of their own, one after the other; what training keeps is kept."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        load_tokenizer(self.folder / "tokenizer")  # imports what is needed for it
        self.kept: dict[str, Any] = {}

    def run(self) -> dict[str, dict[str, float]]:
        """Seconds by the clock, seconds of CPU time, and MiB at the peak so far, of each stage."""
        stages: dict[str, Callable[[], Any]] = {
            "imports": lambda: None,
            "metadata": lambda: read_metadata(self.folder / "meta.csv"),
            "index": lambda: read_index(self.folder / "train.csv"),
            "rows": lambda: select(self.kept.pop("index"), self.kept.pop("metadata"), "--train-index"),
            "pack": lambda: open_pack(str(self.folder / "pack")).files(clip.video_id for clip in self.kept["rows"]),
            "look": self._look,
            "targets": self._targets,
            "loader": self._loader,
        }
        results = {}
        for name, work in stages.items():
            start, cpu = time.perf_counter(), time.process_time()
            self.kept[name] = work()
            results[name] = {
                "seconds": time.perf_counter() - start,
                "cpu_seconds": time.process_time() - cpu,
                "peak_mib": peak_kib() / 2**10,
            }
        return results

    def _look(self) -> Any:
        split = usable(self.kept["rows"], self.kept["pack"], LANDMARKS, "--train-index", skip_bad_clips=False)
        tell_doubts((split,), self.kept["pack"], LANDMARKS)
        return split

    def _targets(self) -> Any:
        texts = [clip.text for clip in self.kept["rows"]]
        return encode_targets(load_tokenizer(self.folder / "tokenizer"), texts, TARGET)

    def _loader(self) -> Any:
        settings = LoaderSettings(BATCH, LENGTH, IMAGE_SIZE, LANDMARKS, train=True)
        return Loader(self.kept["rows"], self.kept["pack"], self.kept["targets"].labels, settings)


def peak_kib() -> int:
    """The most memory that this process has had; `getrusage` would count its parent's too, before it began."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def measure(clips: int, cores: int | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        write_split(Path(folder), clips)
        with Side("opening", Opening, folder, cores=cores) as side:
            stages = side.call("run")
    report(clips, stages)
    return {"facts": {"clips": clips}, "results": stages}


def report(clips: int, stages: dict[str, dict[str, float]]) -> None:
    print(f"{clips:,} clips in a pack; seconds by the clock and of CPU time, MiB at the peak so far")
    for name, taken in stages.items():
        print(f"  {name:9s} {taken['seconds']:6.2f} {taken['cpu_seconds']:6.2f} {taken['peak_mib']:8,.0f}")
    for what, names in (
        ("all but the targets", [n for n in [*stages][1:] if n != "targets"]),
        ("with them", [*stages][1:]),
    ):
        seconds, cpu = (sum(stages[name][key] for name in names) for key in ("seconds", "cpu_seconds"))
        print(f"  {what}: {seconds:.1f} s, {cpu:.1f} s of CPU time")
