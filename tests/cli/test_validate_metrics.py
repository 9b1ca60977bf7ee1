"""`slt-check-metrics`: what passes, what fails, and references that cannot be used."""

import json
import os
from pathlib import Path

import pytest

from slt_jax.cli.validate_metrics import main, read_reference

ROOT = Path(__file__).resolve().parents[2]
RECORDS = [{"epoch": 1, "val_loss": 4.0, "val_teacher_forced_cer": 0.9},
           {"epoch": 2, "val_loss": 3.0, "val_teacher_forced_cer": float("nan"), "gain": float("-inf")}]  # fmt: skip


@pytest.fixture
def check(tmp_path, capsys):
    """Compare `RECORDS` with a reference; returns the exit code, the lines printed and those on standard error."""

    def run(reference, records=RECORDS, where="metrics.jsonl") -> tuple[int, list[str], str]:
        (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
        (tmp_path / "reference.json").write_text(
            reference if isinstance(reference, str) else json.dumps(reference), encoding="utf-8"
        )
        code = main([str(tmp_path / where), str(tmp_path / "reference.json")])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


@pytest.mark.parametrize(
    ("given", "passes"),
    [
        ({"value": 3.0}, True),
        ({"value": 3.1}, False),
        ({"value": 3.1, "tolerance": 0.11}, True),
        ({"value": 2.9, "tolerance": 0.11}, True),
        ({"value": 2.9, "tolerance": 0.09}, False),
        ({"value": 3.1, "direction": "lower"}, True),
        ({"value": 2.9, "direction": "lower"}, False),
        ({"value": 2.9, "direction": "lower", "tolerance": 0.2}, True),
        ({"value": 2.9, "direction": "higher"}, True),
        ({"value": 3.1, "direction": "higher"}, False),
        ({"value": 3.3, "tolerance": 0.1, "relative": True}, True),
        ({"value": 3.4, "tolerance": 0.1, "relative": True}, False),
        ({"value": -3.3, "tolerance": 0.1, "relative": True, "direction": "lower"}, False),
        ({"value": 4.0, "epoch": 1}, True),
        ({"value": 4.0, "epoch": 2}, False),
        ({"value": 3.0, "epoch": "last"}, True),
        ({"value": 3.0, "epoch": 3}, False),
    ],
)
def test_a_value_passes_or_fails(check, given, passes):
    code, lines, _ = check({"val_loss": given})
    assert code == (0 if passes else 1)
    assert lines[1].endswith("ok" if passes else "FAIL")
    assert ("all 1 as expected" in lines[-1]) == passes
    assert ("off: val_loss" in lines[-1]) != passes


@pytest.mark.parametrize("direction", ["lower", "higher", "both"])
@pytest.mark.parametrize("metric", ["val_teacher_forced_cer", "gain", "val_bleu"])  # not a number, infinite, not there
def test_what_is_no_number_fails(check, metric, direction):
    code, lines, _ = check({metric: {"value": 0.5, "direction": direction, "tolerance": 100}, "val_loss": {"value": 3}})
    assert code == 1
    assert lines[1].endswith("FAIL")
    assert lines[2].endswith("ok")
    assert lines[-1].endswith(f"off: {metric}")


def test_a_relative_tolerance_of_a_negative_value(check):
    reference = {"score": {"value": -3.2, "tolerance": 0.1, "relative": True}}
    assert check(reference, [{"epoch": 1, "score": -3.0}])[0] == 0
    assert check(reference, [{"epoch": 1, "score": -3.6}])[0] == 1


def test_a_work_dir_stands_for_its_metrics(check):
    assert check({"val_loss": {"value": 3.0}}, where=".")[0] == 0


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("{", "is not JSON"),
        ('{"a": ' * 40 + "1" + "}" * 40, "is nested"),
        ('{"a": {"value": 1}, "a": {"value": 2}}', "'a' is there twice"),
        ({}, "must be an object of metrics"),
        ([1], "must be an object of metrics"),
        ({"val_loss": 3}, "val_loss: must be an object with a value"),
        ({"val_loss": {}}, "value must be a finite number, not null"),
        ({"val_loss": {"value": "3"}}, 'value must be a finite number, not "3"'),
        ('{"val_loss": {"value": NaN}}', "value must be a finite number"),
        ({"val_loss": {"value": 3, "tolerance": -1}}, "tolerance must be 0 or more"),
        ({"val_loss": {"value": 3, "tolerence": 1}}, "unknown key 'tolerence'; did you mean 'tolerance'"),
        ({"val_loss": {"value": 3, "n" * 500: 1}}, "unknown key 'nnnn"),
        ({"val_loss": {"value": 3, "direction": "up"}}, "direction must be one of lower, higher, both"),
        ({"val_loss": {"value": 3, "direction": []}}, "direction must be one of"),
        ({"val_loss": {"value": 3, "epoch": "first"}}, "epoch must be a number or last"),
        ({"val_loss": {"value": 3, "relative": 1}}, "relative must be true or false"),
    ],
)
def test_a_reference_that_cannot_be_used(check, reference, named):
    code, lines, error = check(reference)
    assert code == 2
    assert not lines
    assert error.startswith("slt-check-metrics: error: ")
    assert "reference.json" in error
    assert named in error
    assert error.count("\n") == 1
    assert len(error) < 400


def test_files_that_are_not_there(tmp_path, capsys):
    (tmp_path / "m.jsonl").write_text('{"epoch": 1}\n')
    for metrics, reference, named in (("no", "r.json", "no: no such file"), ("m.jsonl", "no.json", "no.json: cannot")):
        assert main([str(tmp_path / metrics), str(tmp_path / reference)]) == 2
        assert named in capsys.readouterr().err


def test_the_reference_of_the_debug_training_can_be_read():
    assert read_reference(ROOT / "configs" / "debug_reference.json").keys() >= {"train_loss", "val_loss"}


@pytest.mark.parametrize(
    ("losses", "code"), [([3.0, 2.0], 0), ([3.0, 3.5], 1), ([3.0, float("nan")], 1), ([3.0], 0), ([float("inf")], 1)]
)
def test_without_arguments_it_looks_at_the_newest_run(losses, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "no work_dirs/ or runs/ here holds one" in capsys.readouterr().err
    for age, (place, kept) in enumerate({"runs/new": losses, "work_dirs/old": [1.0, 9.0]}.items()):
        file = tmp_path / place / "metrics.jsonl"
        file.parent.mkdir(parents=True)
        lines = [json.dumps({"epoch": n, "train_loss": loss, "val_loss": 2.0}) for n, loss in enumerate(kept, 1)]
        file.write_text("\n".join(lines) + "\n")
        os.utime(file, (1e9 - age, 1e9 - age))
    assert main([]) == code
    out = capsys.readouterr().out
    assert "runs/new: " in out
    assert ("off: train_loss" in out) == bool(code)


def test_metrics_of_earlier_runs_are_read_by_todays_names(check):
    records = [{"epoch": 1, "val_cer": 0.25}]
    for name in ("val_cer", "val_teacher_forced_cer"):
        code, lines, _ = check({name: {"value": 0.25}}, records)
        assert (code, lines[-1].partition(": ")[2]) == (0, "all 1 as expected")
