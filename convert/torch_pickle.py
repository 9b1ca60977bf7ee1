"""The inner layer of a `.pt` file: `data.pkl`, a protocol 2 pickle of containers that refers to storages.

This module knows what such a file may hold and writes it; torch_unpickle.py reads it. A tensor is the call
`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`, numbers in elements,
where `storage` is the persistent id `("storage", torch.FloatStorage, key, device, elements)`. Types that came
to torch later use `_rebuild_tensor_v3` and an `UntypedStorage`, with the type as one more argument.
"""

import math
import pickle as op  # only for the names of the opcodes
import reprlib
import struct
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16 and the float8 types by name)
import numpy as np
from numpy.lib.array_utils import byte_bounds

from convert.torch_zip import Bad

STORAGE_CLASSES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
_UNTYPED = (*_FLOAT8, "uint16", "uint32", "uint64")  # the types of _rebuild_tensor_v3
DTYPES = {name: np.dtype(name) for name in (*STORAGE_CLASSES, *_UNTYPED)}

_SCALARS = (str, int, float, bool, complex, bytes, bytearray, type(None))
_KEYS = (str, int, float, bool, complex, bytes, type(None))
MAPPINGS = (dict, OrderedDict, Counter)
_CONTAINERS = (*MAPPINGS, list, tuple, set)
_Where = tuple[Any, tuple[str, Any]] | None  # the way to a value: the way to its container, then the last step
_BRIEF = reprlib.Repr()  # containers that share their parts are written no longer than others
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 2, 100, 100
_ARRAYS = (np.ndarray, np.memmap)  # not np.ma or np.matrix, which mean more than their buffer says

MAX_DEPTH = 100  # of nested containers
MAX_KEY_PARTS = 64  # of a tuple that is a key
MAX_PICKLE = 256 << 20  # bytes; about 150 a tensor are usual


@cache
def torch_name(dtype: np.dtype) -> str:
    """torch's name of an element type in either byte order, "" where it has none; cached, as NumPy's names are slow."""
    return dtype.name if dtype.name in DTYPES else ""


def survey(obj: Any) -> list[np.ndarray]:
    """Check that `obj` holds only what a file may hold; its arrays, each object once, in order."""
    arrays: dict[int, np.ndarray] = {}
    heights: dict[int, int] = {}

    def visit(item: Any, where: _Where, depth: int) -> int:
        if type(item) in _ARRAYS and torch_name(item.dtype):
            arrays[id(item)] = item
            return 0
        if type(item) not in _CONTAINERS:
            _check_leaf(item, where)
            return 0
        if id(item) not in heights:  # looked up first: what is referred to often is walked through once
            heights[id(item)] = MAX_DEPTH + 1  # while it is open: a container inside itself is too deep
            if depth < MAX_DEPTH:
                inside = (visit(value, (where, step), depth + 1) for step, value in _children(item, where))
                heights[id(item)] = max(inside, default=0) + (type(item) is not set)
        if depth + heights[id(item)] > MAX_DEPTH:
            raise Bad(f"{_place(where)} contains itself or is nested more than {MAX_DEPTH} deep")
        return heights[id(item)]

    visit(obj, None, 0)
    return list(arrays.values())


def brief(value: Any) -> str:
    """`value` as Python writes it, cut short: containers that share their parts are no longer than others."""
    return _BRIEF.repr(value)


def _place(where: _Where) -> str:
    """The place of a value as it is written in Python, cut after 200 characters."""
    steps = []
    while where:
        where, (kind, key) = where
        steps.append(f".{key}" if kind == "attribute" else f"[{brief(key)}]")
    return "".join(reversed(steps))[:200] or "the object"


