"""Frames of a corpus as its authors give it, to a translation with a score: prepared, packed, trained, evaluated."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slt_jax.cli import evaluate, pack_dataset, train
from slt_jax.corpora.prepare import PreparationRequest, prepare
from slt_jax.data.contract import check_data_set
from slt_jax.data.corpus_folder import SPLITS, folders_under
from slt_jax.media.extract_many import extract_videos
from slt_jax.media.video import BadVideo  # noqa: F401 - PyAV is needed
from tests.corpora import official
from tests.media.synthetic import SquareDetector, signing, write_video

ROOT = Path(__file__).resolve().parents[2]
extract = partial(extract_videos, make_detector=SquareDetector, progress=False)


def sign_phoenix(root: Path) -> Path:
    """A signer in place of the grey frames, each a little later in the movement."""
    official.phoenix14t(root, clips=(("train", 4), ("dev", 2), ("test", 2)), pictures=16)
    for number, folder in enumerate(sorted({path.parent for path in root.rglob("*.png")})):
        names = sorted(folder.iterdir())
        for name, image in zip(names, signing(len(names) + number)[number:], strict=True):
            Image.fromarray(image).save(name)
    return root


def test_frames_become_crops_and_poses_of_the_right_length(tmp_path):
    data = tmp_path / "data"
    request = PreparationRequest(
        corpus="phoenix14t", source=sign_phoenix(tmp_path / "p"), output=data, fps=12.5, workers=0
    )
    found = prepare(request, extract)
    assert found.failed == 0
    indices = {split: data / "index" / f"{split}.csv" for split in SPLITS}
    report = check_data_set(folders_under(data), data / "meta.csv", indices)
    # The detector of squares puts knees far out of the picture; one text is made to be in two splits.
    assert {finding.kind for finding in report.findings} == {"text used before", "pose out of range"}
    name = "02April_2010_Thursday_heute-6691"  # 17 frames at 25 a second
    assert len(list((data / "face").glob(f"{name}_f*.jpg"))) == 8
    assert len(np.load(data / "pose" / f"{name}.npz")["pose"]) == len(list((data / "face").glob(f"{name}_f*.jpg")))
    before = {path: path.stat().st_mtime_ns for path in (data / "pose").iterdir()}
    prepare(request, extract)  # the same command goes on, and finds all there
    assert {path: path.stat().st_mtime_ns for path in (data / "pose").iterdir()} == before


def test_videos_become_streams(tmp_path):
    source = official.how2sign(tmp_path / "h2s", long_videos=True)
    for path in (source / "train_raw_videos").iterdir():
        write_video(path, signing(40), rate=1)  # 40 seconds in 40 frames
    found = prepare(
        PreparationRequest(corpus="how2sign", source=source, output=tmp_path / "data", fps=2.0, workers=0,
                           split="train", limit=3, allow_missing=True),
        extract,
    )  # fmt: skip
    assert [found.records[clip.video_id]["frames"] for clip in found.corpus.clips] == [8, 8, 8]
    assert all(clip.duration == pytest.approx(4.25) for clip in found.corpus.clips)


@pytest.mark.slow
def test_prepared_packed_trained_and_scored(tmp_path, capsys):
    data, packs, run = tmp_path / "data", tmp_path / "packs", tmp_path / "run"
    prepare(
        PreparationRequest(corpus="phoenix14t", source=sign_phoenix(tmp_path / "p"), output=data, workers=0), extract
    )
    assert pack_dataset.main(["write", "--root", str(data), "--output", str(packs)]) == 0, capsys.readouterr().err
    tables = ["--metadata-csv", data / "meta.csv", "--train-index", data / "index" / "train.csv",
              "--val-index", data / "index" / "val.csv"]  # fmt: skip
    small = ["--config", ROOT / "configs" / "debug.yml", "--packs", packs, "--epochs", 1, "--sequence-length", 8]
    assert train.main([str(word) for word in [*small, *tables, "--work-dir", run]]) == 0, capsys.readouterr().err
    places = ["--root", data, "--eval-index", data / "index" / "test.csv"]
    arguments = ["--checkpoint", run / "last.pt", *places, "--output-csv", tmp_path / "p.csv", "--device", "cpu",
                 "--max-new-tokens", 6]  # fmt: skip
    assert evaluate.main(list(map(str, arguments))) == 0, capsys.readouterr().err
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert "BLEU" in capsys.readouterr().out
