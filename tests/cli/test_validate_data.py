"""`slt-check-data`: exit codes, the table, and where it looks."""

import shutil

import pytest

from slt_jax.cli.validate_data import main


@pytest.fixture
def copy(corpus, tmp_path):
    """The corpus, to be damaged; it has no test clips, so it has no test index here."""
    root = shutil.copytree(corpus.root, tmp_path / "clips")
    (root / "index" / "test.csv").unlink()
    return root


def test_a_data_set_in_order(copy, capsys):
    assert main(["--root", str(copy)]) == 0
    *_, counts, verdict = capsys.readouterr().out.splitlines()
    assert counts.startswith("14 clips, ")
    assert verdict.startswith("0 errors, ")


def test_errors_are_listed_by_clip(copy, capsys):
    (copy / "pose" / "train_000003.npz").write_bytes(b"nothing")
    (copy / "face" / "train_000005_f000002.jpg").write_bytes(b"")
    assert main(["--root", str(copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["error", "train_000005", "face", "images", "unreadable"]
    assert lines[1].split()[:4] == ["error", "train_000003", "pose", "unreadable"]
    assert lines[-1].startswith("2 errors, ")


def test_warnings_are_errors_when_strict(copy, capsys):
    (copy / "pose" / "val_000001.npz").unlink()
    assert main(["--root", str(copy)]) == 0
    assert "warning  val_000001  pose missing" in capsys.readouterr().out
    assert main(["--root", str(copy), "--strict"]) == 1


def test_only_the_streams_that_are_asked_for(copy, capsys):
    for stream in ("face", "hand_l", "hand_r"):
        shutil.rmtree(copy / stream)
    assert main(["--root", str(copy)]) == 2
    assert "--face-dir" in capsys.readouterr().err
    assert main(["--root", str(copy), "--streams", "pose", "--strict"]) == 0
    *_, counts, verdict = capsys.readouterr().out.splitlines()
    assert (counts.endswith(" frames, 0 images"), verdict) == (True, "0 errors, 0 warnings")
    (copy / "pose" / "train_000003.npz").unlink()
    assert main(["--root", str(copy), "--streams", "pose"]) == 1
    assert "train_000003  no files" in capsys.readouterr().out
    assert main(["--root", str(copy), "--streams", "feet"]) == 2
    assert "--streams, model.streams: unknown stream 'feet'" in capsys.readouterr().err


def test_long_lists_are_cut_and_counted(copy, capsys):
    for path in (copy / "pose").glob("*.npz"):
        path.unlink()
    assert main(["--root", str(copy), "--rows", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("no npz file") == 3
    assert "... and 11 more  pose missing" in out


def test_folders_and_files_by_their_own_flags(copy, tmp_path, capsys):
    elsewhere = (copy / "meta.csv").rename(tmp_path / "texts.csv")
    assert main(["--root", str(copy)]) == 2
    assert "meta.csv: no such file" in capsys.readouterr().err
    assert main(["--root", str(copy), "--metadata-csv", str(elsewhere)]) == 0
    folders = [
        part for flag, name in (("face", "face"), ("hand-left", "hand_l"), ("hand-right", "hand_r"), ("pose", "pose"))
        for part in (f"--{flag}-dir", str(copy / name))
    ]  # fmt: skip
    capsys.readouterr()
    assert main([*folders, "--metadata-csv", str(elsewhere), "--val-index", str(copy / "index" / "val.csv")]) == 0
    assert "in no index" in capsys.readouterr().out  # the training clips, whose index was not given


def test_a_generated_corpus_keeps_the_contract(capsys):
    assert main(["--generate", "--strict"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 errors, 0 warnings"
    assert main([]) == 0  # as v9's tools/ci_validate_data_contract.py does
    out = capsys.readouterr().out.splitlines()
    assert "a generated corpus is checked (--root DIR checks yours)" in out[0]
    assert out[-1] == "0 errors, 0 warnings"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--metadata-csv", "m.csv"], "--face-dir is not given, nor --root"),
        (["--root", "nowhere"], "--root nowhere: no such directory"),
        (["--generate", "--root", "x"], "--generate makes its own data"),
        (["--roots", "x"], "unknown argument --roots; did you mean '--root'?"),
        (["--root", ".", "--rows", "few"], "--rows"),
    ],
)
def test_mistakes_in_the_flags(arguments, named, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