def _children(item: Any, where: _Where) -> Iterator[tuple[tuple[str, Any], Any]]:
    """The values inside a container, each with the step to it; keys and members that no file may hold are refused."""
    kind = type(item)
    if kind in MAPPINGS:
        for key in item:
            if not is_key(key):
                name = type_name(key)
                raise Bad(f"{_place(where)} has a key of type {name}; keys must be text, numbers or tuples of them")
        attributes = vars(item) if kind is not dict else {}
        if attributes.keys() - {"_metadata"}:
            raise Bad(f"{_place(where)} has attributes other than _metadata: {sorted(attributes)}")
        yield from ((("key", key), value) for key, value in item.items())
        yield from ((("attribute", name), value) for name, value in attributes.items())
    elif kind is set:
        if not all(map(is_key, item)):
            raise Bad(f"{_place(where)} has members that are not text, numbers or tuples of them")
    else:
        yield from ((("key", index), value) for index, value in enumerate(item))


def _check_leaf(item: Any, where: _Where) -> None:
    """Refuse what is no scalar and no torch type."""
    if _is_scalar(item) or (isinstance(item, np.dtype) and torch_name(item)):
        return
    hint = f" of {item.dtype}" if isinstance(item, np.ndarray) else ""
    hint = ": make it a Python number with .item() or an array" if isinstance(item, np.generic) else hint
    raise Bad(f"{_place(where)} is a {type_name(item)}, which a .pt file cannot hold{hint}")


def _is_scalar(item: Any) -> bool:
    return type(item) in _SCALARS and not (type(item) is int and item.bit_length() > 2000)


def is_key(key: Any) -> bool:
    """Whether `key` is a scalar or a flat, short tuple of them: hashing other tuples can take for ever."""
    parts = key if type(key) is tuple else (key,)
    return len(parts) <= MAX_KEY_PARTS and all(_is_scalar(part) and type(part) is not bytearray for part in parts)


def type_name(item: Any) -> str:
    """The name of an object's type, for a message."""
    return f"{type(item).__module__}.{type(item).__qualname__}".removeprefix("builtins.")


class Place(NamedTuple):
    """Where a tensor lies: its storage's number and size, then its own offset and strides, all in elements."""

    storage: int
    numel: int
    offset: int
    strides: tuple[int, ...]


class Storage:
    """One type and one stretch of memory; `pieces`, end to end, are its contents."""

    def __init__(self, array: np.ndarray, bounds: tuple[int, int]):
        self.start, self.end = bounds  # addresses; they mean nothing for a piece that must be copied
        self.pieces = [array]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(piece.nbytes for piece in self.pieces)

    def payload(self) -> Iterator[memoryview]:
        """The contents, little-endian; a piece that is not contiguous is copied, one at a time."""
        for piece in self.pieces:
            native = np.ascontiguousarray(piece, piece.dtype.newbyteorder("<"))
            yield native.reshape(-1).view(np.uint8).data


