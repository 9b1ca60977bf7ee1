"""Hostile `.pt` files: what they may cost, in time, memory and letters of a message; and flipped bits."""

import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from convert import TorchFileError, read_pt, write_pt
from convert.source import open_source
from slt_jax.errors import UserError
from tests.convert.test_torch_file_damage import REPOSITORY, hostile, tensor_pickle

MEBIBYTE = 1 << 20


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def doubled(times: int) -> bytes:
    """A tuple that holds one tuple twice, which holds one tuple twice, ...: 2^times parts in a few bytes."""
    return b")" + b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(times))


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(("  # then the storage's parts
STORAGE = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"


@pytest.mark.parametrize(
    "data",
    [
        TENSOR + STORAGE + b"K\x00" + doubled(60) + b")\x89)tR",  # its size
        TENSOR + STORAGE + b"K\x00)" + doubled(60) + b"\x89)tR",  # its stride
        TENSOR + STORAGE + doubled(60) + b"))\x89)tR",  # its offset
        b"ctorch\ndevice\n" + doubled(60) + b"R",
        b"ctorch\ndevice\n" + doubled(60) + b"\x85R",
        doubled(60) + b")R",  # called
        doubled(60) + b"Q",  # the name of a storage
        b"c_codecs\nencode\n" + text("a") + doubled(60) + b"\x86R",
        b"ccollections\nCounter\n]" + doubled(60) + b"a\x85R",  # hashed
        b"c__builtin__\nset\n]" + doubled(60) + b"a\x85R",
        b"}" + doubled(60) + b"Ns",
        b"}" + doubled(60) + b"b",
        b"c__builtin__\ncomplex\n" + doubled(60) + b"N\x86R",
        TENSOR + STORAGE + b"K\x00(" + b"\x8a\xff" + b"\x7f" * 255 + b"t)\x89)tR",  # an axis of 2000 bits
        TENSOR + STORAGE + b"K\x00" + b")" + b"\x85" * 100_000 + b")\x89)tR",  # a deep one
        b")" + b"\x85" * 100_000 + b")R",
        b"}" + b")" + b"\x85" * 100_000 + b"Ns",
        b"c__builtin__\nset\n]" + b")" + b"\x85" * 100_000 + b"a\x85R",
    ],
    ids=lambda data: repr(data[:60]),
)
def test_shared_and_deep_parts_cost_no_more_than_their_bytes(data, tmp_path):
    hostile(tmp_path / "x.pt", b"\x80\x02" + data + b".", {"data/0": b"\0" * 16})
    start = time.process_time()
    with pytest.raises(TorchFileError) as error:
        read_pt(tmp_path / "x.pt")
    assert time.process_time() - start < 2
    assert len(str(error.value)) < 1000 + len(str(tmp_path))
    assert "\n" not in str(error.value)


def test_what_is_shared_is_read(tmp_path):
    found = read_pt(hostile(tmp_path / "x.pt", b"\x80\x02" + doubled(40) + b"."))
    for _ in range(40):
        assert found[0] is found[1]
        found = found[0]
    assert found == ()


READ = """if True:
    import resource, sys
    from convert import TorchFileError, read_pt
    def peak():  # KiB on Linux, bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    before = peak()
    for path in sys.argv[1:]:
        try:
            read_pt(path)
        except TorchFileError as error:
            print(peak() - before, error)
"""


def test_memory_is_bounded(tmp_path):
    pickles = {
        "dicts": b"(" + b"}" * MEBIBYTE + b"t",
        "nones": b"](" + b"N" * (4 * MEBIBYTE) + b"e",
        "keys": b"}(" + b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(400_000)) + b"u",
        "memo": b")" + b"".join(b"r" + struct.pack("<I", number) for number in range(800_000)),
        "itself": b"]q\x00(" + b"h\x00" * (2 * MEBIBYTE) + b"e",
        "wide text": text("a" * (40 * MEBIBYTE) + "\N{GRINNING FACE}"),
    }
    paths = [hostile(tmp_path / f"{name}.pt", b"\x80\x02" + data + b".") for name, data in pickles.items()]
    command = [sys.executable, "-c", READ, *map(str, paths)]
    lines = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.splitlines()
    for path, line in zip(paths, lines, strict=True):
        peak, message = line.split(" ", 1)
        assert f"{path}: refused: its lists and dicts would take more memory than 64 MB and 4 times" in message
        assert int(peak) < 64 * MEBIBYTE + 4 * path.stat().st_size


def test_a_directory_of_many_entries_is_bounded(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02N.")
    data = (tmp_path / "x.pt").read_bytes()
    at = data.index(b"PK\x01\x02")
    entries = b"".join(
        data[at : at + 28] + struct.pack("<H", 6) + data[at + 30 : at + 46] + b"%06x" % number
        for number in range(250_000)
    )
    end = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 250_000, 250_000, len(entries), at)
    end += struct.pack("<4sIQI", b"PK\x06\x07", 0, at + len(entries), 1)
    end += struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "x.pt").write_bytes(data[:at] + entries + end)
    with pytest.raises(TorchFileError, match="more memory"):
        read_pt(tmp_path / "x.pt")


def test_a_list_that_is_referred_to_often_is_walked_through_once(tmp_path):
    inner = b"](" + b"K\x01" * 20_000 + b"eq\x00"
    path = hostile(tmp_path / "x.pt", b"\x80\x02](" + inner + b"h\x00" * 20_000 + b"e.")
    start = time.process_time()
    assert len(read_pt(path)) == 20_001
    assert time.process_time() - start < 2


