"""One trial: disturb a run, resume it, and compare what it leaves with the run that nobody disturbed."""

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from convert import read_pt
from slt_jax.errors import UserError
from tools.campaign.harm import ARTEFACTS, DAMAGES, FileEvents, SmallDisk, damage, files_of
from tools.campaign.runs import train

TIMES = ("seconds", "clips_per_second", "data_wait_seconds", "compilations")  # what no two runs share
PATIENCE = 600.0  # seconds for a run
MANNERS = {
    "small": ([], ["--grad-accum-steps", "2"]),
    "slt-train": ([], ["--num-workers", "2"], ["--grad-accum-steps", "2"]),
}
KINDS = {  # with their shares of 200 trials
    "SIGKILL at a file event": 60,
    "SIGKILL at a random moment": 30,
    "SIGTERM at a file event": 15,
    "SIGTERM at a random moment": 15,
    "full disk": 20,
    "damage": 60,
}


@dataclass(frozen=True)
class Ended:
    """How a run ended. `labels` are its file events."""

    code: int
    out: str
    errors: str
    cpu: float
    labels: list[str] = field(default_factory=list)

    @property
    def told(self) -> bool:
        """Whether it refused to run in one line."""
        lines = self.errors.splitlines()
        return self.code == 2 and len(lines) == 1 and ": error: " in lines[0]


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed, its file events, and its processor time."""

    folder: Path
    labels: list[str]
    cpu: float


class Campaign:
    """Trials under a scratch folder, of a seed."""

    def __init__(self, scratch: Path, seed: int, disks: bool):
        self.scratch, self.seed, self.disks = scratch, seed, disks
        self.corpus = scratch / "corpus"
        self._references: dict[tuple[str, int], Reference] = {}

    # --- runs in processes of their own ---------------------------------------------------------------------------

    def start(self, how: str, folder: Path, more: Sequence[str], events: FileEvents | None = None) -> int:
        """Start a run in a forked process; returns its number."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        try:
            for name, descriptor in (("out", 1), ("errors", 2)):
                file = os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, descriptor)
            if events:
                events.watch()
            code = train(how, self.corpus, folder, more)
            if events and events.at is None:
                Path(f"{folder}.labels").write_text(json.dumps(events.labels), encoding="utf-8")
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def end(self, child: int, folder: Path, kill_at: float | None = None, number: int = signal.SIGKILL) -> Ended:
        """Wait for a run. With `kill_at` it gets a signal once it has used so much processor time."""
        started = time.monotonic()
        while True:
            ended, status, used = os.wait4(child, os.WNOHANG)
            if ended:
                break
            if kill_at is not None and _processor_time(child) >= kill_at:
                os.kill(child, number)
                kill_at = None
            if time.monotonic() - started > PATIENCE:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        out, errors = (Path(f"{folder}.{name}").read_text(errors="replace") for name in ("out", "errors"))
        labels = Path(f"{folder}.labels")
        found = json.loads(labels.read_text(encoding="utf-8")) if labels.exists() else []
        return Ended(os.waitstatus_to_exitcode(status), out, errors, used.ru_utime + used.ru_stime, found)

    def finish(self, how: str, folder: Path, more: Sequence[str]) -> Ended:
        """Resume a run; one that was stopped before it had anything to resume begins again, as its message says."""
        ended = self.end(self.start(how, folder, [*more, "--resume"]), folder)
        if ended.told and "holds no state to continue" in ended.errors:
            ended = self.end(self.start(how, folder, more), folder)
        return ended

    def reference(self, how: str, manner: int) -> Reference:
        """The undisturbed run of a kind."""
        if (how, manner) not in self._references:
            folder = self.scratch / f"reference-{how}-{manner}"
            shutil.rmtree(folder, ignore_errors=True)
            more = MANNERS[how][manner]
            self.end(self.start(how, folder, more), folder)  # fills the cache of compiled programs
            shutil.rmtree(folder)
            ended = self.end(self.start(how, folder, more, FileEvents(folder)), folder)
            if ended.code:
                raise UserError(f"{folder}: the undisturbed run failed: {ended.errors}")
            self._references[how, manner] = Reference(folder, ended.labels, ended.cpu)
        return self._references[how, manner]

    # --- trials ---------------------------------------------------------------------------------------------------

    def trial(self, number: int, how: str, kind: str) -> dict[str, Any]:
        """Carry out a trial: {number, run, kind, what, result}, where result is equal, told or what went wrong."""
        random = Random(f"{self.seed}:{number}")
        manner = random.randrange(len(MANNERS[how]))
        reference, folder = self.reference(how, manner), self.scratch / f"trial-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        more = MANNERS[how][manner]
        if kind == "damage":
            what, result = self._damage(random, how, more, reference, folder)
        elif kind == "full disk":
            what, result = self._full_disk(random, how, more, reference, folder)
        else:
            what, result = self._signal(random, how, more, reference, folder, kind)
        if result in ("equal", "told"):
            for path in self.scratch.glob(f"trial-{number}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        words = " ".join(more)
        return {"number": number, "run": how, "kind": kind, "what": f"{what} {words}".strip(), "result": result}

    def _signal(
        self, random: Random, how: str, more: Sequence[str], reference: Reference, folder: Path, kind: str
    ) -> tuple[str, str]:
        number = signal.SIGKILL if "SIGKILL" in kind else signal.SIGTERM
        if "event" in kind:
            at, after = random.randrange(len(reference.labels)), random.random() < 0.5
            events = FileEvents(folder, at, after=after, number=number)
            what = f"{'after' if after else 'before'} {reference.labels[at]}"
            ended = self.end(self.start(how, folder, more, events), folder)
        else:
            moment = random.random()
            what = f"at {moment:.0%}"
            ended = self.end(self.start(how, folder, more), folder, moment * reference.cpu, number)
        if ended.code not in (0, -number, 128 + number):
            return what, f"the signal ended it with {ended.code}: {ended.errors[-300:]}"
        return what, self._verdict(self.finish(how, folder, more), folder, reference)

    def _full_disk(
        self, random: Random, how: str, more: Sequence[str], reference: Reference, folder: Path
    ) -> tuple[str, str]:
        used = sum(path.stat().st_size for path in reference.folder.rglob("*") if path.is_file())
        kilobytes = int(1100 + random.random() * 1.4 * used / 1024)
        disk = SmallDisk(folder, kilobytes)
        try:
            inside = folder / "run"
            ended = self.end(self.start(how, inside, more), Path(inside))
            what = f"{kilobytes} kB"
            if ended.code and not ended.told:
                return what, f"exit code {ended.code}: {ended.errors[-300:]}"
            if ended.code and (left := leftovers(inside)):
                return what, f"left behind {left[0]}"
            disk.enlarge()
            return what, self._verdict(self.finish(how, inside, more), inside, reference)
        finally:
            disk.close()

    def _damage(
        self, random: Random, how: str, more: Sequence[str], reference: Reference, folder: Path
    ) -> tuple[str, str]:
        names = [*ARTEFACTS, "tokenizer/tokenizer.json"] if how == "slt-train" else ARTEFACTS
        name, kind = random.choice(names), random.choice(DAMAGES)
        if random.random() < 0.5:  # a run that was stopped on the way, else one that is done
            commits = [at for at, label in enumerate(reference.labels) if label == "rename metrics.jsonl"]
            at = random.randrange(commits[0], len(reference.labels))
            self.end(self.start(how, folder, more, FileEvents(folder, at)), folder)
        else:
            shutil.copytree(reference.folder, folder)
        files = files_of(folder, name)
        if not files:
            return f"{name}: not there", self._verdict(self.finish(how, folder, more), folder, reference)
        path = random.choice(files)
        what = f"{name}: {damage(path, kind, random)}"
        before = snapshot(folder)
        ended = self.finish(how, folder, more)
        return what, self._verdict(ended, folder, reference, name, before)

    def _verdict(
        self,
        ended: Ended,
        folder: Path,
        reference: Reference,
        damaged: str = "",
        before: dict[str, bytes] | None = None,
    ) -> str:
        if ended.told and before is not None:
            after = snapshot(folder)
            lost = [name for name, content in before.items() if after.get(name) != content]
            return f"told, but lost {lost[0]}" if lost else "told"
        if ended.code:
            return f"exit code {ended.code}: {ended.errors[-300:]}"
        if ended.errors.strip() and any(word in ended.errors for word in ("Traceback", "rror", "arning")):
            return f"noise: {ended.errors[-300:]}"
        if left := leftovers(folder):
            return f"left behind {left[0]}"
        differing = differences(folder, reference.folder)
        if not differing:
            return "equal"
        said = f"{folder / damaged}: " if damaged else ""
        if differing == [damaged] and any(line.startswith(said) for line in ended.out.splitlines()):
            return "told"
        return f"differs: {', '.join(differing)}"


def leftovers(folder: Path) -> list[str]:
    """What is in a work-dir only while something is written."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return [name for name in names if name.endswith(".tmp") or "checkpoint-tmp" in name or ".partial" in name]


def snapshot(folder: Path) -> dict[str, bytes]:
    """What must be whole after a run was refused: weights, metrics and states."""
    kept = [*folder.glob("*.pt"), *folder.glob("metrics.jsonl"), *folder.glob("checkpoints/**/*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept if path.is_file()}


def differences(folder: Path, reference: Path) -> list[str]:
    """The files of a run that are not those of another: tensors and metrics, without what depends on the clock."""
    differing = []
    for name in ("last.pt", "best.pt"):
        try:
            ours, theirs = (_checkpoint(place / name) for place in (folder, reference))
        except UserError:
            differing.append(name)
            continue
        if not _same(ours, theirs):
            differing.append(name)
    if _metrics(folder) != _metrics(reference):
        differing.append("metrics.jsonl")
    return differing


def _checkpoint(path: Path) -> dict[str, Any]:
    return {**read_pt(path, mmap=False), "config": None}


def _metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def _processor_time(process: int) -> float:
    """Seconds that a process has used, of all its threads."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