def plan_storages(arrays: list[np.ndarray]) -> tuple[dict[int, Place], list[Storage]]:
    """Divide arrays into storages, as few as keep every tie, and say where each array (by id) lies.

    Contiguous arrays of one type that overlap share a storage, and so do strided views inside it. Any
    other array gets its own, shared only with an equal view of the same memory.
    """
    bounds = {id(array): byte_bounds(array) for array in arrays}
    runs = _contiguous_runs(arrays, bounds)
    numbers: dict[Any, int] = {}
    storages: list[Storage] = []
    places: dict[int, Place] = {}
    for array in arrays:
        at, item, strides = bounds[id(array)], array.dtype.itemsize, _element_strides(array)
        storage = _enclosing(runs.get(array.dtype, []), at, item) if array.size and strides is not None else None
        if storage is None or strides is None:
            # Arrays without elements have no memory to share; their addresses mean nothing.
            same = (at, array.shape, array.strides, array.dtype.str) if array.size else id(array)
            storage, offset, strides = Storage(array, at), 0, _row_major(array.shape)
        else:
            same, offset = id(storage), (at[0] - storage.start) // item
        number = numbers.setdefault(same, len(storages))
        if number == len(storages):
            storages.append(storage)
        places[id(array)] = Place(number, storage.size // item, offset, strides)
    return places, storages


def _contiguous_runs(arrays: list[np.ndarray], bounds: dict[int, tuple[int, int]]) -> dict[np.dtype, list[Storage]]:
    """The stretches of memory that contiguous arrays cover, by type and in order of address."""
    runs: dict[np.dtype, list[Storage]] = {}
    whole = [a for a in arrays if a.size and a.flags.c_contiguous and a.dtype.isnative]
    for array in sorted(whole, key=lambda array: bounds[id(array)]):
        (start, end), item, of_type = bounds[id(array)], array.dtype.itemsize, runs.setdefault(array.dtype, [])
        if start % item:
            continue
        if not of_type or start >= of_type[-1].end:
            of_type.append(Storage(array, (start, end)))
        elif end > of_type[-1].end:  # the rest of it lengthens the run
            of_type[-1].pieces.append(array.reshape(-1)[(of_type[-1].end - start) // item :])
            of_type[-1].end = end
    return runs


def _enclosing(runs: list[Storage], bounds: tuple[int, int], item: int) -> Storage | None:
    """The run, if there is one, that holds all of an array with these bounds and elements of `item` bytes."""
    index = bisect_right(runs, bounds[0], key=lambda run: run.start) - 1
    if index < 0 or bounds[1] > runs[index].end or (bounds[0] - runs[index].start) % item:
        return None
    return runs[index]


def _element_strides(array: np.ndarray) -> tuple[int, ...] | None:
    """Strides in elements; None if torch has none, as for reversed axes."""
    if array.flags.c_contiguous:
        return _row_major(array.shape)  # NumPy's own may be anything along axes of length 1
    item = array.dtype.itemsize
    if any(step < 0 or step % item for step in array.strides):
        return None
    return tuple(step // item for step in array.strides)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a contiguous tensor; torch counts empty axes as 1."""
    return tuple(math.prod(max(n, 1) for n in shape[axis + 1 :]) for axis in range(len(shape)))


class Pickler:
    """Writes the pickle that torch.save would write; `places` tells where each array lies, by its id.

    Containers are kept apart or shared as in the object, text is shared by value: equal objects built in
    the same way give the same bytes. The object must have passed `survey`.
    """

    def __init__(self, places: dict[int, Place]):
        self.places, self.out = places, bytearray(op.PROTO + b"\x02")
        self.memo: dict[Any, int] = {}

    def dump(self, obj: Any) -> bytes:
        self.save(obj)
        if len(self.out) >= MAX_PICKLE:
            raise Bad(f"the object needs a data.pkl of more than {MAX_PICKLE} bytes: put large lists into arrays")
        return bytes(self.out + op.STOP)

    def save(self, obj: Any) -> None:
        if isinstance(obj, np.ndarray):
            self.save_tensor(obj)
        elif isinstance(obj, np.dtype):
            self.save_global(f"torch {torch_name(obj)}")
        else:
            _SAVERS[type(obj)](self, obj)

    def recall(self, key: Any) -> bool:
        """Fetch what was remembered under `key`, if anything was."""
        if key not in self.memo:
            return False
        index = self.memo[key]
        self.out += op.BINGET + bytes([index]) if index < 256 else op.LONG_BINGET + struct.pack("<I", index)
        return True

    def remember(self, key: Any) -> None:
        index = self.memo[key] = len(self.memo)
        self.out += op.BINPUT + bytes([index]) if index < 256 else op.LONG_BINPUT + struct.pack("<I", index)

    def save_global(self, name: str) -> None:
        if not self.recall(("global", name)):
            self.out += op.GLOBAL + name.replace(" ", "\n").encode() + b"\n"
            self.remember(("global", name))

    def call(self, name: str, *args: Any) -> None:
        self.save_global(name)
        self.save_tuple(args)
        self.out += op.REDUCE

    def save_text(self, value: str, *, shared: bool = True) -> None:
        if not (shared and self.recall(value)):
            data = value.encode("utf-8", "surrogatepass")
            self.out += op.BINUNICODE + struct.pack("<I", len(data)) + data
            if shared:
                self.remember(value)

    def save_int(self, value: int) -> None:
        if 0 <= value < 1 << 16:
            self.out += op.BININT1 + bytes([value]) if value < 256 else op.BININT2 + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += op.BININT + struct.pack("<i", value)
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += op.LONG1 + bytes([len(data)]) + data

    def save_bytes(self, value: bytes | bytearray) -> None:
        """bytes as torch's safe loading knows them: text in latin-1, encoded again by the reader."""
        self.save_global("_codecs encode" if type(value) is bytes else "__builtin__ bytearray")
        self.save_text(value.decode("latin-1"), shared=False)
        self.save_text("latin-1")
        self.out += op.TUPLE2 + op.REDUCE

    def save_tuple(self, items: tuple) -> None:
        self.out += op.MARK if len(items) > 3 else b""
        for item in items:
            self.save(item)
        self.out += (op.EMPTY_TUPLE, op.TUPLE1, op.TUPLE2, op.TUPLE3, op.TUPLE)[min(len(items), 4)]

    def save_list(self, items: list) -> None:
        if not self.recall(id(items)):
            self.out += op.EMPTY_LIST
            self.remember(id(items))
            self.fill(op.APPENDS, items)

    def save_dict(self, items: dict) -> None:
        if self.recall(id(items)):
            return
        if type(items) is OrderedDict:
            self.call("collections OrderedDict")
        else:
            self.out += op.EMPTY_DICT
        self.remember(id(items))
        self.fill(op.SETITEMS, [part for pair in items.items() for part in pair])
        if type(items) is OrderedDict and vars(items):
            self.out += op.EMPTY_DICT
            self.fill(op.SETITEMS, ["_metadata", vars(items)["_metadata"]])
            self.out += op.BUILD

    def save_counter(self, counts: Counter) -> None:
        self.save_global("collections Counter")
        self.out += op.EMPTY_DICT
        self.fill(op.SETITEMS, [part for pair in counts.items() for part in pair])
        self.out += op.TUPLE1 + op.REDUCE

    def save_set(self, members: set) -> None:
        """Sorted, for the order of a set of texts changes from run to run."""
        self.save_global("__builtin__ set")
        self.out += op.EMPTY_LIST
        self.fill(op.APPENDS, sorted(members, key=lambda item: (type_name(item), repr(item))))
        self.out += op.TUPLE1 + op.REDUCE

    def fill(self, code: bytes, items: list) -> None:
        if items:
            self.out += op.MARK
            for item in items:
                self.save(item)
            self.out += code

    def save_tensor(self, array: np.ndarray) -> None:
        name, place = torch_name(array.dtype), self.places[id(array)]
        storage_class = STORAGE_CLASSES.get(name)
        self.save_global("torch._utils _rebuild_tensor_v2" if storage_class else "torch._utils _rebuild_tensor_v3")
        self.out += op.MARK + op.MARK
        self.save_text("storage")
        self.save_global(f"torch {storage_class}" if storage_class else "torch.storage UntypedStorage")
        self.save_text(str(place.storage))
        self.save_text("cpu")
        self.save_int(place.numel * (1 if storage_class else array.dtype.itemsize))
        self.out += op.TUPLE + op.BINPERSID
        self.save_int(place.offset)
        self.save_tuple(array.shape)
        self.save_tuple(place.strides)
        self.out += op.NEWFALSE
        self.call("collections OrderedDict")
        if not storage_class:
            self.save_global(f"torch {name}")
        self.out += op.TUPLE + op.REDUCE


_SAVERS: dict[type, Callable[[Pickler, Any], None]] = {
    type(None): lambda pickler, value: pickler.out.extend(op.NONE),
    bool: lambda pickler, value: pickler.out.extend(op.NEWTRUE if value else op.NEWFALSE),
    int: Pickler.save_int,
    float: lambda pickler, value: pickler.out.extend(op.BINFLOAT + struct.pack(">d", value)),
    complex: lambda pickler, value: pickler.call("__builtin__ complex", value.real, value.imag),
    str: Pickler.save_text,
    bytes: Pickler.save_bytes,
    bytearray: Pickler.save_bytes,
    tuple: Pickler.save_tuple,
    list: Pickler.save_list,
    dict: Pickler.save_dict,
    OrderedDict: Pickler.save_dict,
    Counter: Pickler.save_counter,
    set: Pickler.save_set,
}
