"""`slt-check-metrics [RUN [REFERENCE]]`, also `python tools/ci_validate_metrics.py`: did a training go as before?

The reference is a JSON object with one entry per metric of `metrics.jsonl`:

    {"val_loss": {"value": 3.6, "tolerance": 0.05, "relative": true, "direction": "lower", "epoch": 2}}

`tolerance` (default 0) is absolute, or with `relative` a fraction of the value. `direction` says what is better:
`lower` fails above the value, `higher` below it, `both` (default) on either side. `epoch` is a number or `last`
(default). Without a reference every number must be finite, and the training loss must have fallen. Without a run it is
the newest one under `work_dirs/` or `runs/`.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from slt_jax.base.json_text import read_json
from slt_jax.cli import flags
from slt_jax.cli.command import run
from slt_jax.errors import UserError, nearest, shown
from slt_jax.pictures.curves import Records, read_records, todays_name

PROG = "slt-check-metrics"
DIRECTIONS = ("lower", "higher", "both")
PLACES = ("work_dirs", "runs")  # where runs are looked for
HEADER = ("metric", "epoch", "found", "reference", "allowed", "result")


@dataclass(frozen=True)
class Expected:
    """What a metric should be. `epoch` None means the last."""

    value: float
    tolerance: float = 0.0
    relative: bool = False
    direction: str = "both"
    epoch: int | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value that pass."""
        room = self.tolerance * (abs(self.value) if self.relative else 1.0)
        least = -math.inf if self.direction == "lower" else self.value - room
        greatest = math.inf if self.direction == "higher" else self.value + room
        return least, greatest


@dataclass(frozen=True)
class Outcome:
    """How a metric did. `found` is None if the run has no such number, `epoch` if it has no such epoch."""

    metric: str
    expected: Expected
    epoch: int | None
    found: float | None

    @property
    def passed(self) -> bool:
        least, greatest = self.expected.bounds
        return self.found is not None and math.isfinite(self.found) and least <= self.found <= greatest


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    top = flags.command_parser(PROG, "Compare a run's metrics with reference values. Exit code 1: one is off.")
    top.add_argument(
        "metrics",
        metavar="RUN",
        type=Path,
        nargs="?",
        default=None,
        help="a metrics.jsonl, or the work-dir that holds it (default: the newest under work_dirs/ or runs/)",
    )
    top.add_argument(
        "reference",
        metavar="REFERENCE",
        type=Path,
        nargs="?",
        default=None,
        help="JSON: {METRIC: {value, tolerance, relative, direction, epoch}} (default: all numbers are finite, and the "
        "training loss has fallen)",
    )
    return flags.parse(top, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all as expected, 1 a metric is off or missing, 2 a mistake in the input."""
    return run(PROG, _validate, argv)


def _validate(argv: Sequence[str] | None) -> int:
    arguments = vars(parse(argv))
    path = arguments.get("metrics") or newest_run()
    records = read_records(path / "metrics.jsonl" if path.is_dir() else path)
    if arguments.get("reference"):
        outcomes = compare(records, read_reference(arguments["reference"]))
    else:
        outcomes = compare(records, sound(records))
    print("\n".join(table(outcomes)))
    failed = [outcome.metric for outcome in outcomes if not outcome.passed]
    print(f"{path}: " + (f"off: {', '.join(failed)}" if failed else f"all {len(outcomes)} as expected"))
    return 1 if failed else 0


def newest_run() -> Path:
    """The work-dir under `work_dirs/` or `runs/` whose metrics were written last. Raises UserError if there is none."""
    found = [file for place in PLACES for file in Path(place).glob("**/metrics.jsonl")]
    if not found:
        raise UserError("RUN is not given, and no work_dirs/ or runs/ here holds one; name it")
    return max(found, key=lambda file: (file.stat().st_mtime, str(file))).parent


def sound(records: Records) -> dict[str, Expected]:
    """What a training must keep to without a reference: finite numbers, and a training loss below its first one."""
    first, last = records[0], records[-1]
    metrics = [name for name, value in last.items() if isinstance(value, float) or name in ("train_loss", "val_loss")]
    expected = {name: Expected(-math.inf, direction="higher") for name in metrics}
    if len(records) > 1 and _is_number(first.get("train_loss")):
        expected["train_loss"] = Expected(first["train_loss"], direction="lower")
    return expected


def read_reference(path: Path) -> dict[str, Expected]:
    """Read the reference values. Raises UserError that names the file and the wrong key."""
    content = read_json(path, "reference")
    if not isinstance(content, dict) or not content:
        raise UserError(f'{path}: must be an object of metrics, as {{"val_loss": {{"value": 3.6}}}}')
    return {todays_name(metric): _expected(f"{path}: {metric}", given) for metric, given in content.items()}


def _expected(where: str, given: Any) -> Expected:
    if not isinstance(given, dict):
        raise UserError(f"{where}: must be an object with a value")
    known = [field.name for field in fields(Expected)]
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key {shown(key)}{nearest(key, known)}")
    given = given | ({"epoch": None} if given.get("epoch") == "last" else {})
    for key, wrong, text in (
        ("value", not _is_number(given.get("value")), "a finite number"),
        ("tolerance", not _is_number(given.get("tolerance", 0)) or given.get("tolerance", 0) < 0, "0 or more"),
        ("relative", not isinstance(given.get("relative", False), bool), "true or false"),
        ("direction", given.get("direction", "both") not in DIRECTIONS, f"one of {', '.join(DIRECTIONS)}"),
        ("epoch", type(given.get("epoch")) not in (int, type(None)), "a number or last"),
    ):
        if wrong:
            raise UserError(f"{where}: {key} must be {text}, not {json.dumps(given.get(key))}")
    return Expected(**given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def compare(records: Records, reference: dict[str, Expected]) -> list[Outcome]:
    outcomes = []
    for metric, expected in reference.items():
        wanted = records[-1]["epoch"] if expected.epoch is None else expected.epoch
        record = next((record for record in records if record["epoch"] == wanted), None)
        value = record.get(metric) if record else None
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        outcomes.append(Outcome(metric, expected, record["epoch"] if record else None, found))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> list[str]:
    rows = [HEADER]
    for outcome in outcomes:
        least, greatest = outcome.expected.bounds
        if least == greatest:
            allowed = f"{least:.6g}"
        elif math.isfinite(least) and math.isfinite(greatest):
            allowed = f"{least:.6g} to {greatest:.6g}"
        elif math.isfinite(greatest):
            allowed = f"up to {greatest:.6g}"
        else:
            allowed = f"from {least:.6g}" if math.isfinite(least) else "a finite number"
        epoch = f"{outcome.expected.epoch}: none" if outcome.epoch is None else f"{outcome.epoch}"
        found = "missing" if outcome.found is None else f"{outcome.found:.6g}"
        result = "ok" if outcome.passed else "FAIL"
        reference = f"{outcome.expected.value:.6g}" if math.isfinite(outcome.expected.value) else ""
        rows.append((outcome.metric, epoch, found, reference, allowed, result))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


if __name__ == "__main__":
    sys.exit(main())
