"""`slt-plot`: panels, labels and files, and what it says of wrong input."""

import builtins
import json
from pathlib import Path

import pytest
from PIL import Image

from slt_jax.cli.plot_metrics import main
from slt_jax.pictures.curves import read_runs, run_labels

pytest.importorskip("matplotlib")


def write_run(folder: Path, epochs: int = 3, **more) -> Path:
    folder.mkdir(parents=True)
    records = [
        {"epoch": n, "train_loss": 3 / n, "val_loss": 2 / n, "val_cer": 0.9, "lr": 1e-3, "seconds": 60.0,
         "clips_per_second": 6.5, "data_wait_seconds": 3.0} | more
        for n in range(1, epochs + 1)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(*arguments: str) -> str:
    """The SVG, whose texts are texts."""
    assert main([*arguments, "--output", "out.svg"]) == 0
    with Image.open("out.png") as image:
        assert image.format == "PNG"
        assert image.getcolors(1 << 24) is not None
    return Path("out.svg").read_text(encoding="utf-8")


def test_two_runs_and_their_panels():
    write_run(Path("runs/first"), val_bleu=12.0, val_chrf=30.0)
    write_run(Path("runs/second"), epochs=40)
    svg = drawn("runs/first", "runs/second/metrics.jsonl")
    for text in ("first", "second", "loss", "validation", "BLEU", "chrF", "learning rate", "throughput", "waiting"):
        assert text in svg, text


def test_panels_without_numbers_are_left_out():
    write_run(Path("run"))
    svg = drawn("run")
    assert "BLEU" not in svg
    assert "learning rate" in svg
    write_run(Path("bare"), lr=None, val_cer=float("nan"), clips_per_second=None, seconds=0)
    svg = drawn("bare")
    assert "loss" in svg
    for text in ("learning rate", "error rate", "throughput", "waiting"):
        assert text not in svg, text


def test_equal_runs_give_equal_files():
    write_run(Path("run"))
    assert drawn("run") == drawn("run")


def test_labels_are_folders_as_far_as_they_differ():
    paths = [Path(p) / "metrics.jsonl" for p in ("/runs/a/big", "/runs/b/big", "/runs/c")]
    assert run_labels(paths) == ["a/big", "b/big", "c"]
    files = [Path("/runs/c") / name for name in ("metrics.jsonl", "old.jsonl")]
    assert run_labels(files) == ["c (metrics.jsonl)", "c (old.jsonl)"]


def test_names_are_no_formulas():
    write_run(Path("_cost$x$y"))
    assert "_cost$x$y" in drawn("_cost$x$y")


def test_epochs_are_in_order():
    write_run(Path("run"))
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    Path("run/metrics.jsonl").write_text("\n".join(reversed(lines)) + "\n\n")
    assert [record["epoch"] for record in read_runs(["run"])["run"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("", "no epoch has been finished yet"),
        ('{"epoch": 1}\n{"epoch": ', "line 2"),
        ("[1]", "line 1"),
        ('{"loss": 3}', "line 1"),
        ('{"epoch": 1, "train_loss": NaN}', "nothing to draw"),
        (b"\xff\xfe\x00", "not text"),
    ],
)
def test_bad_files_are_one_line(capsys, content, said):
    Path("run").mkdir()
    if content is not None:
        Path("run/metrics.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["run"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "run" in error
    assert error.count("\n") == 1
    assert not Path("metrics.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "./run"], "given twice"),
        (["run", "--output", "out.pdf"], "--output out.pdf"),
        (["run", "--output", "run"], "--output run"),
        (["run", "--output", "run/metrics.jsonl/a.png"], "--output"),
        (["run", "--outptu", "a.png"], "--output"),
        ([], "RUN"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, said):
    write_run(Path("run"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_matplotlib(capsys, monkeypatch):
    write_run(Path("run"))
    find = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["run"]) == 2
    assert 'pip install "slt-jax[plots]"' in capsys.readouterr().err
