"""`.pt` files without torch, against torch's own reader and writer."""

import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import ml_dtypes  # noqa: F401  (bfloat16 and float8 by name)
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convert import read_pt, torch_zip, write_pt

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDENS = sorted((REPOSITORY.parent / "shared" / "goldens").glob("*/checkpoint.pt"))
FLOAT8 = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = ["float16", "float32", "float64", "bfloat16", *FLOAT8, *INTEGERS, "bool", "complex64", "complex128"]


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's elements in row-major order, as bytes."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(ours, theirs):
    """`ours` (arrays) and `theirs` (tensors or arrays) have the same containers, types and bits."""
    if isinstance(theirs, torch.Tensor):
        assert type(ours) is np.ndarray
        assert (ours.shape, f"torch.{ours.dtype.name}") == (tuple(theirs.shape), str(theirs.dtype))
        assert ours.tobytes() == raw(theirs)
    elif isinstance(theirs, np.ndarray):
        assert type(ours) is np.ndarray
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert ours.tobytes() == theirs.tobytes()
    elif isinstance(theirs, torch.Size):
        assert ours == tuple(theirs)
    else:
        assert type(ours) is type(theirs)
        if isinstance(theirs, dict):
            assert list(ours) == list(theirs)
            assert getattr(ours, "_metadata", None) == getattr(theirs, "_metadata", None)
            ours, theirs = list(ours.values()), list(theirs.values())
        if isinstance(theirs, (list, tuple)):
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                assert_same(one, other)
        else:
            assert repr(ours) == repr(theirs) if isinstance(theirs, float) else ours == theirs


def torch_load(path, **options):
    return torch.load(path, weights_only=True, **options)


def write_and_check(path, obj):
    """Write, and compare with what we and torch (both ways) read back; torch's view is returned."""
    write_pt(path, obj)
    assert_same(read_pt(path), obj)
    assert_same(read_pt(path, mmap=False), obj)
    for mmap in (False, True):
        theirs = torch_load(path, mmap=mmap)
        assert_same(obj, theirs)
    return theirs


def sample(dtype: str, shape=(3, 4)) -> np.ndarray:
    bits = np.random.default_rng(1).integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    return (bits & 1).astype(bool)[..., 0] if dtype == "bool" else bits.view(dtype)[..., 0].copy()


def repack(path, changes: dict[str, bytes | None], root="other"):
    """Rewrite a zip with Python's zipfile under another root folder; None removes an entry."""
    with zipfile.ZipFile(path) as old:
        entries = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in {**entries, **changes}.items():
            if data is not None:
                new.writestr(f"{root}/{name}", data)


# ---------------------------------------------------------------------------------- goldens of v9


@pytest.mark.skipif(not GOLDENS, reason="the goldens are not on this machine")
@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.parent.name)
def test_goldens_equal_torch_and_round_trip(golden, tmp_path):
    before = golden.read_bytes()
    ours, theirs = read_pt(golden), torch_load(golden)
    assert_same(ours, theirs)
    assert isinstance(ours["model_state"], OrderedDict)
    write_and_check(tmp_path / "again.pt", ours)
    assert_ties_equal(ours["model_state"], torch_load(tmp_path / "again.pt")["model_state"])
    assert_ties_equal(ours["model_state"], theirs["model_state"])
    assert golden.read_bytes() == before


def assert_ties_equal(ours, theirs):
    """The same names share memory in both, and some do."""
    groups = []
    for state, address in ((ours, lambda a: a.ctypes.data), (theirs, lambda t: t.data_ptr())):
        names = {}
        for name, value in state.items():
            names.setdefault(address(value), []).append(name)
        groups.append(sorted(names.values()))
    assert groups[0] == groups[1]
    assert any(len(group) > 1 for group in groups[0])


