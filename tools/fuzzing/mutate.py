"""Small valid files, changed at random: bits, pieces, words, and what lies inside a zip behind its checksums."""

import io
import re
import warnings
import zipfile
from random import Random

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
WORDS = [
    b"", b"\0", b'"', b"'", b"\n", b"\r\n", b",", b";", b"\t", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80",
    b"../../x", b"/etc/passwd", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 5000, b"[" * 3000, b"{" * 300, b"*a",
    b"&a ", b"<<: ", b"!!python/object/apply:os.system ", b"null", b"~", b"true", b"{}", b"[]", b"\\ud800",
    "ñ手".encode(), b"0224", b"1:30", b"2024-01-01", b"a" * 70000,
]  # fmt: skip


def mutated(random: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a sample with one to four changes. Some of them are left out, swapped or made folders' names."""
    files = dict(files)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        name = random.choice(list(files))
        files[name] = _inside(random, files[name]) if random.random() < 0.4 else _bytes(random, files[name])
    if len(files) > 1 and random.random() < 0.05:
        del files[random.choice(list(files))]
    return files


def _inside(random: Random, data: bytes) -> bytes:
    """A zip with one member changed and its checksum made right again; other files are changed as they are."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:  # no zip, or one that an earlier change has damaged
        return _words(random, data)
    chosen = random.randrange(max(len(members), 1))
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for number, (info, content) in enumerate(members):
            if number == chosen and random.random() < 0.05:
                continue
            changed = _bytes(random, content) if number == chosen else content
            kind = zipfile.ZIP_DEFLATED if random.random() < 0.1 else zipfile.ZIP_STORED
            archive.writestr(info.filename, changed, kind)
    return out.getvalue()


def _bytes(random: Random, data: bytes) -> bytes:
    if not data:
        return random.choice(WORDS)
    kind, at = random.randrange(9), random.randrange(len(data))
    length = min(random.choice((1, 2, 4, 8, 64, 1024)), len(data) - at)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[at + length :]
    if kind == 3:
        return data[: at + length] + data[at:]
    if kind == 4:
        return data[:at] + bytes(length) + data[at + length :]
    if kind == 5:
        return data[:at] + random.randbytes(length) + data[at + length :]
    if kind == 6:
        width = random.choice((1, 2, 4, 8))
        number = random.choice(NUMBERS) & ((1 << 8 * width) - 1)
        return data[:at] + number.to_bytes(width, random.choice(("little", "big"))) + data[at + width :]
    if kind == 7:
        other = random.randrange(len(data))
        return data[:at] + data[other : other + length] + data[at + length :]
    return _words(random, data)


def _words(random: Random, data: bytes) -> bytes:
    """One word or number of a text replaced, left out, doubled, or put beside another."""
    places = [match.span() for match in re.finditer(rb"[A-Za-z_]+|-?[0-9.]+|[^\sA-Za-z0-9_]", data[:20_000])]
    if not places:
        return data + random.choice(WORDS)
    (start, end), (other, stop) = random.choice(places), random.choice(places)
    word = random.choice((random.choice(WORDS), data[other:stop], data[start:end] * 2, b""))
    return data[:start] + word + data[end if random.random() < 0.8 else start :]
