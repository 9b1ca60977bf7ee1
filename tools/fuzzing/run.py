"""Inputs given to readers in a process of their own, which may take 5 seconds and 1 GB for each."""

import json
import mmap
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from slt_jax.base.files import write_json
from tools.fuzzing.mutate import mutated
from tools.fuzzing.readers import DOCUMENTED, READERS, as_text, contents

SECONDS, MEMORY = 5, 1 << 30  # of processor time and of address space, for an input
STUCK = 120.0  # seconds without a new input until the process is ended
PIECE = 2000  # inputs between two looks at the clock


def input_files(reader: str, files: dict[str, bytes], seed: int, number: int) -> dict[str, bytes]:
    """The files of an input: the same for the same seed and number."""
    return mutated(Random(f"{seed}:{reader}:{number}"), files)


def put(files: dict[str, bytes], folder: Path) -> None:
    """Write files by their relative paths, without what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def outcome(reader: str, folder: Path) -> str | None:
    """What a reader does wrong with a folder; None if it reads it, or refuses it as documented."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[reader].read(folder)
    except DOCUMENTED as error:
        return None if "\n" not in str(error).strip("\n") or "+" in str(error) else f"several lines: {as_text(error)}"
    except (Exception, RecursionError) as error:
        return as_text(error)
    return None


def fuzz(reader: str, seed: int, first: int, end: int, seconds: float) -> tuple[int, list[dict]]:
    """Give inputs `first` to `end` to a reader, for at most so many seconds: how far it came, and what went wrong."""
    files, failures, number = _sample(reader), [], first
    stop = time.monotonic() + seconds
    while number < end and time.monotonic() < stop:
        with tempfile.TemporaryDirectory() as scratch:
            last, found, death = _piece(
                reader, files, seed, range(number, min(number + PIECE, end)), Path(scratch), stop
            )
        failures += found
        number = last + 1
        if death:
            failures.append({"reader": reader, "seed": seed, "number": last, "error": death})
    return number, failures


def _piece(
    reader: str, files: dict[str, bytes], seed: int, numbers: range, scratch: Path, stop: float
) -> tuple[int, list[dict], str]:
    """Some inputs in a process of their own: the last one given, failures, and what ended the process."""
    place = mmap.mmap(-1, 8)
    place[:] = (numbers[0]).to_bytes(8, "little")
    child = os.fork()
    if child == 0:
        with _ending_the_process():
            _in_child(reader, files, seed, numbers, scratch, place, stop)
    before, since = bytes(place), time.monotonic()
    death = ""
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if bytes(place) != before:
            before, since = bytes(place), time.monotonic()
        elif time.monotonic() - since > STUCK:
            os.kill(child, signal.SIGKILL)
            death = f"no answer in {STUCK:g} s"
        time.sleep(0.02)
    code = os.waitstatus_to_exitcode(ended[1])
    if code:
        names = {-signal.SIGPROF: f"more than {SECONDS} s"}
        death = death or names.get(code) or (signal.Signals(-code).name if code < 0 else f"exit code {code}")
    found = scratch / "failures.jsonl"
    lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
    return int.from_bytes(place[:], "little"), [json.loads(line) for line in lines], death


@contextmanager
def _ending_the_process() -> Iterator[None]:
    """A forked process ends with the block, and never goes on with its parent's work."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _sample(reader: str) -> dict[str, bytes]:
    """A reader's sample, made in a process of its own: libraries' threads would be missing in those forked later."""
    with tempfile.TemporaryDirectory() as scratch:
        child = os.fork()
        if child == 0:
            with _ending_the_process():
                READERS[reader].sample(Path(scratch))
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError(f"the sample of {reader} cannot be made (exit code {code})")
        return contents(Path(scratch))


def _in_child(
    reader: str, files: dict[str, bytes], seed: int, numbers: range, scratch: Path, place: mmap.mmap, stop: float
) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    put(files, scratch / "input")
    READERS[reader].read(scratch / "input")  # the first time takes longer
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # readers tell there what they leave out
    os.dup2(silence, 2)  # and libraries what is wrong with an image
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) if os.path.exists("/proc") else 0
    limit = pages * resource.getpagesize() + MEMORY
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(scratch / "failures.jsonl", "a", encoding="utf-8") as failures:
        for number in numbers:
            place[:] = number.to_bytes(8, "little")
            put(input_files(reader, files, seed, number), scratch / "input")
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            error = outcome(reader, scratch / "input")
            signal.setitimer(signal.ITIMER_PROF, 0)
            if error:
                failures.write(json.dumps({"reader": reader, "seed": seed, "number": number, "error": error}) + "\n")
                failures.flush()
            if time.monotonic() > stop:
                break


class Progress:
    """How far each reader has come with a seed, in a file, so that the same command continues."""

    def __init__(self, path: Path | None, seed: int):
        self.path, self.seed = path, seed
        self.done = dict.fromkeys(READERS, 0)
        self.failures: list[dict] = []
        if path and path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            self.done |= known["done"]
            self.failures = known["failures"]

    def add(self, reader: str, done: int, failures: list[dict]) -> None:
        """Note what one call of `fuzz` found."""
        self.done[reader] = done
        self.failures += failures
        if self.path:
            write_json(self.path, {"seed": self.seed, "done": self.done, "failures": self.failures})


def keep(failure: dict, corpus: Path) -> Path:
    """Write the input that failed into the corpus, which a test reads again: READER/SEED_NUMBER/..."""
    folder = corpus / failure["reader"] / f"{failure['seed']}_{failure['number']}"
    put(input_files(failure["reader"], _sample(failure["reader"]), failure["seed"], failure["number"]), folder)
    return folder
