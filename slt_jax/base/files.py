"""Files that are never left half written, on Linux and macOS."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO

from slt_jax.base.places import naming

LONGEST_PREFIX = 230  # bytes of the name that the temporary name repeats; file names may have 255


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a new binary file that replaces `path` once it is complete and on disk; after an error nothing has changed.

    Missing folders are created. If `path` is a link, its target is replaced. The new file is locked while it is
    written, so the next writer can tell a file that another one is still writing from what a killed one left behind,
    and removes the latter. Where the system refuses to write, as on a full disk, the OSError names `path`.
    """
    with naming(path):
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = "." + os.fsencode(target.name)[:LONGEST_PREFIX].decode(errors="ignore")
        _remove_abandoned(target.parent, prefix)
        temporary = target.with_name(f"{prefix}.{os.urandom(4).hex()}.tmp")
        with _unfinished(temporary) as file, naming(path):  # before the unfinished file makes room again
            _try_lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the new name survives a power cut too
        finally:
            os.close(folder)


@contextmanager
def _unfinished(temporary: Path) -> Iterator[BinaryIO]:
    """A new file that is removed after an error."""
    with open(temporary, "xb") as file:
        try:
            yield file
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder that replaces `path`, as `replacing` does with a file. Missing folders above are created."""
    target = Path(os.path.realpath(path))
    partial, old = (target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in ("partial", "old"))
    with naming(path):
        partial.mkdir(parents=True)
        try:
            with naming(path):  # before the unfinished folder makes room again
                yield partial
            if target.exists():
                target.rename(old)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _try_lock(file: IO) -> bool:
    """Lock a file for as long as it is open. False if another writer has it or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def holding(path: str | os.PathLike[str]) -> Iterator[bool]:
    """Hold the file `path` for as long as the block runs; False where somebody else holds it.

    The kernel lets go of it when the process ends, however it ends. The file stays. On a file system without locks
    nobody ever holds anything.
    """
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except BlockingIOError:
            held = False
        except OSError:
            held = True
        yield held


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Delete the unfinished files of writers that are no longer running."""
    pattern = re.compile(re.escape(prefix) + r"\.[0-9a-f]{8}\.tmp")
    for name in os.listdir(folder):
        if pattern.fullmatch(name):
            with suppress(OSError), open(folder / name, "rb+") as file:
                if _try_lock(file):
                    os.unlink(file.name)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading. Raises OSError also for a pipe or a device, which might keep a reader for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder, `open` says that it is one
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file", os.fspath(path))
    return open(path, "rb")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as an indented JSON file, complete or not at all."""
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_json_lines(path: str | Path, records: list[dict]) -> None:
    """Write one JSON object per line, complete or not at all."""
    with replacing(path) as file:
        file.writelines((json.dumps(record, ensure_ascii=False) + "\n").encode() for record in records)


def checksums(folder: Path, *, without: str) -> dict[str, str]:
    """The SHA-256 of every file under `folder` by its relative path, but for the one named `without`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != without)

    def checksum(path: Path) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(4) as pool:  # hashing leaves Python's lock to others
        values = list(pool.map(checksum, paths))
    return {path.relative_to(folder).as_posix(): value for path, value in zip(paths, values, strict=True)}


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file; the target appears complete or not at all."""
    with open(source, "rb") as original, replacing(target) as copy:
        shutil.copyfileobj(original, copy, 1 << 22)


def sha256(path: str | Path) -> str:
    """The hash of a file, or of all files in a folder in the order of their names."""
    path, digest = Path(path), hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as content:
            while block := content.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def is_running(process: int) -> bool:
    """Whether a process of this number is running: what it has left is not abandoned yet."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        pass
    return True


def user_cache() -> Path:
    """The folder for files that can be made or downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "slt_jax")
