"""One trial: disturb a run, resume it, and compare what it leaves with the run that nobody disturbed."""

import json
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from convert import read_pt
from slt_jax.errors import UserError
from tools.campaign.harm import ARTEFACTS, DAMAGES, SmallDisk, damage, files_of
from tools.campaign.processes import TWO, Blow, Ended, Runner

TIMES = ("seconds", "clips_per_second", "data_wait_seconds", "compilations")  # what no two runs share
MANNERS = {
    "small": ([], ["--grad-accum-steps", "2"]),
    "slt-train": ([], ["--num-workers", "2"], ["--grad-accum-steps", "2"]),
}
HITS: dict[int, list[tuple[int, ...]]] = {
    1: [(0,)],
    2: [(0,), (1,), (0, 1)],
}  # which processes get a signal, by their number
KINDS = {  # with their shares of 200 trials
    "SIGKILL at a file event": 60,
    "SIGKILL at a random moment": 30,
    "SIGTERM at a file event": 15,
    "SIGTERM at a random moment": 15,
    "full disk": 20,
    "damage": 60,
}


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed, with the file events and the processor time of each of its processes."""

    folder: Path
    processes: list[Ended]


@dataclass(frozen=True)
class Trial:
    """What is disturbed, where, and what it is compared with."""

    random: Random
    how: str
    more: list[str]
    reference: Reference
    folder: Path


class Campaign:
    """Trials under a scratch folder, of a seed."""

    def __init__(self, scratch: Path, seed: int, disks: bool):
        self.scratch, self.seed, self.disks = scratch, seed, disks
        self.corpus = scratch / "corpus"
        self._runner = Runner(scratch, self.corpus)
        self._references: dict[tuple[str, tuple[str, ...]], Reference] = {}

    def finish(self, how: str, folder: Path, more: Sequence[str]) -> list[Ended]:
        """Resume a run; one that was stopped before it had anything to resume begins again, as its message says."""
        ended = self._runner.run(how, folder, [*more, "--resume"])
        if any(one.told and "holds no state to continue" in one.errors for one in ended):
            ended = self._runner.run(how, folder, more)
        return ended

    def reference(self, how: str, more: Sequence[str]) -> Reference:
        """The undisturbed run of a kind."""
        if (how, tuple(more)) not in self._references:
            folder = self.scratch / f"reference-{how}-{len(self._references)}"
            for _ in range(2):  # the first fills the cache of compiled programs
                shutil.rmtree(folder, ignore_errors=True)
                ended = self._runner.run(how, folder, more)
            if any(one.code for one in ended):
                raise UserError(f"{folder}: the undisturbed run failed: {' '.join(one.errors for one in ended)}")
            self._references[how, tuple(more)] = Reference(folder, ended)
        return self._references[how, tuple(more)]

    # --- trials ---------------------------------------------------------------------------------------------------

    def carry_out(self, number: int, how: str, kind: str, *, two: bool = False) -> dict[str, Any]:
        """Carry out a trial: {number, run, kind, what, result}, where result is equal, told or what went wrong."""
        random = Random(f"{self.seed}:{number}")
        more = [*random.choice(MANNERS[how]), *(TWO if two else ())]
        folder = self.scratch / f"trial-{number}"
        trial = Trial(random, how, more, self.reference(how, more), folder)
        for path in self.scratch.glob(f"{folder.name}*"):
            _remove(path)
        if kind == "damage":
            what, result = self._damage(trial)
        elif kind == "full disk":
            what, result = self._full_disk(trial)
        else:
            what, result = self._signal(trial, kind)
        if result in ("equal", "told"):
            for path in self.scratch.glob(f"{folder.name}*"):
                _remove(path)
        kind = f"{kind}, two processes" if two else kind
        return {"number": number, "run": how, "kind": kind, "what": " ".join([what, *more]), "result": result}

    def _signal(self, trial: Trial, kind: str) -> tuple[str, str]:
        number = signal.SIGKILL if "SIGKILL" in kind else signal.SIGTERM
        processes = trial.reference.processes
        blow, what = self._event(trial)
        hit = trial.random.choice(HITS[len(processes)])
        if "moment" in kind:
            moment = trial.random.random()
            blow = replace(blow, event=None, seconds=moment * processes[blow.watched].cpu)
            what = f"at {moment:.0%}"
        if len(processes) > 1:
            what += f" to {' and '.join(map(str, hit))}"
        blow = replace(blow, number=number, hit=hit)
        for index, one in enumerate(self._runner.run(trial.how, trial.folder, trial.more, blow)):
            if one.late:
                return what, f"process {index} did not end by itself: {one.errors[-300:]}"
            fine = one.code in (0, -number, 128 + number) or (len(processes) > 1 and (one.followed or one.told))
            if not fine:
                return what, f"the signal ended process {index} with {one.code}: {one.errors[-300:]}"
        return what, self._verdict(trial, self.finish(trial.how, trial.folder, trial.more))

    def _full_disk(self, trial: Trial) -> tuple[str, str]:
        used = sum(path.stat().st_size + 4096 for path in trial.reference.folder.rglob("*"))
        disk = SmallDisk(trial.folder, 2048 + 3 * used // 1024)
        event, where = self._event(trial)
        blow = replace(event, leave=4096 * trial.random.choice((0, 1, 2, 4, 8, 16)))
        what = f"{blow.leave} bytes left {where}"
        try:
            inside = replace(trial, folder=trial.folder / "run")
            ended = self._runner.run(trial.how, inside.folder, trial.more, blow)
            if any(one.code for one in ended) and not _refused(ended):
                return what, f"exit codes {_codes(ended)}: {_errors(ended)[-300:]}"
            if any(one.code for one in ended) and (left := leftovers(inside.folder)):
                return what, f"left behind {left[0]}"
            what += ", refused" if any(one.code for one in ended) else ", enough"
            disk.clear()
            return what, self._verdict(inside, self.finish(trial.how, inside.folder, trial.more))
        finally:
            disk.close()

    def _event(self, trial: Trial) -> tuple[Blow, str]:
        """A file event of one of the processes, and its description."""
        random, processes = trial.random, trial.reference.processes
        watched = random.choice([index for index, one in enumerate(processes) if one.labels])
        event, after = random.randrange(len(processes[watched].labels)), random.random() < 0.5
        where = f"{'after' if after else 'before'} {processes[watched].labels[event]}"
        where += f" of process {watched}" if len(processes) > 1 else ""
        return Blow(watched=watched, event=event, after=after), where

    def _damage(self, trial: Trial) -> tuple[str, str]:
        random, folder, labels = trial.random, trial.folder, trial.reference.processes[0].labels
        names = [*ARTEFACTS, "tokenizer/tokenizer.json"] if trial.how == "slt-train" else ARTEFACTS
        name, kind = random.choice(names), random.choice(DAMAGES)
        if random.random() < 0.5:  # a run that was stopped on the way, else one that is done
            commits = [at for at, label in enumerate(labels) if label == "rename metrics.jsonl"]
            hit = HITS[len(trial.reference.processes)][-1]
            event = random.randrange(commits[0], len(labels))
            self._runner.run(trial.how, folder, trial.more, Blow(hit=hit, event=event))
        else:
            shutil.copytree(trial.reference.folder, folder)
        files = files_of(folder, name)
        if not files:
            return f"{name}: not there", self._verdict(trial, self.finish(trial.how, folder, trial.more))
        path = random.choice(files)
        what = f"{name}: {damage(path, kind, random)}"
        before = snapshot(folder)
        return what, self._verdict(trial, self.finish(trial.how, folder, trial.more), name, before)

    def _verdict(
        self, trial: Trial, ended: list[Ended], damaged: str = "", before: dict[str, bytes] | None = None
    ) -> str:
        folder, reference, errors = trial.folder, trial.reference, _errors(ended)
        if _refused(ended) and before is not None:
            after = snapshot(folder)
            lost = [name for name, content in before.items() if after.get(name) != content]
            return f"told, but lost {lost[0]}" if lost else "told"
        if any(one.code for one in ended):
            return f"exit codes {_codes(ended)}: {errors[-300:]}"
        if any(word in errors for word in ("Traceback", "rror", "arning")):
            return f"noise: {errors[-300:]}"
        if left := leftovers(folder):
            return f"left behind {left[0]}"
        differing = differences(folder, reference.folder)
        if not differing:
            return "equal"
        said = f"{folder / damaged}: " if damaged else ""
        if differing == [damaged] and any(line.startswith(said) for line in ended[0].out.splitlines()):
            return "told"
        return f"differs: {', '.join(differing)}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _refused(ended: list[Ended]) -> bool:
    """Whether a run was refused in one line: by each of its processes, or by one, and the others followed."""
    return any(one.told for one in ended) and all(one.told or one.followed for one in ended)


def _codes(ended: list[Ended]) -> str:
    return ", ".join(str(one.code) for one in ended)


def _errors(ended: list[Ended]) -> str:
    return "".join(one.errors for one in ended)


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
