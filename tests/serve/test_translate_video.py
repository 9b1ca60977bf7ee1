"""`slt-translate` on a small model: windows, JSON, subtitles, and what does not fit."""

import json
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pytest

import slt_jax
from convert import read_pt, write_pt
from convert.checkpoint import plan_model
from convert.state_dict import to_state
from slt_jax.cli import translate_video
from slt_jax.cli.translate_video import main
from slt_jax.config import build_config
from slt_jax.data.clip_files import scan
from slt_jax.data.clips import read_clip
from slt_jax.data.corpus_folder import folders_under
from slt_jax.data.text import decode, load_tokenizer, train_tokenizer
from slt_jax.media.extract_many import Job, extract_videos
from slt_jax.media.settings import ExtractionSettings
from slt_jax.serve.translate_video import Segment, open_translator, read_model, srt
from slt_jax.training.start import fresh_params
from tests.media.synthetic import SquareDetector, signing, write_video

MODEL = {
    "image_size": 28, "projector_dim": 16, "d_model": 32, "sequence_length": 10, "temporal_nhead": 4,
    "temporal_layers": 1, "temporal_dim_feedforward": 32, "decoder_layers": 1, "decoder_heads": 4,
    "backbone": {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 14, "image_size": 28},
}  # fmt: skip


def squares_of(min_confidence: float) -> SquareDetector:
    """A detector of a worker process."""
    return SquareDetector()


