"""Images and pose files that lie about themselves, and files that are none."""

import io
import os
import struct
import time
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from slt_jax.data.clip_files import BadClip, decode_image, scan
from slt_jax.data.clips import read_clip
from slt_jax.data.contract import examine
from slt_jax.data.metadata import ClipRow
from slt_jax.data.npz import read_arrays
from slt_jax.data.quality import check_clip, check_images

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def decoded(path, size=16) -> np.ndarray:
    out = np.empty((size, size, 3), np.uint8)
    decode_image(str(path), out)
    return out


def refused(path, why: str) -> None:
    with pytest.raises(BadClip, match=why) as error:
        decoded(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


# --- images -------------------------------------------------------------------------------------------------------


def test_16_bits_of_grey_are_scaled_to_8(tmp_path):
    values = GREY.astype(np.uint16) * 257
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded(tmp_path / "a.png"), np.repeat(GREY[..., None], 3, 2))
    values[0, :3] = [128, 129, 65534]  # the nearest of 256 levels
    Image.fromarray(values).save(tmp_path / "a.png")
    assert decoded(tmp_path / "a.png")[0, :3, 0].tolist() == [0, 1, 255]
    Image.fromarray(values).save(tmp_path / "a.tiff")
    (tmp_path / "a.tiff").rename(tmp_path / "b.png")
    np.testing.assert_array_equal(decoded(tmp_path / "b.png"), decoded(tmp_path / "a.png"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_other_modes_look_as_they_do_elsewhere(tmp_path, mode):
    image = Image.fromarray(np.where(GREY > 99, 255, 0).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded(tmp_path / "a.png")[..., 1], np.where(GREY > 99, 255, 0))


@pytest.mark.parametrize("type_", [np.int32, np.float32])
def test_values_without_a_range_are_refused(tmp_path, type_):
    Image.fromarray(GREY.astype(type_)).save(tmp_path / "a.tiff")
    (tmp_path / "a.tiff").rename(tmp_path / "a.png")
    refused(tmp_path / "a.png", "32 bits")


def test_transparent_pixels_are_refused_before_training(factory):
    factory.write("a", 3)
    path = factory.root / "face" / "a_f000001.png"
    (factory.root / "face" / "a_f000001.jpg").unlink()
    palette = Image.fromarray(GREY).convert("P")
    palette.save(path, transparency=bytes([255] * 99 + [0] + [255] * 156))
    refused(path, "transparent pixels")
    files = scan(factory.dirs, ["a"])["a"]
    with pytest.raises(BadClip, match="transparent pixels"):
        check_images(files)
    assert "transparent pixels" in str(examine(files, ClipRow("a", "text")).findings)
    palette.save(path, transparency=bytes([255] * 256))  # says that nothing is
    np.testing.assert_array_equal(decoded(path)[..., 0], np.asarray(palette.convert("L")))


def huge_png(side: int) -> bytes:
    """A few bytes that declare a picture of `side` x `side`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def huge_jpeg(side: int) -> bytes:
    """A small JPEG whose header says that it is bigger."""
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG")
    at = buffer.getvalue().index(b"\xff\xc0") + 5
    return buffer.getvalue()[:at] + struct.pack(">HH", side, side) + buffer.getvalue()[at + 4 :]


@pytest.mark.parametrize("side", [8_193, 12_000, 60_000])
@pytest.mark.parametrize("make", [huge_png, huge_jpeg])
def test_more_pixels_than_a_crop_can_have_are_not_decoded(factory, make, side):
    factory.write("a", 2)
    path = factory.root / "face" / "a_f000000.jpg"
    path.write_bytes(make(side))
    tracemalloc.start()
    refused(path, f"{side} x {side} pixels, more than the 64 megapixels")
    finding = next(f for f in examine(scan(factory.dirs, ["a"])["a"], ClipRow("a", "text")).findings)
    assert "64 megapixels" in finding.detail
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_other_kinds_of_files_are_not_opened(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n")
    refused(tmp_path / "a.jpg", "no jpg or png")


# --- poses --------------------------------------------------------------------------------------------------------


def npz(path, descr: str, shape, data: bytes = b"", version=b"\x01\x00", compression=zipfile.ZIP_DEFLATED) -> None:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = len(head).to_bytes(2 if version[:1] == b"\x01" else 4, "little")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("pose.npy", b"\x93NUMPY" + version + size + head + data)


HOSTILE = {
    "huge": (lambda p: npz(p, "'<f4'", (10**12, 39)), "more than a clip can have"),
    "beyond 64 bits": (lambda p: npz(p, "'<f4'", (10**30, 39)), "more than a clip can have"),
    "many frames": (lambda p: npz(p, "'<f4'", (10_000_001, 3)), "more than a clip can have"),
    "wide": (lambda p: npz(p, "'<f4'", (5_000_000, 5_000_000)), "more than a clip can have"),
    "negative": (lambda p: npz(p, "'<f4'", (-1, 39)), "more than a clip can have"),
    "many dimensions": (lambda p: npz(p, "'<f4'", (1,) * 400), "400 dimensions, more than a clip can have"),
    "structured": (lambda p: npz(p, "[('a', '<f4'), ('b', '<i4')]", (3,), bytes(24)), "expected numbers"),
    "objects": (lambda p: npz(p, "'|O'", (3,), bytes(24)), "Python objects"),
    "long texts": (lambda p: npz(p, "'<U99999999'", (3,), bytes(24)), "expected numbers"),
    "complex": (lambda p: npz(p, "'<c8'", (3, 39), bytes(936)), "expected numbers"),
    "nested header": (lambda p: npz(p, "-" * 3900 + "1", (3,)), "damaged header"),
    "long header": (lambda p: npz(p, "'" + "x" * 50_000 + "'", (3,)), "a header of 50"),
    "other version": (lambda p: npz(p, "'<f4'", (3, 39), version=b"\x02\x00"), "has 0 of the 468 bytes"),
    "cut": (lambda p: npz(p, "'<f4'", (3, 39), bytes(100)), "has 100 of the 468 bytes"),
    "another compression": (lambda p: npz(p, "'<f4'", (1, 39), bytes(156), compression=zipfile.ZIP_LZMA), "compressed"),
    "npy": (lambda p: p.write_bytes(b"\x93NUMPY"), "not a zip file"),
    "pipe": (os.mkfifo, "is a pipe"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "is a pipe, device"),
    "folder": (lambda p: p.mkdir(), "directory"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pose_file_is_not_believed(factory, name):
    make, why = HOSTILE[name]
    factory.write("a", 3)
    path = factory.root / "pose" / "a.npz"
    path.unlink()
    make(path)
    files = scan(factory.dirs, ["a"])["a"]
    tracemalloc.start()
    with pytest.raises(BadClip, match=why) as error:
        read_clip(files, sequence_length=4, image_size=16, num_landmarks=13)
    check_clip(files, ClipRow("a", "text"))
    assert any(finding.severity == "error" for finding in examine(files, ClipRow("a", "text")).findings)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < len(str(path)) + 200
    assert "\n" not in str(error.value)


def test_a_small_file_does_not_inflate_to_gigabytes(factory):
    factory.write("a", 3)
    path = factory.root / "pose" / "a.npz"
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 39), }\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("pose.npy", "w") as member:
        member.write(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
        for _ in range(64):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    files = scan(factory.dirs, ["a"])["a"]
    tracemalloc.start()
    clip = read_clip(files, sequence_length=4, image_size=16, num_landmarks=13)  # what it declares is there
    assert (clip["pose"] == 0).all()
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("type_", [np.float16, np.float64, np.dtype(">f4"), np.int16])
def test_poses_of_every_number_type_are_read_as_numpy_reads_them(factory, order, type_):
    factory.write("a", 3)
    pose = np.asarray(factory.pose(3) * 10, type_, order)
    np.savez_compressed(factory.root / "pose" / "a.npz", pose=pose, miss_hand_l=np.array([0, 1, 0]))
    clip = read_clip(scan(factory.dirs, ["a"])["a"], sequence_length=3, image_size=16, num_landmarks=13)
    expected = pose.astype(np.float32).reshape(3, 13, 3)
    keep = expected[..., 2] >= 0.25
    np.testing.assert_array_equal(clip["pose_conf_mask"], keep)
    np.testing.assert_array_equal(clip["pose"].reshape(3, 13, 3)[keep], expected[keep])
    assert clip["miss_mask_hl"].tolist() == [False, True, False]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_frame_that_is_no_file_is_named(factory, make):
    factory.write("a", 3)
    path = factory.root / "face" / "a_f000001.jpg"
    path.unlink()
    make(path)
    files = scan(factory.dirs, ["a"])["a"]
    with pytest.raises(BadClip, match=r"a_f000001\.jpg: cannot be read as an image .*(pipe, device|directory)"):
        check_images(files)
    with pytest.raises(BadClip, match=r"a_f000001\.jpg: cannot be read as an image .*(pipe, device|directory)"):
        read_clip(files, sequence_length=3, image_size=16, num_landmarks=13)


def test_headers_are_read_by_one_thread_at_a_time(tmp_path, monkeypatch):
    """Python 3.11 fails now and then where two threads read source at once, as NumPy does for a header."""
    within, most = [], []
    for frames in range(8):
        np.savez(tmp_path / f"clip{frames}.npz", pose=np.zeros((frames, 41)))  # headers that no other test has
    read = np.lib.format.read_array_header_1_0

    def slow(text):
        within.append(1)
        most.append(len(within))
        time.sleep(0.01)
        found = read(text)
        within.pop()
        return found

    def shape(frames):
        with open(tmp_path / f"clip{frames}.npz", "rb") as file:
            return read_arrays(file, ["pose"])["pose"].shape

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(shape, range(8))) == [(frames, 41) for frames in range(8)]
    assert len(most) == 8
    assert max(most) == 1
