"""Read arrays of an npz file, after a look at what each declares: a few bytes can claim, or inflate to, gigabytes."""

import functools
import io
import lzma
import math
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

# NumPy reads a header as Python source, and up to 3.11.7 Python counts the nesting of all threads together: SystemError
# (python/cpython#106905).
_ONE_AT_A_TIME = threading.Lock()
MAX_LENGTH = 10_000_000  # frames: at 25 a second, more than four days
MAX_VALUES = 1 << 26  # of an array: 19 hours of 13 landmarks at 25 frames a second
MAX_HEADER = 4096  # bytes
NUMBERS, TEXTS = "biuf", "US"  # kinds of dtype

NPZ_ERRORS = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
    tokenize.TokenError,  # NumPy's, for a header whose brackets do not match
)  # fmt: skip


def read_arrays(file: BinaryIO, names: Iterable[str], *, kinds: str = NUMBERS) -> dict[str, np.ndarray]:
    """The arrays `names` that the npz file has, of the `kinds` of dtype.

    Raises one of NPZ_ERRORS; ValueError for one that declares objects, records or more than a clip can have.
    """
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        return {name: _read(archive, members[name], name, kinds) for name in names if name in members}


def declared_shape(file: BinaryIO, name: str) -> tuple[int, ...]:
    """The shape of one array, from its header alone. Raises one of NPZ_ERRORS."""
    with zipfile.ZipFile(file) as archive, _open(archive, archive.getinfo(f"{name}.npy"), name) as member:
        return _header(member, name, NUMBERS)[0]


def _open(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> zipfile.ZipExtFile:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # numpy writes no others
        raise ValueError(f"{name} is compressed in a way that numpy does not write")
    return archive.open(member)  # type: ignore[return-value]


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, kinds: str) -> np.ndarray:
    with _open(archive, info, name) as member:
        shape, fortran, dtype = _header(member, name, kinds)
        size = math.prod(shape) * dtype.itemsize
        data = member.read(size)
        if len(data) != size:
            raise ValueError(f"{name} has {len(data)} of the {size} bytes that it declares")
        member.read(1)  # at the end, the checksum is compared
    array = np.frombuffer(data, dtype) if size else np.empty(math.prod(shape), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _header(member: zipfile.ZipExtFile, name: str, kinds: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype. Reads as little as there may be, whatever the lengths say."""
    start = member.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise ValueError(f"{name} is not an array of numpy")
    width = 2 if start[6] == 1 else 4
    length = member.read(width)
    if int.from_bytes(length, "little") > MAX_HEADER:
        raise ValueError(f"{name} has a header of {int.from_bytes(length, 'little')} bytes")
    try:
        shape, fortran, dtype = _parsed(start[6], length + member.read(int.from_bytes(length, "little")))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError):
        raise ValueError(f"{name} has a damaged header") from None
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects (allow_pickle), expected numbers")
    if dtype.kind not in kinds:
        raise ValueError(f"{name} has the type {str(dtype)[:40]}, expected numbers")
    values = math.prod(shape) * max(dtype.itemsize // 16, 1)
    if len(shape) > 8 or min(shape, default=0) < 0 or max(shape, default=0) > MAX_LENGTH or values > MAX_VALUES:
        shown = str(shape) if len(str(shape)) <= 60 else f"{len(shape)} dimensions"
        raise ValueError(f"{name} declares the shape {shown}, more than a clip can have")
    return shape, fortran, dtype


@functools.lru_cache(1024)  # clips have few lengths, and NumPy takes a header apart as slowly as Python its source
def _parsed(version: int, header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """What a header says. Raises what NumPy does."""
    read = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    with _ONE_AT_A_TIME:
        return read(io.BytesIO(header))
