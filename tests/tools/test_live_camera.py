"""The benchmark of a live camera: what it says of a signer whose places are known."""

import json

import pytest

pytest.importorskip("av")

from slt_jax.media import extract_many, live
from tests.media.synthetic import SquareDetector, signing, write_video
from tools.benchmarks.command import main


def test_every_picture_is_as_offline_and_fewer_are_near(tmp_path, monkeypatch, capsys):
    for module in (extract_many, live):
        monkeypatch.setattr(module, "Detector", lambda min_confidence: SquareDetector())
    write_video(tmp_path / "videos" / "a.mp4", signing(30))
    results = tmp_path / "results.json"
    assert main(["live_camera", str(tmp_path / "videos"), "--every", "1", "3", "--json", str(results)]) == 0
    one, three = json.loads(results.read_text())["rows"]
    for name in ("face", "hand_l", "hand_r"):
        assert one[f"iou_{name}"] == pytest.approx(1)
        assert 0.8 < three[f"iou_{name}"] <= 1
        assert one[f"crops_{name}"] == three[f"offline_{name}"] == 1
    assert (one["frames"], one["missed_frames"]) == (30, 0)
    assert one["pose_apart"] < 1e-4
    assert 0 <= three["pose_apart"] < 0.2
    assert "all | 3 | 30 | " in capsys.readouterr().out