def save_model(folder: Path, data: dict, **sections) -> Path:
    """A checkpoint of random weights, with its tokenizer beside it."""
    tokenizer = train_tokenizer(["uno dos tres", "¿qué está mal?"], folder / "tokenizer")
    config = build_config({"model": MODEL | {"vocab_size": tokenizer.vocab_size}, "data": data} | sections)
    plan = plan_model(config.model)
    _, entries = plan.structure()
    # With wider weights the text depends on the frames, if their numbers do not outshine them.
    params = {path: 3 * np.asarray(array) for path, array in fresh_params(plan, entries, 0).items()}
    params["encoder.positional.embedding.embedding"] /= 50
    path = folder / "best.pt"
    write_pt(path, {"model_state": to_state(params, entries), "config": config.to_dict()})
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A checkpoint trained on raw poses, and a video of 22 frames. Not to be changed."""
    folder = tmp_path_factory.mktemp("translate")
    write_video(folder / "video.mp4", signing(22))
    (folder / "pose").mkdir()
    np.savez(folder / "pose" / "a.npz", pose=np.zeros((2, 39)), landmark_set="upper13", pose_space="raw", fps=25.0)
    data = {"pose_dir": str(folder / "pose"), "max_target_length": 8, "v9_hand_masks": False}
    save_model(folder / "run", data)
    save_model(folder / "v9", data | {"v9_hand_masks": True})
    return folder


@pytest.fixture
def squares(monkeypatch):
    """The command finds squares."""
    monkeypatch.setattr(translate_video, "Detector", squares_of)


def flags(place: Path, *more: str, run: str = "run") -> list[str]:
    return [str(place / "video.mp4"), "--checkpoint", str(place / run / "best.pt"), "--device", "cpu",
            "--num-beams", "2", *more]  # fmt: skip


def by_hand(place: Path, folder: Path, frames: int, *, masks: bool = False) -> str:
    """What the library makes of the first `frames` frames: extraction, loader, generation one after the other."""
    jobs = [Job(place / "video.mp4", "a", 0.0, frames / 25)]
    extract_videos(jobs, folder, ExtractionSettings(pose="raw"), 0, progress=False, make_detector=SquareDetector)
    files = scan(folders_under(folder), ["a"])["a"]
    clip = read_clip(files, sequence_length=10, image_size=28, num_landmarks=13, v9_inputs=masks)
    batch = {name: array[None] for name, array in clip.items()}
    name = "v9" if masks else "run"
    translator = slt_jax.load(place / name / "best.pt")
    tokens = translator.generate(batch, num_beams=2, min_length=2, max_length=8, early_stopping=True)
    return decode(load_tokenizer(place / name / "tokenizer"), tokens)[0]


def test_windows_json_and_subtitles(place, squares, tmp_path, capsys):
    assert main(flags(place, "--window", "0.4", "--json", "--srt", str(tmp_path / "a.srt"))) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    times = [(segment["start"], segment["end"]) for segment in said["segments"]]
    assert times == [(0.0, 0.4), (0.4, 0.8), (0.8, 0.88)]
    assert captured.err == ""  # the extraction is as the training data was: raw poses
    assert said["segments"][0]["text"] == by_hand(place, tmp_path / "streams", 10)
    assert said["text"] == " ".join(segment["text"] for segment in said["segments"] if segment["text"])
    assert (tmp_path / "a.srt").read_text(encoding="utf-8").startswith("1\n00:00:00,000 --> 00:00:00,400\n")


def test_python_is_told_what_the_command_prints(place, squares, monkeypatch, capsys):
    monkeypatch.setattr("slt_jax.serve.translate_video.Detector", squares_of)
    assert main(flags(place, "--window", "0.4", "--json")) == 0
    model = open_translator(place / "run" / "best.pt", num_beams=2)
    found = list(model.translate(place / "video.mp4", ExtractionSettings(pose="raw"), window=0.4))
    assert [asdict(segment) for segment in found] == json.loads(capsys.readouterr().out)["segments"]


def test_no_window_waits_for_a_program(place, tmp_path, caplog):
    """Three beams, as in no other test: what is compiled ahead is what translating runs."""
    model = read_model(place / "run" / "best.pt").open(num_beams=3)
    jobs = [Job(place / "video.mp4", "video", 0.0, 0.4)]
    extract_videos(jobs, tmp_path, ExtractionSettings(pose="raw"), 0, progress=False, make_detector=SquareDetector)
    with jax.log_compiles():
        model.compile()
        assert "jit(_generate)" in caplog.text
        caplog.clear()
        assert len(list(model.segments(tmp_path, 10, 25.0))) == 1
    assert "jit(_encode)" not in caplog.text
    assert "jit(_generate)" not in caplog.text


def test_a_long_video_is_cut_to_what_the_model_takes(place, squares, capsys):
    assert main(flags(place, "--json")) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert len(segments) >= 3
    assert all(segment["end"] - segment["start"] <= 0.4 + 1e-6 for segment in segments)
    assert segments[-1]["end"] == 0.88


def test_v9s_hand_masks_are_kept(place, squares, tmp_path, capsys):
    assert main(flags(place, "--window", "0.4", "--json", run="v9")) == 0
    captured = capsys.readouterr()
    assert "v9's hand masks" in captured.err
    assert json.loads(captured.out)["segments"][0]["text"] == by_hand(place, tmp_path, 10, masks=True)


def test_what_does_not_fit_the_model_is_said(place, squares, capsys):
    assert main(flags(place, "--landmarks", "17")) == 2
    error = capsys.readouterr().err
    assert "--landmarks upper17: has 17 points, the model was trained with 13" in error
    assert main(flags(place, "--pose", "signing", "--window", "0.4")) == 0
    assert "note: --pose signing: the model was trained on raw poses" in capsys.readouterr().err


def test_v9s_models_read_raw_poses(place, tmp_path):
    """Also where the streams that they were trained on are not at hand; of our own models nothing is known then."""
    content = read_pt(place / "run" / "best.pt")
    del content["config"]["data"]["pose_dir"]
    (tmp_path / "tokenizer").symlink_to(place / "run" / "tokenizer")
    write_pt(tmp_path / "v9.pt", content)
    assert read_model(tmp_path / "v9.pt").defaults()["pose"] == "raw"
    record = plan_model(build_config({"model": content["config"]["model"]}).model).record()
    write_pt(tmp_path / "ours.pt", content | {"architecture": record})
    assert "pose" not in read_model(tmp_path / "ours.pt").defaults()


def test_mistakes_are_one_line(place, squares, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    for arguments, named in (
        ([str(place / "video.mp4")], "--checkpoint is not given"),
        (flags(place, "--window", "0"), "--window 0"),
        (flags(place, "--srt", "/no/such/a.srt"), "--srt /no/such/a.srt"),
        (flags(place, "--num-beams", "0"), "--num-beams 0"),
        (flags(place, "--tokenizer", "/no/such"), "--tokenizer /no/such"),
        ([str(broken), *flags(place)[1:]], "cannot be opened as a video"),
        (["v.mp4", *flags(place)[1:]], "v.mp4: no such file"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert named in error
        assert error.count("\n") == 1


def test_subtitles():
    said = [Segment(0.0, 1.5, "uno"), Segment(1.5, 2.0, ""), Segment(3661.25, 3662.0, "¿dos?")]
    assert srt(said) == "1\n00:00:00,000 --> 00:00:01,500\nuno\n\n2\n01:01:01,250 --> 01:01:02,000\n¿dos?\n"


def test_a_model_that_learned_only_to_align_does_not_translate(place, tmp_path, capsys):
    aligned = save_model(tmp_path / "aligned", {}, training={"objectives": {"contrastive": 1}})
    assert main([str(place / "video.mp4"), "--checkpoint", str(aligned), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "was trained to align videos with texts, not to translate" in error
    assert error.count("\n") == 1
