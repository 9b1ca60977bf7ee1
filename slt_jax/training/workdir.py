"""The folder of a run: who may write into it, and the small files in it."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slt_jax.base.files import holding, write_json, write_json_lines
from slt_jax.base.json_text import parse_json
from slt_jax.base.places import check_folder
from slt_jax.errors import UserError

LOCK = ".lock"


def state_folder(path: Path) -> Path | None:
    """The folder of numbered states at or under `path`."""
    for folder in (path / "checkpoints", path):
        if folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir()):
            return folder
    return None


def _record(line: str) -> dict[str, Any]:
    """A line of metrics.jsonl. Raises ValueError where it is none."""
    record = parse_json(line)
    if not isinstance(record, dict) or not isinstance(record.get("epoch"), int):
        raise ValueError("it is not the record of an epoch")
    return record


@dataclass(frozen=True)
class Names:
    """What a run's files are called, and the flag of its folder."""

    last: str = "last.pt"
    best: str = "best.pt"
    metrics: str = "metrics.jsonl"
    settings: str = "config.json"
    flag: str = "--work-dir"


class WorkDir:
    """Paths and files of one run."""

    def __init__(self, path: str | Path, names: Names = Names()):
        self.path = Path(path)
        self.flag = names.flag
        self.checkpoints = self.path / "checkpoints"
        self.last = self.path / names.last
        self.best = self.path / names.best
        self.metrics = self.path / names.metrics
        self.features = self.path / "features"
        self.tokenizer = self.path / "tokenizer"
        self.settings = self.path / names.settings

    def results(self) -> list[Path]:
        """The files and folders that training has left here."""
        return [path for path in (self.best, self.last, self.metrics, self.checkpoints) if path.exists()]

    def epoch_file(self, epoch: int) -> Path:
        """The weights after an epoch, where they are kept."""
        return self.path / f"epoch-{epoch:04d}.pt"

    def epoch_files(self) -> dict[int, Path]:
        """The kept weights by epoch, in order."""
        found = {path.stem.removeprefix("epoch-"): path for path in self.path.glob("epoch-*.pt")}
        return {int(number): found[number] for number in sorted(found) if number.isdecimal()}

    def holds_run(self) -> bool:
        """Whether a run has left files here."""
        files = (self.last, self.best, self.metrics)
        return any(path.exists() for path in files) or state_folder(self.checkpoints) is not None

    @contextmanager
    def claimed(self, source: Path | None, *, overwrite: bool, keep: str | None = None) -> Iterator[None]:
        """Have the folder for this run alone, as long as the block runs; another process that asks is refused.

        Refused too is a folder that holds a run other than the one that is resumed from `source`. With `overwrite`
        that run is removed, except for the folder `keep` (a tokenizer that is still wanted).
        """
        resumed = source is not None and source.absolute().is_relative_to(self.path.absolute())
        if resumed and overwrite:
            raise UserError(f"--overwrite would remove the run in {self.path} that --resume is to continue; give one")
        if self.holds_run() and not (resumed or overwrite):
            raise UserError(f"{self.flag} {self.path} holds a run; --resume continues it, --overwrite replaces it")
        check_folder(self.flag, self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / LOCK).touch()
        except OSError as error:
            raise UserError(f"{self.flag} {self.path}: cannot be written ({error.strerror})") from None
        with holding(self.path / LOCK) as alone:
            if not alone:
                raise UserError(f"{self.flag} {self.path}: another run is writing there; wait for it or name another")
            if overwrite:
                self._remove_run(keep)
            self.read_metrics()  # damage is said before an epoch is trained
            yield

    def _remove_run(self, keep: str | None) -> None:
        files = (self.last, self.best, self.metrics, self.settings, self.path / "config.merged.json")
        events = self.path.glob("events.out.tfevents.*")  # TensorBoard would draw both runs as one
        for path in (*files, *self.epoch_files().values(), *events):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.tokenizer):
            if keep is None or folder.absolute() != Path(keep).absolute():
                shutil.rmtree(folder, ignore_errors=True)

    def write_settings(self, effective: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
        """`config.json`: every value in force. `config.merged.json`: what file, flags and --set asked for."""
        write_json(self.settings, effective)
        write_json(self.path / "config.merged.json", merged)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records of the epochs. A last line that was cut off is left out, other damage is a UserError."""
        if not self.metrics.exists():
            return []
        text = self.metrics.read_bytes().decode(errors="replace")
        records, lines = [], text.splitlines()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                records.append(_record(line))
            except ValueError as error:
                if number == len(lines) and not text.endswith("\n"):
                    break
                raise UserError(f"{self.metrics}: line {number} is damaged ({error}); mend or remove it") from None
        return records

    def write_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the records of a run's epochs, the last of them new; the file's own are kept of epochs before them.

        Records of the same or later epochs from before a resume are replaced, and damaged ones mended.
        """
        first = records[0]["epoch"]
        kept = [old for old in self.read_metrics() if old["epoch"] < first]
        write_json_lines(self.metrics, [*kept, *map(dict, records)])
