"""What is done to a run: a signal at a file event or at some moment, a full disk, and damage to what it left."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DAMAGES = ("flip", "truncate", "zero", "delete")
ARTEFACTS = ("state", "checksums.json", "last.pt", "best.pt", "metrics.jsonl", "config.json", "TensorBoard", ".lock")


class FileEvents:
    """Counts what Python does to files under a folder: opening to write, renaming, making and removing.

    At event `at`, or just after it, it calls `strike`. Python tells of an event before it happens.
    """

    def __init__(
        self, folder: Path, at: int | None = None, *, after: bool = False, strike: Callable[[], None] = lambda: None
    ):
        self.folder, self.at, self.after, self.strike = f"{folder}{os.sep}", at, after, strike
        self.labels: list[str] = []
        self._armed = False

    def watch(self) -> None:
        """From here on, for the life of this process."""
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple) -> None:
        if self._armed:
            self._armed = False
            self.strike()
        label = self._label(event, arguments)
        if label is None:
            return
        self.labels.append(label)
        if len(self.labels) - 1 == self.at:
            if self.after:
                self._armed = True
            else:
                self.strike()

    def _label(self, event: str, arguments: tuple) -> str | None:
        if event == "open":
            place, writes = arguments[0], bool((arguments[2] or 0) & WRITING)
        elif event == "os.rename":
            place, writes = arguments[1], True
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            place, writes = arguments[0], True
        else:
            return None
        path = os.fsdecode(place) if isinstance(place, str | bytes | os.PathLike) else ""
        if not writes or not path.startswith(self.folder):
            return None
        return f"{event.removeprefix('os.')} {artefact(path.removeprefix(self.folder))}"


def artefact(relative: str) -> str:
    """The name in the table for a path under a work-dir."""
    if relative.startswith("checkpoints"):
        return "checksums.json" if "checksums.json" in relative else "state"
    if relative.startswith("tb"):
        return "TensorBoard"
    known = (name for name in (*ARTEFACTS, "tokenizer", "config.merged.json") if name.lstrip(".") in relative)
    return next(known, "other")


def send(number: int, processes: Sequence[int | None]) -> None:
    """Send a signal to processes; None stands for this one, which comes last, as nothing may follow."""
    for process in sorted(processes, key=lambda process: process is None):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(os.getpid() if process is None else process, number)


def files_of(folder: Path, name: str) -> list[Path]:
    """The files of an artefact in a work-dir, of a state those of the newest one."""
    if name == "state":
        numbers = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
        newest = folder / "checkpoints" / str(numbers[-1]) if numbers else folder / "none"
        return sorted(path for path in newest.rglob("*") if path.is_file() and path.name != "checksums.json")
    if name == "checksums.json":
        return sorted(folder.glob("checkpoints/*/checksums.json"))[-1:]
    if name == "TensorBoard":
        return sorted(folder.glob("tb/*"))
    return [folder / name] if (folder / name).exists() else []


def damage(path: Path, how: str, random: Random) -> str:
    """Flip a bit of a file, cut it, zero a part of it or delete it; returns what was done."""
    data = bytearray(path.read_bytes())
    at = random.randrange(len(data)) if data else 0
    if how == "delete" or not data:
        path.unlink()
        return "deleted"
    if how == "flip":
        bit = random.randrange(8)
        data[at] ^= 1 << bit
        what = f"bit {bit} of byte {at} flipped"
    elif how == "truncate":
        del data[at:]
        what = f"cut to {at} bytes"
    else:
        count = min(random.choice((1, 16, 512)), len(data) - at)
        data[at : at + count] = bytes(count)
        what = f"{count} bytes zeroed at {at}"
    path.write_bytes(data)
    return what


class SmallDisk:
    """A disk of some kilobytes under a folder. Only root may mount one, on Linux."""

    def __init__(self, folder: Path, kilobytes: int):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _quietly(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)])

    @staticmethod
    def fill(folder: Path, leave: int) -> None:
        """Leave so many bytes of the disk under a folder free, until `clear` takes the ballast away."""
        missing = shutil.disk_usage(folder).free - leave
        if missing > 0:
            with open(folder / "ballast", "wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, missing)

    def clear(self) -> None:
        """Make room again."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Take the disk away, with all that is on it."""
        _quietly(["umount", "--lazy", str(self.folder)])

    @staticmethod
    def allowed(scratch: Path) -> bool:
        """Whether this machine lets us mount one."""
        if not shutil.which("mount"):
            return False
        try:
            SmallDisk(scratch / "probe", 64).close()
        except (OSError, subprocess.CalledProcessError):
            return False
        return True


def _quietly(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)
