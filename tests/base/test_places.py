"""Places that cannot be written are told by name, whatever a library makes of it, and nothing is left behind."""

import errno
import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from slt_jax.base.files import replacing, replacing_folder, write_json
from slt_jax.base.places import check_file, check_folder, naming
from slt_jax.errors import UserError


@contextmanager
def files_of_at_most(size: int):
    """A limit on the size of files stands for a full disk: writing fails in the same way, on any machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_image(file):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)).save(file, "PNG")


def write_array(file):
    np.savez(file, zeros=np.zeros(40_000))


def write_and_hide(file):
    """A library that says something else, as ArrayRecord and Orbax do."""
    try:
        while True:
            os.write(file.fileno(), bytes(40_000))
    except OSError:
        raise RuntimeError("cannot close the writer") from None


@pytest.mark.parametrize("write", [write_image, write_array, write_and_hide, lambda file: file.write(bytes(70_000))])
def test_a_file_that_finds_no_room_is_named_and_leaves_the_old_one(tmp_path, write):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def replace() -> None:
        with replacing(path) as file:
            write(file)

    with files_of_at_most(50_000), pytest.raises(OSError, match=r"a\.bin") as raised:
        replace()
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_finds_no_room_is_named_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder"
    with replacing_folder(path) as folder:
        (folder / "old").touch()

    def replace() -> None:
        with replacing_folder(path) as folder:
            (folder / "new").write_bytes(bytes(2000))

    with files_of_at_most(1000), pytest.raises(OSError, match="folder") as raised:
        replace()
    assert raised.value.filename == str(path)
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]
    with replacing_folder(path) as folder:
        (folder / "newer").touch()
    assert [file.name for file in path.iterdir()] == ["newer"]


def test_errors_about_something_else_stay_as_they_are(tmp_path):
    missing = tmp_path / "data" / "missing"
    with pytest.raises(FileNotFoundError) as raised, replacing(tmp_path / "out" / "x"):
        missing.read_bytes()
    assert raised.value.filename == str(missing)
    with pytest.raises(KeyError), naming(tmp_path):
        {}["key"]
    with pytest.raises(ConnectionResetError, match=r"^gone$"), naming(tmp_path):
        raise ConnectionResetError("gone")


def test_tensorstore_tells_of_a_disk_that_has_room_again(tmp_path):
    """Its part of a file is gone by the time the disk could be asked."""
    with pytest.raises(OSError, match="No space left") as raised, naming(tmp_path):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device [os_error_code='28']")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path))
    with pytest.raises(OSError, match="No space left"), naming(tmp_path):
        raise RuntimeError("write() failed: No space left on device; at byte 8192; Failed to close chunk_writer")


def test_a_place_is_checked_without_leaving_anything(tmp_path):
    file = tmp_path / "file"
    file.touch()
    check_folder("--output", tmp_path / "new" / "er")
    check_file("--json", tmp_path / "new" / "x.json")
    check_file("--json", None)
    assert list(tmp_path.iterdir()) == [file]
    for place in (file / "x", file / "deeper" / "x"):
        with pytest.raises(UserError, match=r"^--json .*x: cannot be written \(Not a directory\)$"):
            check_file("--json", place)
        with pytest.raises(UserError, match=r"^--output .*x: cannot be written \(Not a directory\)$"):
            check_folder("--output", place)
    with pytest.raises(UserError, match="is a file; name a folder"):
        check_folder("--output", file)
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        check_file("--json", tmp_path)
    with files_of_at_most(1000), pytest.raises(UserError, match=r"^--json .*: cannot be written \(File too large\)$"):
        check_file("--json", tmp_path / "x.json")


def test_json_too(tmp_path):
    with files_of_at_most(10), pytest.raises(OSError, match=r"x\.json"):
        write_json(tmp_path / "x.json", {"key": "a value of some length"})
    assert not list(tmp_path.iterdir())
