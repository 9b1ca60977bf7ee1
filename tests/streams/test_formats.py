"""The four streams of v9 keep their names and formats: what was written before the table of streams is read after it.

State-dict keys are compared in tests/parity/test_torch_twin.py.
"""

import contextlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from slt_jax.cli.train import parse
from slt_jax.config import Config
from slt_jax.data.clip_files import ClipFiles, Frames
from slt_jax.data.feature_cache import Features
from slt_jax.data.packs import pack_record, unpack
from slt_jax.data.schema import BatchSizes, shapes
from slt_jax.errors import UserError
from slt_jax.streams import BY_NAME, IMAGES, STREAMS, parse_mix_stream

HERE = Path(__file__).parent
RECORD = (
    b'\xd8\x00\x00\x00{"id":"clip","text":"hola \xc3\xb1","face":{"numbers":[0,1,3],"sizes":[2,1,3],"names":'
    b'["clip_f0.png","clip_f000001.jpg","clip_f000003.jpg"]},"hand_l":{"numbers":[1],"sizes":[1]},'
    b'"hand_r":{"numbers":[],"sizes":[]},"pose":4}AABCCCDPOSE'
)


def frames(stream: str, numbers: list[int], names: tuple[str, ...] | None = None) -> Frames:
    return Frames(stream, np.array(numbers, np.int64), names)


def test_the_configuration_is_written_as_before():
    written = json.dumps(Config().to_dict(), indent=2) + "\n"
    assert written == (HERE / "config.json").read_text(encoding="utf-8")


def test_every_flag_of_training_is_still_there(capsys):
    with contextlib.suppress(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    missing = [flag for flag in (HERE / "flags.txt").read_text(encoding="utf-8").split() if flag not in text]
    assert missing == []


def test_a_batch_has_these_arrays():
    clip = (2, 5)
    assert shapes(BatchSizes(2, 5, image=28, landmarks=13, tokens=7)) == {
        **{stream: ((*clip, 28, 28, 3), np.uint8) for stream in ("face", "hand_l", "hand_r")},
        **{mask: (clip, bool) for mask in ("pad_mask", "miss_mask_hl", "miss_mask_hr")},
        "pose": ((*clip, 39), np.float32), "pose_conf_mask": ((*clip, 13), bool),
        "labels": ((2, 7), np.int32), "flip": ((2,), bool), "valid": ((2,), bool),
    }  # fmt: skip


def test_features_stand_in_the_place_of_images():
    half = np.dtype(np.float16)
    kinds = {"face": (4, np.dtype(np.float32)), "hand_l": (6, half), "hand_r": (8, half)}
    found = shapes(BatchSizes(2, 5, image=28, landmarks=13), features=kinds)
    assert {name: found[name] for name in kinds} == {
        "face": ((2, 5, 4), np.float32), "hand_l": ((2, 5, 6), half), "hand_r": ((2, 5, 8), half),
    }  # fmt: skip
    assert found["pose"] == ((2, 5, 39), np.float32)


def test_a_packed_record_has_these_bytes():
    face = frames("face", [0, 1, 3], ("clip_f0.png", "clip_f000001.jpg", "clip_f000003.jpg"))
    streams = {
        "face": (face, [b"AA", b"B", b"CCC"]),
        "hand_l": (frames("hand_l", [1]), [b"D"]),
        "hand_r": (frames("hand_r", []), []),
    }
    assert pack_record("clip", "hola ñ", streams, b"POSE") == RECORD
    _, parts = unpack(memoryview(RECORD))
    assert parts == {"face": (b"AA", b"B", b"CCC"), "hand_l": (b"D",), "hand_r": (), "pose": b"POSE"}


def test_a_file_of_features_has_these_bytes(tmp_path):
    """Checksum, fingerprint, then face, left and right hand; in a mirror the hands' frames change places."""
    files = ClipFiles(
        "clip", {"face": frames("f", [0]), "hand_l": frames("l", [0, 1]), "hand_r": frames("r", [])}, "clip.npz"
    )
    features = Features(tmp_path, dict.fromkeys(files.frames, (1, np.dtype(np.uint8))), {"clip": b"#" * 32})
    for mirrored, content in ((False, b"FFLLLR"), (True, b"FFLRRR")):
        shape = features.shapes(files, mirrored)
        arrays = {name: np.full(shape[name], ord(letter), np.uint8) for name, letter in zip(shape, "FLR", strict=True)}
        features.write(files, mirrored, arrays)
        written = features.path("clip", mirrored).read_bytes()
        assert written == zlib.crc32(b"#" * 32 + content).to_bytes(4, "little") + b"#" * 32 + content


@pytest.mark.parametrize(
    ("text", "stream"),
    [("face", "face"), ("hand-left", "hand_l"), ("HL", "hand_l"), ("hand_r:1", "hand_r"), ("pose", "pose")],
)
def test_streams_are_mixed_by_these_names(text, stream):
    assert parse_mix_stream(text) == (stream, 1.0)
    with pytest.raises(UserError, match="choose face, hand-left, hand-right or pose"):
        parse_mix_stream("body")


def test_the_rows_of_the_table_agree():
    assert len(BY_NAME) == len({stream.key for stream in STREAMS}) == len(STREAMS)
    names = [alias for stream in STREAMS for alias in stream.aliases]
    assert len(names) == len(set(names))
    for stream in STREAMS:
        twin = BY_NAME[stream.mirror]
        assert twin.mirror == stream.name
        assert (twin.images, bool(twin.mask)) == (stream.images, bool(stream.mask))
    found = {"face", "hand_l", "hand_r"}  # by detectors; others need to say where they are
    assert all(stream.name in found or stream.crop.around for stream in IMAGES)
