"""`.pt` files: hostile and damaged ones are refused, and a write that fails leaves the old file."""

import io
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from convert import TorchFileError, read_pt, write_pt

REPOSITORY = Path(__file__).resolve().parents[2]


def hostile(path, data: bytes, storages: dict[str, bytes] | None = None):
    """A torch zip around any pickle."""
    entries = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**entries, **(storages or {})}.items():
            archive.writestr(f"archive/{name}", content)
    return path


# ----------------------------------------------------------------------------------- hostile files


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def evil_pickles(sentinel):
    command, code = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w').close()"
    text = struct.pack("<I", len(str(sentinel))) + str(sentinel).encode()
    return {
        "system": pickle.dumps({"model_state": Evil(os.system, command)}, 2),
        "builtins.eval": pickle.dumps([1, Evil(eval, code)], 2),
        "builtins.exec": pickle.dumps(OrderedDict(a=Evil(exec, code)), 2),
        "builtins.getattr": pickle.dumps((Evil(getattr, Evil(__import__, "os"), "system"),), 2),
        "subprocess.Popen": pickle.dumps(Evil(subprocess.Popen, ["touch", str(sentinel)]), 2),
        "io.open": b"\x80\x02cio\nopen\nX" + text + b"X\x01\0\0\0w\x86R.",
        "torch.load": b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00x\x85R.",
        "torch._utils.os": b"\x80\x02ctorch._utils\nos\n.",
        "numpy._core.multiarray.scalar": pickle.dumps({"lr": np.float64(1)}, 2),
    }


@pytest.mark.parametrize("name", evil_pickles("x"))
def test_refused_globals_are_named_and_nothing_runs(name, tmp_path):
    sentinel = tmp_path / "ran"
    hostile(tmp_path / "x.pt", evil_pickles(sentinel)[name])
    with pytest.raises(TorchFileError, match=rf"x\.pt: refused global '\w*\.?{name}'") as error:
        read_pt(tmp_path / "x.pt")
    assert "\n" not in str(error.value)
    assert not sentinel.exists()


def test_the_sentinel_of_these_files_works(tmp_path):
    """Python's own unpickler runs them, so that the test above can fail."""
    for name in ("system", "builtins.eval", "builtins.exec"):
        pickle.loads(evil_pickles(tmp_path / name)[name])
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02ctorch\nfloat32\n)R.",  # call of a type
        b"\x80\x02X\x01\x00\x00\x00a)R.",  # call of a text
        b"\x80\x02ccollections\nOrderedDict\n}\x81.",  # NEWOBJ
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb.",  # an attribute over a method
        b"\x80\x02ccollections\nOrderedDict\n.",  # a function as the result
        b"\x80\x02ctorch\nFloatStorage\n.",
        b"\x80\x02](K\x01K\x02u.",  # SETITEMS on a list
        b"\x80\x02}K\x01a.",  # APPEND on a dict
        b"\x80\x02}(K\x01u.",  # a key without value
        b"\x80\x02}]K\x01s.",  # a list as a key
        b"\x80\x02h\x05.",  # nothing in the memo
        b"\x80\x02\x86.",  # too little on the stack
        b"\x80\x02t.",  # no MARK
        b"\x80\x02K\x01K\x02.",  # two objects
        b"\x80\x02(K\x01.",  # open MARK
        b"\x80\x02.",
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00N.",  # protocol 4
        b"\x80\x02X\xff\xff\xff\xff.",  # a text of 4 GB
        b"\x80\x02ccollections",
        b"",
    ],
    ids=repr,
)
def test_wrong_pickles(data, tmp_path):
    with pytest.raises(TorchFileError) as error:
        read_pt(hostile(tmp_path / "x.pt", data))
    assert "\n" not in str(error.value)


