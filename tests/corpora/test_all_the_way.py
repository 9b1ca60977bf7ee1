"""Every corpus, in the shape of its authors, is prepared and packed; one training takes them all, and gives a score.

Their poses alone, as grey crops say nothing; test_end_to_end.py has pictures and a detector.
"""

import csv
import shutil
from pathlib import Path

import pytest

from slt_jax.cli import evaluate, pack_dataset, train
from slt_jax.data.corpus_folder import SPLITS
from slt_jax.data.metadata import read_index, read_metadata
from tests.corpora import made, official
from tests.corpora.made import FakeExtraction
from tests.corpora.test_official import prepared

DEBUG = Path(__file__).resolve().parents[2] / "configs" / "debug.yml"
COLUMNS = {"id": "SENTENCE_NAME", "text": "SENTENCE", "video": "FILE", "split": "part"}


def lsa_t(root: Path) -> Path:
    made.write_videos(root, [])
    made.write_csv(root / "meta.csv", made.rows(5, 2))
    made.write_videos(root / "videos", [f"v{video}.mp4" for video in range(5)])
    return root


def films(root: Path) -> Path:
    rows = [f"t{n},a film of {n},film{n}.mp4,{SPLITS[n % 3]}" for n in range(6)]
    official.write(root / "films.csv", "\n".join(["SENTENCE_NAME,SENTENCE,FILE,part", *rows]) + "\n")
    for number in range(6):
        official.video(root / f"film{number}.mp4")
    return root


SOURCES = {"how2sign": official.how2sign, "phoenix14t": official.phoenix14t, "csl-daily": official.csl_daily,
           "youtube-asl": official.youtube_asl, "openasl": official.openasl, "lsa-t": lsa_t,
           "table": films}  # fmt: skip


def run(command, *arguments) -> None:
    assert command.main([str(argument) for argument in arguments]) == 0


@pytest.fixture
def corpora(tmp_path) -> Path:
    """All of them, prepared and packed one by one, and then put together."""
    root = tmp_path / "all"
    (root / "pose").mkdir(parents=True)
    (root / "index").mkdir()
    texts, ids = ["id;texto;lang"], {split: ["video_id"] for split in SPLITS}
    for name, write in SOURCES.items():
        output, columns = tmp_path / name, COLUMNS if name == "table" else {}
        prepared(name, write(tmp_path / f"{name} source"), output, extract=FakeExtraction(), fps=4.0, limit=3,
                 allow_missing=True, columns=columns)  # fmt: skip
        run(pack_dataset, "write", "--root", output, "--output", output / "packed", "--streams", "pose")
        run(pack_dataset, "verify", output / "packed", "--root", output)
        found = read_metadata(output / "meta.csv")
        texts += [f"{clip.video_id};{clip.text};{clip.lang or 'en'}" for clip in found.values()]
        for split in SPLITS:
            ids[split] += (
                read_index(output / "index" / f"{split}.csv") if (output / "index" / f"{split}.csv").exists() else []
            )
        for video_id in found:
            shutil.copy(output / "pose" / f"{video_id}.npz", root / "pose")
    official.write(root / "meta.csv", "\n".join(texts) + "\n")
    for split in SPLITS:
        official.write(root / "index" / f"{split}.csv", "\n".join(ids[split]) + "\n")
    return root


@pytest.mark.slow
def test_every_corpus_is_prepared_packed_trained_and_scored(corpora, tmp_path, capsys):
    packs, work = tmp_path / "packs", tmp_path / "run"
    run(pack_dataset, "write", "--root", corpora, "--output", packs, "--streams", "pose")
    half = (len(read_index(corpora / "index" / "train.csv")) + 1) // 2
    run(
        train, "--config", DEBUG, "--root", corpora, "--packs", packs, "--streams", "pose", "--epochs", 1,
        "--batch-size", half, "--sequence-length", 8, "--work-dir", work,
    )  # fmt: skip
    assert '"steps": 2' in (work / "metrics.jsonl").read_text()
    capsys.readouterr()
    run(
        evaluate, "--checkpoint", work / "last.pt", "--packs", packs, "--metadata-csv", corpora / "meta.csv",
        "--eval-index", corpora / "index" / "test.csv", "--output-csv", tmp_path / "p.csv", "--device", "cpu",
        "--max-new-tokens", 6,
    )  # fmt: skip
    assert "BLEU" in capsys.readouterr().out
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        scored = {row["video_id"] for row in csv.DictReader(file)}
    assert scored == {*read_index(corpora / "index" / "test.csv")}
    for name in {*SOURCES} - {"youtube-asl"}:  # which has no test split
        own = read_index(tmp_path / name / "index" / "test.csv")
        assert own, name
        assert {*own} <= scored
