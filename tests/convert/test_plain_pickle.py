"""Pickles of plain data are read as Python reads them, and nothing in them is run."""

import contextlib
import os
import pickle
import pickletools
import random

import numpy as np
import pytest

from convert.plain_pickle import read_pickle
from slt_jax.errors import UserError

DATA = {
    "info": [
        {"name": f"S{n:06d}_P0000_T00", "signer": n, "length": 10 + n, "label_gloss": ["他", "今天"],
         "label_char": list("他今天"), "text": "hola ñ 😀", "weight": 0.5, "none": None, "yes": True, "big": 2**70,
         "pair": (1, (2, 3), ()), "raw": b"\x00\xff"}
        for n in range(300)
    ],
    "gloss_map": {"他": 0},
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read_as_python_reads_it(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(DATA, protocol))
    assert read_pickle(path) == DATA


@pytest.mark.parametrize("protocol", [2, 4])
def test_numbers_of_numpy_become_python_numbers(tmp_path, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([np.int64(-7), np.float32(0.5), np.uint8(200), np.bool_(True)], protocol))
    found = read_pickle(path)
    assert found == [-7, 0.5, 200, True]
    assert [type(number) for number in found] == [int, float, int, bool]


def test_texts_of_python_2(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02U\x06" + "你好".encode() + b"q\x00.")
    assert read_pickle(path) == "你好"
    path.write_bytes(b"\x80\x02U\x01\xe9.")
    assert read_pickle(path) == "é"


def test_many_short_texts_fit_the_memory(tmp_path):
    """What an annotation of Chinese characters is: a new text a letter, each remembered."""
    path = tmp_path / "a.pkl"
    data = [[chr(0x4E00 + n % 5000) + "" for n in range(20)] for _ in range(2000)]
    path.write_bytes(pickletools.optimize(pickle.dumps(data, 3)))
    assert read_pickle(path) == data
    path.write_bytes(pickle.dumps([[bytes(text, "utf-8").decode() for text in row] for row in data], 3))
    assert read_pickle(path) == data


class Evil:
    def __reduce__(self):
        return os.system, ("echo evil > evil.txt",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_run(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"info": [Evil()]}, protocol))
    with pytest.raises(UserError, match=r"a\.pkl: refused global 'posix\.system': only lists"):
        read_pickle(tmp_path / "a.pkl")
    assert not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a pickle", "unsupported pickle opcode"),
        (b"\x80\x04]", "ends too early"),
        (b"\x80\x04\x8c\xffabc.", "ends too early"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "ends too early"),
        (b"\x80\x04" + b"(" * 5000 + b".", "nested too deep"),
        (b"\x80\x04" + b"]" * 10**6, "memory|ends too early"),
        (pickle.dumps(np.arange(3)), "refused global 'numpy"),
        (pickle.dumps(np.dtype("int64")), "which"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, content, reason):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason if reason != "which" else r"a\.pkl") as error:
        read_pickle(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_any_bytes_are_data_or_one_line(tmp_path):
    path, rng = tmp_path / "a.pkl", random.Random(1)
    whole = pickle.dumps({"info": DATA["info"][:3], "n": np.int64(3)}, 4)
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):  # anything else fails the test
            read_pickle(path)
