"""`slt-view`: the files it writes, and what it says of wrong input."""

import builtins
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slt_jax.cli.view_clip import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(corpus, tmp_path, monkeypatch) -> Path:
    corpus.write("clip", 5, without={"hand_l": [1]}, fps=np.array(12.5))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sheet_and_a_film_are_written(folder, capsys):
    av = pytest.importorskip("av")
    assert main(["clip", "--root", "corpus"]) == 0
    said = capsys.readouterr().out
    assert "clip.png, clip.mp4" in said
    assert "5 frames at 12.5 fps, left hand 80%, right hand 100%" in said
    with Image.open("clip.png") as sheet:
        assert sheet.format == "PNG"
    with av.open("clip.mp4") as film:
        stream = film.streams.video[0]
        assert (stream.average_rate, stream.codec_context.name) == (12.5, "h264")
        assert sum(1 for _ in film.decode(video=0)) == 5


def test_some_streams_are_drawn_without_the_folders_of_others(folder, capsys):
    for name in ("face", "hand_l", "hand_r"):
        (folder / "corpus" / name).rename(folder / name)
    assert main(["clip", "--root", "corpus", "--output", "a.png"]) == 2
    assert "--face-dir" in capsys.readouterr().err
    assert main(["clip", "--root", "corpus", "--output", "a.png", "--streams", "pose"]) == 0
    assert "clip: 5 frames at 12.5 fps\n" in capsys.readouterr().out
    assert main(["clop", "--root", "corpus", "--output", "a.png", "--streams", "pose"]) == 2
    assert "no file of this clip in the folders; did you mean 'clip'?" in capsys.readouterr().err
    assert main(["clop", "--face-dir", "face", "--output", "b.png", "--streams", "face"]) == 2
    assert "did you mean 'clip'?" in capsys.readouterr().err
    assert main(["clip", "--face-dir", "face", "--output", "b.png", "--streams", "face"]) == 0


def test_a_gif_shows_every_frame(folder):
    assert main(["clip", "--root", "corpus", "--output", "out/new/clip.GIF", "--fps", "10"]) == 0
    with Image.open("out/new/clip.GIF") as film:
        assert (film.n_frames, film.info["duration"], film.info["loop"]) == (5, 100, 0)
        seen = []
        for frame in range(5):
            film.seek(frame)
            seen.append(np.asarray(film.convert("RGB")).astype(int))
    left = [(abs(frame - (60, 200, 60)).max(-1) < 30).mean() for frame in seen]  # the left hand's colour
    assert left[1] < 0.01 < min(left[0], left[2])


def test_without_pyav_the_film_is_a_gif(folder, capsys, monkeypatch):
    find = builtins.__import__

    def refuse(name, *rest):
        if name == "av":
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr("slt_jax.cli.view_clip.importlib.util.find_spec", lambda name: None)
    assert main(["clip", "--root", "corpus"]) == 0
    assert Path("clip.gif").exists()
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["clip", "--root", "corpus", "--output", "clip.mp4"]) == 2
    assert 'pip install "slt-jax[media]"' in capsys.readouterr().err
    assert not Path("clip.mp4").exists()


def test_a_folder_of_its_own_stands_in_for_the_roots(folder, capsys):
    (folder / "corpus" / "hand_r").rename(folder / "right")
    assert main(["clip", "--root", "corpus", "--hand-right-dir", "right", "--output", "a.png"]) == 0
    assert main(["clip", "--root", "corpus", "--output", "b.png"]) == 2
    assert "--hand-right-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["clp", "--root", "corpus"], "did you mean 'clip'?"),
        (["clip"], "--face-dir is not given"),
        (["clip", "--root", "nowhere"], "--root nowhere"),
        (["clip", "--root", "corpus", "--output", "clip.txt"], "--output clip.txt"),
        (["clip", "--root", "corpus", "--output", "corpus"], "--output corpus"),
        (["clip", "--root", "corpus", "--output", "corpus/pose/clip.npz/a.png"], "--output"),
        (["clip", "--root", "corpus", "--fps", "0"], "--fps 0"),
        (["clip", "--root", "corpus", "--fps", "nan"], "--fps nan"),
        (["clip", "--root", "corpus", "--columns", "0"], "--columns 0"),
        (["clip", "--root", "corpus", "--colums", "3"], "--columns"),
        ([], "VIDEO_ID"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, arguments, said):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_tool_runs_without_jax(folder):
    """A person who only looks at clips does not wait for JAX."""
    code = "import runpy, sys; sys.argv = sys.argv[1:]\n" \
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n" \
        "finally: assert 'jax' not in sys.modules"  # fmt: skip
    command = [sys.executable, "-c", code, str(ROOT / "tools" / "view_clip.py"), "clip", "--root", "corpus"]
    done = subprocess.run([*command, "--output", "a.png"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path("a.png").exists()


def test_real_clips(tmp_path):
    processed = ROOT.parent / "shared" / "real_clips" / "processed"
    if not processed.exists():
        pytest.skip("the real clips are not here")
    assert main(["lsat_clip2", "--root", str(processed), "--output", str(tmp_path / "a.gif")]) == 0
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 24