def tensor_pickle(numel, offset, size, stride, key="0"):
    """The pickle of one float32 tensor with any numbers, as a pickler without our checks writes it."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, key, "cpu", numel) if obj == "the storage" else None

    buffer = io.BytesIO()
    args = ("the storage", offset, size, stride, False, OrderedDict())
    Pickler(buffer, 2).dump(Evil(torch._utils._rebuild_tensor_v2, *args))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "numbers",
    [
        (11, 0, (10,), (1,)),  # a storage that is not in the file
        (9, 0, (9,), (1,)),
        (-10, 0, (1,), (1,)),
        (10, 1, (10,), (1,)),
        (10, 10, (), ()),
        (10, -1, (2,), (1,)),
        (10, 0, (11,), (1,)),
        (10, 0, (-1,), (1,)),
        (10, 9, (2,), (-1,)),
        (10, 0, (2,), (10,)),
        (10, 0, (2, 2), (1,)),
        (10, 0, (1 << 62, 1 << 62), (0, 0)),
        (10, 0, (1 << 70,), (0,)),
        (10, 0, (0, 1 << 70), (1, 1)),
        (10, 1 << 70, (1,), (1,)),
        (10, 0, (1,) * 70, (1,) * 70),
        (10, 0, (2.0,), (1,)),
        (10, 0, (True,), (1,)),
        (10, 0, "ab", "cd"),
        (10, 0, None, None),
        (10, None, (1,), (1,)),
        (10, 0, (1,), (1,), "1"),
        (10, 0, (1,), (1,), "../data.pkl"),
    ],
    ids=repr,
)
def test_numbers_outside_the_storage(numbers, tmp_path):
    payload = {"data/0": np.arange(10, dtype=np.float32).tobytes()}
    good = read_pt(hostile(tmp_path / "good.pt", tensor_pickle(10, 1, (3, 3), (3, 1)), payload))
    assert good.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    with pytest.raises(TorchFileError):
        read_pt(hostile(tmp_path / "x.pt", tensor_pickle(*numbers), payload))


def test_copies_do_not_multiply(tmp_path):
    text = b"X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"q\x00"
    data = b"\x80\x02" + text + b"X\x06\0\0\0latin1q\x01c_codecs\nencode\nq\x02"
    data += b"h\x02h\x00h\x01\x86R\x86" * 1000 + b"."  # call encode on the same text again and again
    tracemalloc.start()
    with pytest.raises(TorchFileError, match="copies more"):
        read_pt(hostile(tmp_path / "x.pt", data))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_loops_and_deep_nesting_are_refused_before_anything_recurses(tmp_path):
    list_in_itself, tuples = b"]q\x00h\x00a.", b")" + b"\x85" * 200_000 + b"."
    for data in (list_in_itself, tuples, b"(" * 200_000 + b"t" * 200_000 + b"."):
        with pytest.raises(TorchFileError, match="nested"):
            read_pt(hostile(tmp_path / "x.pt", b"\x80\x02" + data))


# ----------------------------------------------------------------------------------- damaged files


def test_what_is_not_a_file_or_not_a_torch_file(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a/b", "c")
    with zipfile.ZipFile(tmp_path / "none.pt", "w"):
        pass
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    write_pt(tmp_path / "deflated.pt", {"a": np.zeros(1000)})
    with zipfile.ZipFile(tmp_path / "deflated.pt") as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(tmp_path / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)
    (tmp_path / "script.pt").write_bytes((tmp_path / "deflated.pt").read_bytes())
    hostile(tmp_path / "script.pt", b"\x80\x02N.", {"constants.pkl": b""})
    messages = {
        "missing.pt": "no such file",
        ".": "directory",
        "empty.pt": "empty",
        "text.pt": "no zip",
        "zip.pt": "not one of torch.save",
        "none.pt": "not one of torch.save",
        "old.pt": "load it with a newer torch and save it again",
        "deflated.pt": "compressed",
        "script.pt": "TorchScript",
    }
    for name, message in messages.items():
        with pytest.raises(TorchFileError, match=message) as error:
            read_pt(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """The bytes of one object as we and as torch write it."""
    folder = tmp_path_factory.mktemp("damaged")
    a = torch.arange(6.0).reshape(2, 3)
    late = {"h": torch.ones(3, dtype=torch.bfloat16), "u": torch.ones(2, dtype=torch.uint16)}
    obj = {
        "epoch": 3,
        "state": OrderedDict(w=a, tied=a, t=a.t(), **late),
        "config": {"x": [1, 2.5, None, "text", b"\xff", {1, 2}, 1 << 40]},
    }
    torch.save(obj, folder / "theirs.pt")
    write_pt(folder / "ours.pt", read_pt(folder / "theirs.pt"))
    return [(folder / name).read_bytes() for name in ("ours.pt", "theirs.pt")]


def read_or_refuse(path, data: bytes) -> bool:
    """True if the bytes were read; the arrays are read to the end, which must not reach out of the file."""
    path.write_bytes(data)
    try:
        obj = read_pt(path, mmap=len(data) % 2 == 0)
    except TorchFileError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return False
    stack = [obj]
    while stack:
        item = stack.pop()
        if isinstance(item, np.ndarray) and item.nbytes < 1 << 16:
            item.tobytes()
        stack.extend(item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else [])
    return True


def test_every_truncation_is_refused(small_files, tmp_path):
    for data in small_files:
        assert read_or_refuse(tmp_path / "x.pt", data)
        for length in range(0, len(data), 7):
            assert not read_or_refuse(tmp_path / "x.pt", data[:length])


def test_truncated_inside_a_payload_says_so(tmp_path):
    write_pt(tmp_path / "x.pt", {"a": np.zeros(1000)})
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:4000])
    with pytest.raises(TorchFileError, match=r"x\.pt: truncated"):
        read_pt(tmp_path / "x.pt")


def damage(data: bytes, rng: random.Random) -> bytes:
    """One to four changes, half of them in the pickle and half in the zip's own records."""
    out = bytearray(data)
    pickled = data.index(b"\x80\x02"), data.index(b"PK", 10)
    directory = data.index(b"PK\x01\x02"), len(data)
    for _ in range(rng.randint(1, 4)):
        low, high = rng.choice([pickled, directory, (0, len(data))])
        at = rng.randrange(low, min(high, len(out)))
        kind = rng.randrange(4)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at : at + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"((((", b"RRRR"])
        else:
            start = rng.randrange(low, min(high, len(out)))
            out[at : at + 8] = out[start : start + 8]
    return bytes(out)


