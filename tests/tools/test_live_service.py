"""The benchmark of the service, in short: eight signers at once, with MediaPipe, in processes of their own."""

import json

import pytest

from tests.media.synthetic import signing, write_video
from tests.serve.test_translate_video import save_model
from tools.benchmarks.command import main


@pytest.mark.slow
def test_eight_signers_for_seconds(tmp_path, capsys):
    checkpoint = save_model(tmp_path / "run", {"v9_hand_masks": False})
    video, report = write_video(tmp_path / "video.mp4", signing(25)), tmp_path / "report.json"
    assert main(["live_service", str(video), "--checkpoint", str(checkpoint), "--seconds", "6", "--every", "4",
                 "--json", str(report)]) == 0  # fmt: skip
    results = json.loads(report.read_text(encoding="utf-8"))
    assert (results["sessions"], results["errors"]) == (8, [])
    assert results["pictures_a_second"] > 0
    assert results["text_lag"]["p95"] < 8
    assert "8 sessions for" in capsys.readouterr().out


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("no video")
    video = write_video(tmp_path / "video.mp4", signing(3))
    for words, named in (
        ([str(tmp_path / "text.mp4"), "--checkpoint", "x"], "cannot be opened as a video"),
        ([str(video), "--checkpoint", str(tmp_path / "none.pt")], "none.pt ended with 2; run it to see why"),
    ):
        assert main(["live_service", *words]) == 2
        error = capsys.readouterr().err
        assert (named in error, error.count("\n")) == (True, 1), error