# ------------------------------------------------------------------------------- types and shapes


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_both_ways(dtype, tmp_path):
    array = sample(dtype)
    theirs = write_and_check(tmp_path / "ours.pt", {"a": array, "scalar": sample(dtype, ()), "empty": array[:0]})
    torch.save(theirs, tmp_path / "theirs.pt")
    assert_same(read_pt(tmp_path / "theirs.pt"), theirs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex128", "bool", "int64"])
def test_big_endian_files(dtype, tmp_path):
    path, array = tmp_path / "big.pt", sample(dtype)
    write_pt(path, {"a": array, "same": array, "part": array[1:]})
    unit = array.itemsize // (2 if array.dtype.kind == "c" else 1)
    swapped = np.frombuffer(array.tobytes(), f"u{unit}").byteswap().tobytes()
    repack(path, {"byteorder": b"big", "data/0": swapped})
    for mmap in (True, False):
        ours = read_pt(path, mmap=mmap)
        assert_same(ours, torch_load(path))
        assert_same(ours["a"], array)
        assert np.shares_memory(ours["same"], ours["part"])


def test_numpy_views_are_written_as_contiguous_tensors(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (base.T, base[:, ::-1], base[::2, 1::3], np.broadcast_to(base[0], (3, 6)), base.astype(">f4").T):
        write_pt(tmp_path / "x.pt", {"a": view})
        theirs = torch_load(tmp_path / "x.pt")["a"]
        assert np.array_equal(theirs.numpy(), view)
        assert np.array_equal(read_pt(tmp_path / "x.pt")["a"], view)
        assert theirs.is_contiguous()
        assert theirs.untyped_storage().nbytes() == view.nbytes


def test_unaligned_arrays(tmp_path):
    base = np.arange(41, dtype=np.uint8)
    unaligned = base[1:].view(np.float64)
    assert unaligned.ctypes.data % 8
    write_and_check(tmp_path / "x.pt", {"a": unaligned, "b": unaligned.view(np.complex64)[1:]})


def test_subclass_that_means_more_than_its_buffer_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"\['a'\] is a numpy.ma\S*MaskedArray"):
        write_pt(tmp_path / "x.pt", {"a": np.ma.masked_array([1, 2], [True, False])})


# ------------------------------------------------------------------------------------ containers

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 80), 1 << 80),
    st.floats(),
    st.complex_numbers(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
)
PAIRS = st.tuples(st.integers(), st.text(max_size=2))
KEYS = st.one_of(st.text(max_size=5), st.integers(-1000, 1 << 40), st.none(), PAIRS)
ARRAYS = st.builds(sample, st.sampled_from(DTYPES), st.sampled_from([(), (0,), (2, 1), (3,), (0, 2)]))
OBJECTS = st.recursive(
    st.one_of(SCALARS, ARRAYS, st.sets(KEYS, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("objects")


@settings(max_examples=60, deadline=None)
@given(obj=OBJECTS)
def test_any_object_of_plain_containers(folder, obj):
    write_and_check(folder / "x.pt", obj)


def test_long_and_shared_containers(tmp_path):
    shared = {"lr": 1e-3, "betas": (0.9, 0.999)}
    obj = {f"key {i}": [i, f"value {i}"] for i in range(600)} | {"one": shared, "two": shared, "text": "ñ€😀" * 300}
    write_and_check(tmp_path / "x.pt", obj)
    ours, theirs = read_pt(tmp_path / "x.pt"), torch_load(tmp_path / "x.pt")
    assert ours["one"] is ours["two"]
    assert theirs["one"] is theirs["two"]


def test_counter_bytearray_and_dtype(tmp_path):
    write_pt(tmp_path / "x.pt", obj := [Counter("aab"), bytearray(b"\x00\xff"), {1, "a"}, b"", np.dtype("bfloat16")])
    assert read_pt(tmp_path / "x.pt") == obj
    assert torch_load(tmp_path / "x.pt") == [*obj[:4], torch.bfloat16]


def test_state_dict_keeps_torch_metadata(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    torch.save(module.state_dict(), tmp_path / "theirs.pt")
    ours = read_pt(tmp_path / "theirs.pt")
    assert ours._metadata == module.state_dict()._metadata
    write_and_check(tmp_path / "ours.pt", ours)
    module.load_state_dict(torch_load(tmp_path / "ours.pt"), strict=True)


def test_optimizer_and_scheduler_of_torch(tmp_path):
    module = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    torch.save({"o": optimizer.state_dict(), "s": scheduler.state_dict()}, tmp_path / "theirs.pt")
    ours = read_pt(tmp_path / "theirs.pt")
    assert ours["s"]["milestones"] == Counter([2, 5])
    optimizer.load_state_dict(write_and_check(tmp_path / "ours.pt", ours)["o"])


def test_what_torch_writes_besides_plain_tensors(tmp_path):
    parameter = torch.nn.Parameter(torch.arange(3.0))
    named = torch.arange(4)
    named.note = "an attribute, which makes torch write _rebuild_from_type_v2"
    obj = {"p": parameter, "n": named, "size": torch.Size([2, 3])}
    torch.save({**obj, "dtype": torch.float16, "device": torch.device("cuda", 1)}, tmp_path / "x.pt")
    ours = read_pt(tmp_path / "x.pt")
    assert (ours.pop("dtype"), ours.pop("device")) == (np.float16, "cuda:1")
    assert_same(ours, obj)


# ----------------------------------------------------------------------------- shared storages


def test_torch_strides_and_shared_storages(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    obj = {"base": base, "t": base.t(), "row": base[2], "steps": base[1::2, ::3], "expanded": base[0].expand(3, 6)}
    torch.save(obj, tmp_path / "x.pt")
    for mmap in (True, False):
        ours = read_pt(tmp_path / "x.pt", mmap=mmap)
        assert_same(ours, obj)
        assert all(np.shares_memory(ours["base"], value) for value in ours.values())
        assert ours["t"].strides == (4, 24)
    theirs = write_and_check(tmp_path / "again.pt", ours)
    assert len({t.untyped_storage().data_ptr() for t in theirs.values()}) == 1
    assert theirs["t"].stride() == (1, 6)


def test_a_view_without_its_base_still_reads_from_the_whole_storage(tmp_path):
    torch.save(torch.arange(10)[3:9:2], tmp_path / "x.pt")
    assert read_pt(tmp_path / "x.pt").tolist() == [3, 5, 7]


def test_tied_arrays_are_one_storage(tmp_path):
    a, transposed = np.ones((3, 4), np.float32), np.ones((4, 3), np.float32).T
    obj = {"a": a, "same": a, "view": a.view(), "t1": transposed, "t2": transposed[:], "other": a.copy()}
    theirs = write_and_check(tmp_path / "x.pt", obj)
    assert theirs["a"].data_ptr() == theirs["same"].data_ptr() == theirs["view"].data_ptr()
    assert theirs["t1"].data_ptr() == theirs["t2"].data_ptr()
    assert len({t.untyped_storage().data_ptr() for t in theirs.values()}) == 3
    ours = read_pt(tmp_path / "x.pt")
    assert np.shares_memory(ours["a"], ours["view"])
    assert not np.shares_memory(ours["a"], ours["other"])


def test_overlapping_parts_share_a_storage_without_their_base(tmp_path):
    base = np.arange(20, dtype=np.int32)
    obj = {"high": base[8:15], "low": base[2:10], "inside": base[3:9:2], "apart": base[16:]}
    obj["another type"] = base[4:6].view(np.uint8)
    theirs = write_and_check(tmp_path / "x.pt", obj)
    pointers = {name: tensor.untyped_storage().data_ptr() for name, tensor in theirs.items()}
    assert pointers["high"] == pointers["low"] == pointers["inside"]
    assert len(set(pointers.values())) == 3
    assert theirs["low"].untyped_storage().nbytes() == 13 * 4


def test_only_the_used_part_of_a_buffer_is_written(tmp_path):
    write_pt(tmp_path / "x.pt", np.zeros((1000, 1000))[:, 3])
    assert (tmp_path / "x.pt").stat().st_size < 10_000


def test_writing_to_a_mapped_array_changes_no_file(tmp_path):
    write_pt(tmp_path / "x.pt", {"a": np.zeros(5)})
    before = (tmp_path / "x.pt").read_bytes()
    ours = read_pt(tmp_path / "x.pt")
    ours["a"][:] = 7
    assert (tmp_path / "x.pt").read_bytes() == before
    write_pt(tmp_path / "x.pt", ours)  # over the very file that is mapped
    assert read_pt(tmp_path / "x.pt")["a"].tolist() == ours["a"].tolist() == [7.0] * 5


# ----------------------------------------------------------------------------------- the zip file


def test_layout_is_torchs(tmp_path):
    path = tmp_path / "x.pt"
    write_pt(path, {"a": np.arange(5), "b": np.ones(3, np.uint16)})
    data = path.read_bytes()
    assert data[:4] == b"PK\x03\x04"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None  # checksums
        names = archive.namelist()
        assert [name.partition("/")[2] for name in names] == [
            "data.pkl", "byteorder", ".storage_alignment", "data/0", "data/1", "version"
        ]  # fmt: skip
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        assert archive.read("archive/data.pkl")[:2] == b"\x80\x02"
        for info in archive.infolist():
            lengths = struct.unpack_from("<HH", data, info.header_offset + 26)
            assert info.compress_type == zipfile.ZIP_STORED
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0


def test_zip64_records(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_zip, "ZIP32_MAX", 3000)  # as if a file of 4 GB
    theirs = write_and_check(tmp_path / "x.pt", {"a": np.arange(1000), "b": np.arange(9), "c": np.arange(2000.0)})
    assert theirs["c"][-1] == 1999
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
        assert archive.getinfo("archive/data/2").extract_version == 45
    assert b"PK\x06\x06" in (tmp_path / "x.pt").read_bytes()


def test_other_root_folders_and_old_files_without_byteorder(tmp_path):
    write_pt(tmp_path / "x.pt", {"a": np.arange(5)})
    repack(tmp_path / "x.pt", {"byteorder": None, ".storage_alignment": None}, root="dinov2 vits14")
    assert_same(read_pt(tmp_path / "x.pt"), torch_load(tmp_path / "x.pt"))


def test_same_object_same_bytes(tmp_path):
    texts = {f"text {i}" for i in range(20)}
    a = np.arange(5.0)
    obj = {"set": texts, "a": a, "tied": a, "config": {"x": [1, 2.5, None, "é"]}, "t": np.ones((3, 2)).T}
    write_pt(tmp_path / "one.pt", obj)
    write_pt(tmp_path / "two.pt", {**obj, "set": set(sorted(texts, reverse=True))})
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()
    write_pt(tmp_path / "three.pt", read_pt(tmp_path / "one.pt"))
    assert (tmp_path / "three.pt").read_bytes() == (tmp_path / "one.pt").read_bytes()


def test_progress_counts_the_bytes(tmp_path):
    counts = []
    write_pt(tmp_path / "x.pt", np.zeros(10 << 20, np.uint8), progress=counts.append)
    assert sum(counts) >= 10 << 20
    assert len(counts) > 2
