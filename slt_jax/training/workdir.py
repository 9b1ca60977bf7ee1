"""The folder of a run: who may write into it, and the small files in it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slt_jax.base.files import write_json, write_json_lines
from slt_jax.errors import UserError


def state_folder(path: Path) -> Path | None:
    """The folder of numbered states at or under `path`."""
    for folder in (path / "checkpoints", path):
        if folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir()):
            return folder
    return None


class WorkDir:
    """Paths and files of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.last = self.path / "last.pt"
        self.best = self.path / "best.pt"
        self.metrics = self.path / "metrics.jsonl"
        self.features = self.path / "features"
        self.tokenizer = self.path / "tokenizer"
        self.settings = self.path / "config.json"

    def results(self) -> list[Path]:
        """The files and folders that training has left here."""
        return [path for path in (self.best, self.last, self.metrics, self.checkpoints) if path.exists()]

    def holds_run(self) -> bool:
        """Whether a run has left files here."""
        files = (self.last, self.best, self.metrics)
        return any(path.exists() for path in files) or state_folder(self.checkpoints) is not None

    def claim(self, source: Path | None, *, overwrite: bool, keep: str | None = None) -> None:
        """Refuse a folder that holds another run than the one resumed from `source`.

        With `overwrite` that run is removed, except for the folder `keep` (a tokenizer that is still wanted).
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--work-dir {self.path}: is a file; name a folder")
        goes_on = source is not None and source.absolute().is_relative_to(self.path.absolute())
        if goes_on and overwrite:
            raise UserError(f"--overwrite would remove the run in {self.path} that --resume is to continue; give one")
        if overwrite:
            for path in (self.last, self.best, self.metrics, self.settings, self.path / "config.merged.json"):
                path.unlink(missing_ok=True)
            for folder in (self.checkpoints, self.tokenizer):
                if keep is None or folder.absolute() != Path(keep).absolute():
                    shutil.rmtree(folder, ignore_errors=True)
        elif self.holds_run() and not goes_on:
            raise UserError(f"--work-dir {self.path} holds a run; --resume continues it, --overwrite replaces it")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--work-dir {self.path}: cannot be made ({error.strerror})") from None

    def write_settings(self, effective: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
        """`config.json`: every value in force. `config.merged.json`: what file, flags and --set asked for."""
        write_json(self.settings, effective)
        write_json(self.path / "config.merged.json", merged)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records in metrics.jsonl, one per epoch."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines() if line.strip()]

    def write_metrics(self, record: Mapping[str, Any]) -> None:
        """Add an epoch's record. It replaces records of the same or later epochs from before a resume."""
        earlier = [old for old in self.read_metrics() if old["epoch"] < record["epoch"]]
        write_json_lines(self.metrics, [*earlier, dict(record)])
