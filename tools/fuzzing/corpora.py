"""The tables, annotations, captions and poses that other people publish, as samples for fuzzing."""

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slt_jax.corpora.captions import ENDINGS, read_captions
from slt_jax.corpora.known import CORPORA
from slt_jax.corpora.table import find_table, open_table
from slt_jax.media.other_poses import Layout, read_poses

COLUMNS = {"id": "name", "text": "sentence", "video": "file"}


def write_corpora(folder: Path) -> None:
    """A row or two of each corpus in its official shape."""
    head = "VIDEO_ID\tVIDEO_NAME\tSENTENCE_ID\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE\n"
    row = "v\tv-1-rgb_front\ts\tv_0-1-rgb_front\t0.5\t2.25\tHello\tthere\n"
    _write(folder / "how2sign" / "how2sign_realigned_train.csv", head + row)
    head = "name|video|start|end|speaker|orth|translation\n"
    row = "01April_2010-1|01April_2010-1/1/*.png|-1|-1|Signer04|REGEN|regen am abend\n"
    _write(folder / "phoenix14t/annotations/manual/PHOENIX-2014-T.train.corpus.csv", head + row)
    info = [{"name": "S1", "signer": 3, "length": 40, "label_gloss": ["a"], "label_char": ["b", "c"]}]
    _write(folder / "csl-daily/sentence_label/csl2020ct_v2.pkl", pickle.dumps({"info": info}, protocol=4))
    _write(folder / "csl-daily/sentence_label/split_1.txt", "name|split\nS1|train\n")
    head = "vid\tyid\tstart\tend\traw-text\ttokenized-text\tsplit\n"
    _write(folder / "openasl/data/openasl-v1.0.tsv", f"{head}a-00:00:01\ta\t00:00:01.0\t00:00:02.5\tHi\thi\ttrain\n")
    _write(folder / "openasl/data/bbox-v1.0.json", json.dumps({"a-00:00:01": [0.1, 0.2, 0.8, 0.9]}))
    _write(folder / "youtube-asl" / "youtube_asl_video_ids.txt", "abcdefghijk\n")
    _write(folder / "youtube-asl/abcdefghijk.en.vtt", "WEBVTT\n\n00:01.000 --> 00:02.500\n>> ANN: Hi [music]\n")


def write_tables(folder: Path) -> None:
    """The same rows as CSV, TSV, JSON and JSONL."""
    rows = [{"name": "a", "sentence": "uno", "file": "v1"}, {"name": "b", "sentence": 'dos "y" tres', "file": "v2"}]
    _write(folder / "csv" / "x.csv", "name,sentence,file\na,uno,v1\nb,dos,v2\n")
    _write(folder / "tsv" / "x.tsv", "name\tsentence\tfile\na\tuno\tv1\nb\tdos\tv2\n")
    _write(folder / "json" / "x.json", json.dumps(rows))
    _write(folder / "jsonl" / "x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def write_captions(folder: Path) -> None:
    """A caption in each of the formats."""
    _write(folder / "x.vtt", "WEBVTT\n\n1\n00:00:01.000 --> 00:00:02.000 align:start\n<c>Hi</c> &amp; (laughs)\n")
    _write(folder / "x.srt", "1\n00:00:01,000 --> 00:00:02,000\nHi\nthere\n\n2\n00:00:03,000 --> 00:00:04,000\n♪\n")
    events = [{"tStartMs": 1000, "dDurationMs": 900, "segs": [{"utf8": "Hi"}]}]
    _write(folder / "x.json3", json.dumps({"wireMagic": "pb3", "events": events}))


def write_poses(folder: Path) -> None:
    """A clip as a mediapipe array, and one as OpenPose's JSON."""
    np.save(folder / "x.npy", np.full((2, 33, 4), 0.5, np.float32))
    np.savez(folder / "y.npz", np.full((2, 33, 3), 0.5, np.float32))
    body = np.full((25, 3), 0.5).ravel().tolist()
    for frame in range(2):
        people = {"people": [{"pose_keypoints_2d": body, "hand_left_keypoints_2d": [1.0] * 63}]}
        _write(folder / "z" / f"z_{frame:012d}_keypoints.json", json.dumps(people))


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _corpus(name: str, folder: Path) -> Any:
    return CORPORA[name].read(folder / name, ("train",))


def _table(kind: str, folder: Path) -> Any:
    (folder / kind).mkdir(exist_ok=True)
    return list(open_table(find_table(folder / kind, "table"), COLUMNS).rows)


def _captions(ending: str, folder: Path) -> Any:
    return read_captions(folder / f"x{ending}")


def _poses(name: str, layout: Layout, folder: Path) -> Any:
    if not Path(name).suffix:
        (folder / name).mkdir(exist_ok=True)
    return read_poses(folder / name, layout)


# Each reads one of what the functions above write.
READ_CORPORA = [partial(_corpus, name) for name in CORPORA]
READ_TABLES = [partial(_table, kind) for kind in ("csv", "tsv", "json", "jsonl")]
READ_CAPTIONS = [partial(_captions, ending) for ending in ENDINGS]
READ_POSES = [
    partial(_poses, "x.npy", Layout(numbers="xyzv")),
    partial(_poses, "y.npz", Layout(numbers="xyc")),
    partial(_poses, "z", Layout(picture=(640, 480))),
]
