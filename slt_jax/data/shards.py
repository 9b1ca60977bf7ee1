"""The files of a pack: local, or behind a URL that fsspec knows and then downloaded whole. Read at random.

ArrayRecord's own reader reads one record in one call. That is all a pack needs: Grain, which wraps it, would bring a
sampler and workers of its own beside the loader's.
"""

import fcntl
import functools
import hashlib
import io
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slt_jax.base.files import replacing, sha256, user_cache
from slt_jax.errors import UserError

OPEN_SHARDS = 128  # open files per process, because the system has a limit
PACK_AGAIN = "see slt-pack verify, or write the pack again"


@dataclass(frozen=True)
class Shard:
    """One file of a pack, as the index describes it."""

    name: str
    size: int  # bytes
    records: int
    sha256: str


@dataclass(frozen=True)
class Store:
    """A folder or URL with the files of a pack. Remote files are downloaded into `cache`."""

    path: str
    cache: Path | None = None

    def local(self, shard: Shard) -> Path:
        """The path of a shard on this machine. Raises UserError if it cannot be downloaded."""
        if self.cache is None:
            return Path(self.path) / shard.name
        place = self.cache / shard.name
        if not place.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            with open(self.cache / f"{shard.name}.lock", "w") as lock:  # only one of several workers downloads
                with suppress(OSError):  # on a file system without locks, each does
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not place.exists():
                    url = f"{self.path}/{shard.name}"
                    with replacing(place) as file:
                        _fetch(url, file)
                        file.flush()
                        if sha256(file.name) != shard.sha256:
                            raise UserError(f"--packs {url}: is not what the index says (checksum); {PACK_AGAIN}")
        return place

    def check(self, shard: Shard) -> None:
        """Raise UserError if a shard of a local pack is missing or not as long as the index says."""
        place = Path(self.path) / shard.name
        size = place.stat().st_size if place.is_file() else None
        if self.cache is None and size != shard.size:
            problem = "is missing" if size is None else f"has {size} bytes, the index says {shard.size}"
            raise UserError(f"--packs {self.path}: {shard.name} {problem}; {PACK_AGAIN}")


def open_store(path: str | Path, index: str) -> tuple[Store, bytes]:
    """The files at `path`, and the contents of the one named `index`. Raises UserError if that cannot be read."""
    path = str(path).rstrip("/")
    if "://" in path:
        raw = io.BytesIO()
        _fetch(f"{path}/{index}", raw)
        # Named by content, so that a pack written again at its old place is downloaded again.
        return Store(path, user_cache() / "packs" / hashlib.sha256(raw.getvalue()).hexdigest()[:32]), raw.getvalue()
    try:
        return Store(path), (Path(path) / index).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--packs {path}: there is no {index}; is this the folder of a whole pack?") from None
    except OSError as error:
        raise UserError(f"--packs {path}: {index} cannot be read ({error.strerror})") from None


def read_record(path: Path, number: int) -> bytes:
    """One record of a shard. Raises RuntimeError if it is missing or, according to its own checksums, damaged."""
    return _reader(str(path)).read([number])[0]


@functools.lru_cache(OPEN_SHARDS)
def _reader(path: str):
    return array_record().ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")


def array_record():
    """The module that reads and writes ArrayRecord files. Raises UserError if it is not installed."""
    try:
        from array_record.python import array_record_module
    except ImportError:
        raise UserError("packs need the package array_record: pip install 'slt-jax[packs]'") from None
    return array_record_module


def _fetch(url: str, target: BinaryIO) -> None:
    try:
        import fsspec

        with fsspec.open(url, "rb") as source:
            shutil.copyfileobj(source, target, 1 << 22)
    except Exception as error:  # every kind of storage has its own errors
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--packs {url}: cannot be fetched ({what})") from None