def test_keys_of_one_hash_are_refused_before_they_cost_time(tmp_path):
    prime = (1 << 61) - 1  # the hash of its multiples is 0
    found = pickle.dumps(dict.fromkeys(prime * factor for factor in range(1, 5000)), 2)
    with pytest.raises(TorchFileError, match="more than 4096 keys"):
        read_pt(hostile(tmp_path / "x.pt", found))


def test_expanded_tensors_are_views_up_to_a_bound(tmp_path):
    payload = {"data/0": np.arange(10, dtype=np.float32).tobytes()}
    small = read_pt(hostile(tmp_path / "small.pt", tensor_pickle(10, 1, (1000, 3), (0, 1)), payload))
    assert small.shape == (1000, 3)
    assert small[999].tolist() == [1, 2, 3]
    for size, stride in (((1 << 40,), (0,)), ((1 << 20, 1 << 20), (0, 0)), ((1 << 30, 9), (0, 1))):
        with pytest.raises(TorchFileError, match=r"stride 0.*save what it was expanded from"):
            read_pt(hostile(tmp_path / "x.pt", tensor_pickle(10, 0, size, stride), payload))


# ------------------------------------------------------------------------------------- flipped bits


def flip(path, place: bytes):
    """Flip one bit of the file, eight bytes after the first place where it holds `place`."""
    data = bytearray(path.read_bytes())
    data[data.index(place) + 8] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "writer", [write_pt, lambda path, obj: torch.save(torch_tensors(obj), path)], ids=["us", "torch"]
)
@pytest.mark.parametrize("mmap", [True, False])
def test_a_flipped_bit_in_a_tensor_is_noticed(writer, mmap, tmp_path):
    weights = np.random.default_rng(0).standard_normal((300, 300), np.float32)
    writer(tmp_path / "x.pt", {"model_state": OrderedDict(weight=weights), "epoch": 3})
    assert np.array_equal(read_pt(tmp_path / "x.pt", mmap=mmap)["model_state"]["weight"], weights)
    flip(tmp_path / "x.pt", weights[120].tobytes()[:64])
    with pytest.raises(TorchFileError, match=r"x\.pt: damaged file: entry '\w+/data/0' .*checksum"):
        read_pt(tmp_path / "x.pt", mmap=mmap)
    with pytest.raises(UserError, match="checksum"):
        open_source(tmp_path / "x.pt")


def torch_tensors(obj):
    """The object with torch's tensors in place of arrays."""
    if isinstance(obj, dict):
        return type(obj)((key, torch_tensors(value)) for key, value in obj.items())
    return torch.from_numpy(obj.copy()) if isinstance(obj, np.ndarray) else obj


def test_a_flipped_bit_beside_the_tensors_is_noticed(tmp_path):
    write_pt(tmp_path / "x.pt", {"note": "learning rate 0.001", "a": np.zeros(3)})
    flip(tmp_path / "x.pt", b"learning rate")
    with pytest.raises(TorchFileError, match=r"data\.pkl.*checksum"):
        read_pt(tmp_path / "x.pt")


def test_files_that_torch_wrote_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(5)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_pt(tmp_path / "x.pt")["a"].tolist() == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------- what is no file, or another


def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    with pytest.raises(TorchFileError, match=r"x\.pt: cannot be read: .*not a regular file"):
        read_pt(tmp_path / "x.pt")
    with pytest.raises(TorchFileError, match="not a regular file"):
        read_pt("/dev/zero")


def test_a_torchscript_archive_is_named_with_what_to_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "code/__torch__.py", "constants.pkl"):
            kind = zipfile.ZIP_DEFLATED if name.startswith("code") else zipfile.ZIP_STORED
            archive.writestr(f"script/{name}", b"\x80\x02N." * 20, kind)
    with pytest.raises(TorchFileError, match=r"a TorchScript archive: .*save the model's state_dict\(\)"):
        read_pt(tmp_path / "script.pt")


def test_a_whole_model_is_refused_with_what_to_do(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(TorchFileError, match=r"refused global 'torch\.nn.*save the model's state_dict\(\)"):
        read_pt(tmp_path / "x.pt")


@pytest.mark.parametrize("part", ["_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module", "_orig_mod"])
def test_the_names_of_wrappers_are_taken_out_anywhere(part, tmp_path):
    state = {f"{part}.encoder.face.{part}.weight": np.zeros(2), "encoder.bias": np.ones(2)}
    write_pt(tmp_path / "x.pt", state)
    assert set(open_source(tmp_path / "x.pt").checkpoint.state) == {"encoder.face.weight", "encoder.bias"}


def test_names_that_cannot_be_told_apart_are_refused(tmp_path):
    write_pt(tmp_path / "flat.pt", {"model_state": {"encoder._fsdp_wrapped_module._flat_param": np.zeros(9)}})
    with pytest.raises(UserError, match=r"flat\.pt: encoder.*FSDP.*FULL_STATE_DICT"):
        open_source(tmp_path / "flat.pt")
    write_pt(tmp_path / "two.pt", {"model_state": {"module.a": np.zeros(9), "a": np.ones(9)}})
    with pytest.raises(UserError, match=r"two\.pt: .*differ only in module"):
        open_source(tmp_path / "two.pt")
