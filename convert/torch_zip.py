"""The outer layer of a `.pt` file: a zip archive of stored entries, mapped for reading, streamed for writing.

    <root>/data.pkl             the containers; tensors refer to storages by key (see torch_pickle.py)
    <root>/byteorder            `little` or `big`, of the payloads; absent in old files, which are little
    <root>/.storage_alignment   `64`: every payload starts at a multiple of it, so that the file can be mapped
    <root>/data/0, data/1, ...  the payload of each storage, raw
    <root>/version              `3`

All sizes and offsets here are in bytes.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from mmap import ACCESS_COPY, MAP_ANONYMOUS, MAP_PRIVATE
from mmap import mmap as MemoryMap
from typing import BinaryIO

import numpy as np

ALIGNMENT = 64
ZIP32_MAX = 0xFFFFFFFF  # sizes and offsets from here on go to zip64 fields,
_SEE_ZIP64 = 0xFFFFFFFF  # and the plain fields then hold this
BASE_MEMORY = 64 << 20  # bytes that reading any file may take; with 4 times its size it is all that it may
THREADS = 4  # that compare checksums
_ENTRY_MEMORY = 400  # bytes that an entry of the directory takes here
_SUMMED = 1 << 24  # bytes a call of crc32
_CHUNK = 1 << 20  # bytes a write: large enough for the system call, small enough to stay in cache after the CRC
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that non-zip files start with


class Bad(Exception):
    """What is wrong with a file or an object, in one line without the file's name, which torch_file.py adds."""


