"""`slt-live` on a small model: a file fast and as if live, subtitles that are always whole, and sources that fail."""

import os
import re
import shlex
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from slt_jax.cli import live as command
from slt_jax.cli.live import main
from slt_jax.cli.subtitles import Screen, nth, one_line, pace_of
from slt_jax.decoding.results import Segment
from slt_jax.decoding.stream import Stream, Update
from slt_jax.media import live as extraction
from slt_jax.media.camera import source_of
from slt_jax.media.live import LiveExtractor
from slt_jax.media.settings import ExtractionSettings
from slt_jax.media.video import pictures
from slt_jax.serve.from_camera import LiveTranslation, Pace
from slt_jax.serve.translate_video import read_model, srt, vtt
from tests.commands import ROOT, command_of
from tests.media.synthetic import SquareDetector, picture, write_video
from tests.serve.test_translate_video import save_model


def sentences(count: int) -> list[np.ndarray]:
    """Signing for 0.8 s and rest for 1.2 s, `count` times."""
    moves = [abs(n % 8 - 4) * 3 if n < 20 else 0 for n in range(50)]
    one = [picture(96, 96, {"face": (48, 24), "left": (60 + x, 60), "right": (36 - x, 60)}) for x in moves]
    return one * count


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A checkpoint that was trained on raw poses, and videos of two sentences. Not to be changed."""
    folder = tmp_path_factory.mktemp("live")
    write_video(folder / "two.mp4", sentences(2))
    write_video(folder / "nobody.mp4", [np.zeros((96, 96, 3), np.uint8)] * 180)
    (folder / "pose").mkdir()
    np.savez(folder / "pose" / "a.npz", pose=np.zeros((2, 39)), landmark_set="upper13", pose_space="raw", fps=25.0)
    save_model(folder / "run", {"pose_dir": str(folder / "pose"), "max_target_length": 8, "v9_hand_masks": False})
    return folder


@pytest.fixture
def squares(monkeypatch):
    monkeypatch.setattr(extraction, "Detector", lambda min_confidence: SquareDetector())


def flags(place: Path, video: str = "two.mp4", *more: str) -> list[str]:
    return [str(place / video), "--checkpoint", str(place / "run" / "best.pt"), "--device", "cpu", "--num-beams", "1",
            *more]  # fmt: skip


def by_hand(place: Path) -> list[Segment]:
    """What the library makes of the video: one frame after another, in one thread."""
    file = read_model(place / "run" / "best.pt")
    model, settings = file.open(num_beams=1), ExtractionSettings(**file.defaults())
    engine = LiveTranslation(model, source_of(str(place / "two.mp4")), settings, make_detector=SquareDetector)._engine
    stream, segments = Stream(engine, space_unit=(96, 96)), []
    with LiveExtractor(settings, image_size=28, make_detector=SquareDetector) as extractor:
        frames = [
            f for shown in pictures(place / "two.mp4", 25) for f in extractor.frame(shown.image, shown.number / 25)
        ]
        for frame in frames + extractor.flush():
            segments += stream.push(frame.arrays).ended
    return [*segments, *stream.finish().ended]


def test_a_file_becomes_lines_and_subtitles(place, squares, tmp_path, capsys):
    files = [word for kind in ("srt", "vtt", "text") for word in (f"--{kind}", str(tmp_path / f"a.{kind}"))]
    assert main(flags(place, "two.mp4", *files)) == 0
    captured = capsys.readouterr()
    expected = [segment for segment in by_hand(place) if segment.text]
    assert len(expected) >= 2
    assert captured.out.splitlines() == [one_line(segment.text) for segment in expected]
    assert (tmp_path / "a.srt").read_text(encoding="utf-8") == srt(expected)
    assert (tmp_path / "a.vtt").read_text(encoding="utf-8") == vtt(expected)
    assert (tmp_path / "a.text").read_text(encoding="utf-8") == "\n".join(one_line(s.text) for s in expected[-2:])
    assert "100 frames" in captured.err
    assert "0 pictures dropped" in captured.err


class Slow(SquareDetector):
    """Takes longer than a picture is shown."""

    def body(self, image, *wanted):
        time.sleep(0.07)
        return super().body(image, *wanted)


def test_who_is_too_slow_drops_pictures_and_looks_at_fewer(place, monkeypatch, capsys):
    monkeypatch.setattr(extraction, "Detector", lambda min_confidence: Slow())
    monkeypatch.setattr("slt_jax.serve.pace.PATIENCE", 0.4)
    began = time.monotonic()
    assert main(flags(place, "two.mp4", "--realtime")) == 0
    assert time.monotonic() - began > 4
    error = capsys.readouterr().err
    assert float(error.split("at most ")[1].split()[0]) < 2.5  # it does not grow
    assert "the signer is now looked for in every 2nd picture only" in error
    assert ", 0 pictures dropped" not in error


def test_a_signal_ends_it_and_its_last_sentence(place, squares, tmp_path, capsys, monkeypatch):
    """The files are whole, and the sentence that was being signed is in them."""
    shown = command._show

    def after_a_while(*arguments):
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return shown(*arguments)

    monkeypatch.setattr(command, "_show", after_a_while)
    assert main(flags(place, "two.mp4", "--realtime", "--srt", str(tmp_path / "a.srt"))) == 0
    captured = capsys.readouterr()
    assert (tmp_path / "a.srt").read_text().startswith("1\n00:00:0")
    frames = int(captured.err.split("slt-live: ")[-1].split()[0])
    assert 10 < frames < 60
    assert captured.out.strip()
    assert not any(thread.name in ("camera", "extract") for thread in threading.enumerate())


def test_nobody_is_told_once_and_is_an_error_at_the_end(place, squares, capsys):
    assert main(flags(place, "nobody.mp4")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("note: nobody is seen for 5 s") == 1
    assert captured.err.splitlines()[-1].endswith("nobody is found in it; --signer-box says where to look")


def test_a_source_that_breaks_off_gives_what_came_before(place, squares, tmp_path, capsys):
    whole = write_video(tmp_path / "whole.mkv", sentences(2)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: 3 * len(whole) // 4])
    assert main([str(tmp_path / "cut.mkv"), *flags(place)[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out.strip()
    assert "cut.mkv: breaks off at" in captured.err.splitlines()[-1]


def test_mistakes_are_one_line(place, squares, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for arguments, named in (
        ([str(place / "two.mp4")], "--checkpoint is not given"),
        (["99", *flags(place)[1:]], "camera 99: there is no /dev/video99"),
        (["no.mp4", *flags(place)[1:]], "no.mp4: no such file"),
        ([str(tmp_path / "broken.mp4"), *flags(place)[1:]], "cannot be opened as a video"),
        (["rtsp://127.0.0.1:1/a", *flags(place)[1:]], "rtsp://127.0.0.1:1/a: cannot be opened"),
        (flags(place, "two.mp4", "--srt", "/no/such/a.srt"), "--srt /no/such/a.srt"),
        (flags(place, "two.mp4", "--text", str(tmp_path)), f"--text {tmp_path}: is a folder"),
        (flags(place, "two.mp4", "--srt", "a", "--vtt", "./a"), "name different files"),
        (flags(place, "two.mp4", "--landmarks", "17"), "the model was trained with 13"),
        (flags(place, "two.mp4", "--fps", "0"), "--fps 0"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1


class Terminal:
    """What a terminal of 30 columns shows, line by line, of what is written to it."""

    def __init__(self):
        self.lines, self.row, self.column = [""], 0, 0

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def write(self, text: str) -> None:
        for code in ("\x1b[2m", "\x1b[0m"):
            text = text.replace(code, "")
        while text:
            if text.startswith("\x1b[J"):
                text = text[3:]
                self.lines[self.row :] = [self.lines[self.row][: self.column]]
            elif text.startswith("\x1b[A"):
                self.row, text = self.row - 1, text[3:]
            elif text[0] in "\r\n":
                self.column = 0
                self.row += text[0] == "\n"
                self.lines += [""] * (self.row >= len(self.lines))
                text = text[1:]
            else:
                line = self.lines[self.row]
                self.lines[self.row] = line[: self.column] + text[0] + line[self.column + 1 :]
                self.column, text = self.column + 1, text[1:]
                assert self.column < 30


def test_a_terminal_shows_the_running_sentence_below_those_that_ended(monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((30, 9)))
    terminal = Terminal()
    screen, pace = Screen(terminal), Pace(10, 25.0, 2, 2, 0.4)
    screen.show(Update("uno", "dos", (), 1.0), pace)
    assert terminal.lines[0] == "uno dos"
    assert terminal.lines[1] == pace_of(pace)[-29:]
    screen.show(Update("", "", (Segment(0.0, 1.0, "uno dos\x1b[2J tres"),), 2.0), pace)
    screen.show(Update("una frase bastante más larga", "que la pantalla", (), 3.0), pace)
    assert terminal.lines[0] == "uno dos [2J tres"
    assert terminal.lines[1] == "tante más larga que la pantalla"[-29:]
    screen.clear()
    assert terminal.lines == ["uno dos [2J tres", ""]


def test_the_pace_in_words():
    assert pace_of(Pace(9, 25.0, 0, 1, None)) == "25 frames a second"
    assert (
        pace_of(Pace(9, 12.4, 3, 2, 0.52)) == "12 frames a second, lag 0.5 s, 3 dropped, looking at every 2nd picture"
    )
    assert [nth(n) for n in (1, 3, 4)] == ["every picture", "every 3rd picture", "every 4th picture"]


def test_webvtt():
    said = [Segment(0.0, 1.5, "uno < dos & tres"), Segment(1.5, 2.0, "")]
    assert vtt(said) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nuno &lt; dos &amp; tres\n"
    assert vtt([]) == "WEBVTT\n"


def section(guide: str, title: str) -> str:
    text = (ROOT / "docs" / guide).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_guides_commands_run_and_are_the_same_in_both_languages(place, squares, tmp_path, monkeypatch):
    english, spanish = section("live.md", "From a camera"), section("es/live.md", "Desde una cámara")
    blocks = re.findall(r"```bash\n(.*?)```", english, re.DOTALL)
    assert blocks == re.findall(r"```bash\n(.*?)```", spanish, re.DOTALL)
    assert sorted(re.findall(r"\d+", english)) == sorted(re.findall(r"\d+", spanish))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(place / "run")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "signing.mp4", sentences(1)[:30])
    (command_line,) = "".join(blocks).splitlines()
    called, arguments = command_of(shlex.split(command_line))
    assert called(arguments) == 0
    assert (tmp_path / "live.txt").read_text(encoding="utf-8").strip()
    assert (tmp_path / "live.vtt").read_text(encoding="utf-8").startswith("WEBVTT\n")