def test_damaged_files_are_refused_or_read_and_never_anything_else(small_files, tmp_path):
    rng, read = random.Random(7), 0
    tracemalloc.start()
    for _ in range(400):
        for data in small_files:
            read += read_or_refuse(tmp_path / "x.pt", damage(data, rng))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert 20 < read < 700  # some damage is invisible, most is not


# ------------------------------------------------------------------------------------ whole or not


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(step, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    write_pt(path, {"a": np.arange(5)})
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(TorchFileError, match=r"last\.pt: cannot be written: No space left"):
            write_pt(path, {"a": np.arange(6)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.pt"
    write_pt(path, {"a": np.arange(5)})
    before = path.read_bytes()

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pt(path, {"a": np.arange(6)}, progress=interrupt)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_write_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path):
    path, bystander = tmp_path / "last.pt", tmp_path / ".last.pt.notes.tmp"
    write_pt(path, {"a": np.arange(5)})
    bystander.touch()
    before = path.read_bytes()
    code = """if True:
        import os, sys, numpy as np
        from convert.torch_file import write_pt
        write_pt(sys.argv[1], np.zeros(9 << 20, np.uint8), progress=lambda n: n > 1 << 16 and os.kill(os.getpid(), 9))
    """
    for _ in range(2):
        result = subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, check=False)
        assert result.returncode == -signal.SIGKILL
        assert path.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 3  # what the first one left is gone already
    write_pt(path, {"a": np.arange(6)})
    assert sorted(tmp_path.iterdir()) == [bystander, path]
    assert read_pt(path)["a"].size == 6


def test_two_writers_at_once(tmp_path):
    path, inner = tmp_path / "last.pt", []

    def other_writer(count):
        if not inner:
            inner.append(count)
            write_pt(path, "inner")

    write_pt(path, {"a": np.arange(5)}, progress=other_writer)
    assert read_pt(path)["a"].size == 5
    assert list(tmp_path.iterdir()) == [path]


def test_symlinks_are_written_through(tmp_path):
    (tmp_path / "run1").mkdir()
    (tmp_path / "latest.pt").symlink_to("run1/last.pt")
    write_pt(tmp_path / "latest.pt", 1)
    assert (tmp_path / "latest.pt").is_symlink()
    assert read_pt(tmp_path / "run1" / "last.pt") == 1


def test_missing_folder(tmp_path):
    with pytest.raises(TorchFileError, match="cannot be written: No such file"):
        write_pt(tmp_path / "none" / "x.pt", 1)