class Archive:
    """The zip file: where its entries lie, and their bytes."""

    default_protocol = "torch.save's default protocol"

    def __init__(self, file: BufferedReader, *, mapped: bool):
        self.size = os.fstat(file.fileno()).st_size
        if self.size == 0:
            raise Bad("the file is empty")
        self.map = MemoryMap(file.fileno(), self.size, access=ACCESS_COPY)
        self.allowance = BASE_MEMORY + 3 * self.size  # bytes for objects; the payloads have the file's size once
        self.packed = ""  # the name of an entry that is compressed or encrypted
        self.entries = dict(self._directory())
        self.root = next(iter(self.entries), "").partition("/")[0]
        self.copied = 0
        self._check_kind()
        self.big_endian = self._byteorder() == b"big"
        if not mapped:
            self.map = self._in_memory(file)

    def _check_kind(self) -> None:
        """Refuse archives that torch.save did not write."""
        state_dict = "load it in Python and save the model's state_dict() with torch.save instead"
        if f"{self.root}/constants.pkl" in self.entries:
            raise Bad(f"a TorchScript archive: {state_dict}")
        if any(f"{self.root}/{name}" in self.entries for name in ("archive_format", ".data/python_version")):
            raise Bad(f"an archive of torch.export or torch.package: {state_dict}")
        if self.packed:
            raise Bad(f"entry {self.packed[:100]!r} is compressed or encrypted, which torch.save never does")
        if f"{self.root}/data.pkl" not in self.entries:
            raise Bad("a zip file, but not one of torch.save (it has no data.pkl)")

    def spend(self, size: int) -> None:
        """Count `size` bytes of memory before they are taken; raise Bad where the file has no claim to more."""
        self.allowance -= size
        if self.allowance < 0:
            raise Bad(
                f"refused: its lists and dicts would take more memory than {BASE_MEMORY >> 20} MB and 4 times the "
                f"file's size; keep numbers in tensors"
            )

    def advice(self, module: str) -> str:
        """What to do where the pickle names something of `module` that is not read."""
        hint = "gather it on one process, then save" if module.startswith("torch.distributed") else "save"
        kept = "only tensors, plain containers, numbers and text are read"
        return f"{kept}; {hint} the model's state_dict() with torch.save"

    def verify(self) -> None:
        """Compare every entry with its checksum, one pass over the file. Raises Bad, which names the entry.

        An entry without a checksum is not compared: torch writes 0 where `set_crc32_options(False)` was called.
        """
        self._check_overlap()
        summed = [(name, crc) for name, (_, _, crc) in self.entries.items() if crc]
        with ThreadPoolExecutor(THREADS) as pool, memoryview(self.map) as data:  # zlib leaves Python's lock to others

            def first_wrong(part: list[tuple[str, int]]) -> str | None:
                return next((name for name, crc in part if self._checksum(data, name) != crc), None)

            wrong = [name for name in pool.map(first_wrong, (summed[i::THREADS] for i in range(THREADS))) if name]
        if wrong:
            raise Bad(f"damaged file: entry {wrong[0][:100]!r} is not what was written (checksum); use another copy")

    def _check_overlap(self) -> None:
        end = 0
        for offset, size, _ in sorted(self.entries.values()):
            if offset < end:
                raise Bad("damaged file (its entries overlap)")
            end = offset + 30 + size

    def _checksum(self, data: memoryview, name: str) -> int:
        (start, end), crc = self._place(name), 0
        for at in range(start, end, _SUMMED):
            crc = zlib.crc32(data[at : min(end, at + _SUMMED)], crc)
        return crc

    def _in_memory(self, file: BufferedReader) -> MemoryMap:
        """The whole file as private memory. (np.empty would ask for huge pages, which took twice as long here.)"""
        memory = MemoryMap(-1, self.size, flags=MAP_PRIVATE | MAP_ANONYMOUS)
        if file.readinto(memory) != self.size:
            raise Bad("truncated while it was read")
        return memory

    def _byteorder(self) -> bytes:
        if f"{self.root}/byteorder" not in self.entries:
            return b"little"
        start, end = self.locate("byteorder")
        order = self.map[start : min(end, start + 8)]
        if order not in (b"little", b"big"):
            raise Bad(f"unknown byte order {order!r}")
        return order

    def _directory(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        """Each entry's name, the offset of its local header, its size and CRC-32, from the central directory."""
        count, at = self._directory_place()
        for _ in range(count):
            head = struct.unpack_from("<4s6H3I5H2I", self.map, at)
            signature, flags, method, crc, size, offset = head[0], head[3], head[4], head[7], head[9], head[16]
            name_length, extra_length, comment_length = head[10:13]
            if signature != b"PK\x01\x02":
                raise Bad("damaged file (its zip directory is not where it should be)")
            self.spend(_ENTRY_MEMORY + 5 * name_length)
            name = self.map[at + 46 : at + 46 + name_length].decode()
            extra = self.map[at + 46 + name_length : at + 46 + name_length + extra_length]
            if flags & 1 or method != 0:
                self.packed = self.packed or name
            size, offset = _zip64_fields(extra, head[8], size, offset)
            yield name, (offset, size, crc)
            at += 46 + name_length + extra_length + comment_length

    def _directory_place(self) -> tuple[int, int]:
        """The number of entries and the offset of the central directory."""
        end = self.map.rfind(b"PK\x05\x06", max(0, self.size - 65557))  # 22 bytes and a comment of up to 65535
        if end < 0:
            start = self.map[: len(_LEGACY_MAGIC)]
            if start == _LEGACY_MAGIC:
                raise Bad("torch's old format, from before 1.6: load it with a newer torch and save it again")
            if start.startswith(b"PK"):
                raise Bad("truncated: the zip directory at its end is missing")
            raise Bad("not a torch file (it is no zip archive)")
        if end + 22 > self.size:
            raise Bad("truncated: the zip directory at its end is not whole")
        count, _, offset = struct.unpack_from("<HII", self.map, end + 10)
        if end >= 20 and self.map[end - 20 : end - 16] == b"PK\x06\x07":  # torch writes these always
            (end64,) = struct.unpack_from("<Q", self.map, end - 12)
            count, _, offset = struct.unpack_from("<QQQ", self.map, end64 + 32)
        return count, offset

    def locate(self, name: str) -> tuple[int, int]:
        """Where the payload of an entry of torch's starts and ends."""
        if f"{self.root}/{name}" not in self.entries:
            raise Bad(f"entry {name[:100]!r} is missing")
        return self._place(f"{self.root}/{name}")

    def _place(self, name: str) -> tuple[int, int]:
        """Where the payload of an entry starts and ends. torch's local headers give only lengths, no sizes."""
        offset, size, _ = self.entries[name]
        signature, name_length, extra_length = struct.unpack_from("<4s22xHH", self.map, offset)
        start = offset + 30 + name_length + extra_length
        if signature != b"PK\x03\x04" or start + size > self.size:
            raise Bad(f"truncated or damaged: entry {name[:100]!r} does not lie inside the file")
        return start, start + size

    def load(self, name: str, swap: int) -> np.ndarray:
        """An entry's bytes, uint8 (size,): a view of the file, or a copy with each group of `swap` bytes reversed."""
        start, end = self.locate(name)
        payload = np.frombuffer(self.map, np.uint8, end - start, start)
        if swap == 1:
            return payload
        self.copied += payload.size
        if self.copied > self.size:  # entries that overlap could otherwise fill the memory
            raise Bad("damaged file (its entries overlap)")
        return payload.copy().view(f"u{swap}").byteswap(inplace=True).view(np.uint8)


def _zip64_fields(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int]:
    """The size and offset of a directory entry, from its zip64 field where the plain ones are all ones."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        if tag == 1:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            size = next(values, size) if size == _SEE_ZIP64 else size
            _ = next(values, 0) if packed == _SEE_ZIP64 else 0
            offset = next(values, offset) if offset == _SEE_ZIP64 else offset
        at += 4 + length
    return size, offset


class ZipWriter:
    """Writes stored entries under `archive/`, each payload at a multiple of 64 bytes as torch.save does.

    The bytes depend on the entries alone: the root folder is not the file's name, and every date is 1980.
    """

    def __init__(self, file: BinaryIO, progress: Callable[[int], None] | None = None):
        self.file, self.progress = file, progress
        self.at = 0
        self.directory: list[bytes] = []
        self.checksums: list[tuple[int, bytes]] = []  # of the local headers, which come before their payloads
        self.helper = ThreadPoolExecutor(1)  # starts its thread at the first large chunk

    def add(self, name: str, size: int, pieces: Iterable[memoryview | bytes]) -> None:
        """Add an entry of `size` bytes, the sum of its `pieces`."""
        full, offset, large = f"archive/{name}".encode(), self.at, size >= ZIP32_MAX
        extra = struct.pack("<HHQQ", 1, 16, size, size) if large else b""
        padding = -(offset + 30 + len(full) + len(extra) + 4) % ALIGNMENT
        extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        shown = _SEE_ZIP64 if large else size
        common = [45 if large or offset >= ZIP32_MAX else 20, 0, 0, 0, 0x21, 0, shown, shown, len(full)]
        self._write(struct.pack("<4s5H3I2H", b"PK\x03\x04", *common, len(extra)) + full + extra)
        start, crc = self.at, 0
        for piece in pieces:
            for chunk in (piece[i : i + _CHUNK] for i in range(0, len(piece), _CHUNK)):
                crc = self._write_summed(chunk, crc)
                if self.progress:
                    self.progress(len(chunk))
        if self.at - start != size:
            raise RuntimeError(f"entry {name} has {self.at - start} bytes, not the {size} announced")
        self.checksums.append((offset + 14, struct.pack("<I", crc)))
        common[5] = crc
        wide = [size, size] * large + [offset] * (offset >= ZIP32_MAX)
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        tail = (len(extra), 0, 0, 0, 0, _SEE_ZIP64 if offset >= ZIP32_MAX else offset)
        self.directory.append(struct.pack("<4s6H3I5H2I", b"PK\x01\x02", common[0], *common, *tail) + full + extra)

    def finish(self) -> None:
        """Write the central directory, with zip64 records where the plain one cannot count so far, and checksums."""
        start, count = self.at, len(self.directory)
        self._write(b"".join(self.directory))
        end, size = self.at, self.at - start
        if count >= 0xFFFF or end >= ZIP32_MAX:
            record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
            self._write(record + struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
            count, size, start = 0xFFFF, _SEE_ZIP64, _SEE_ZIP64
        self._write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, start, 0))
        self.file.flush()
        for offset, checksum in self.checksums:
            os.pwrite(self.file.fileno(), checksum, offset)
        self.helper.shutdown()

    def _write_summed(self, chunk: memoryview | bytes, crc: int) -> int:
        """Write a chunk and continue the checksum; both at once if the chunk is large, as each takes as long."""
        if len(chunk) < _CHUNK // 4:
            self._write(chunk)
            return zlib.crc32(chunk, crc)
        summed = self.helper.submit(zlib.crc32, chunk, crc)
        self._write(chunk)
        return summed.result()

    def _write(self, data: memoryview | bytes) -> None:
        self.file.write(data)
        self.at += len(data)
