"""Reading `data.pkl`: a small interpreter of the pickle opcodes that torch.save emits.

It trusts nothing: it can build data and nothing else, its functions are the few in a table, and every offset,
size and stride is checked against the file before NumPy sees it. (Python's own unpickler, even with its
globals restricted, answers damaged files with MemoryError and SystemError.)
"""

import math
import pickle as op  # only for the names of the opcodes
import struct
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # protocol 2 uses Python 2's names
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from convert.torch_pickle import DTYPES, MAPPINGS, MAX_DEPTH, MAX_PICKLE, STORAGE_CLASSES, brief, is_key, type_name
from convert.torch_zip import BASE_MEMORY, Bad

MAX_AXES = 64  # of a NumPy array
MAX_ODD_KEYS = 4096  # keys a file may choose so that all have one hash: with n of them a dict takes n^2 comparisons
# Bytes of memory, rounded up: a pointer on the stack and then in a container, what `survey` notes of a container, the
# memo's entry, and what a dict, an OrderedDict or a set keeps of a member.
SLOT, NOTE, MEMO, MEMBER = 40, 200, 120, 250


class _StorageClass(NamedTuple):
    """torch.FloatStorage and its like: the element type; None for UntypedStorage, which counts bytes."""

    dtype: np.dtype | None


class _Storage(NamedTuple):
    """A storage named in the pickle: its entry's key, element type (None: see the tensor) and size in bytes."""

    key: str
    dtype: np.dtype | None
    size: int


class Source(Protocol):
    """What is read: the file's bytes, where the pickle lies in it, and how much memory it may take."""

    map: Any
    size: int
    default_protocol: str

    @property
    def big_endian(self) -> bool:
        """Whether payloads are."""

    def locate(self, name: str) -> tuple[int, int]:
        """First byte of an entry, and the byte behind it."""

    def load(self, name: str, swap: int) -> np.ndarray:
        """The payload of an entry."""

    def spend(self, size: int) -> None:
        """Count memory before it is taken."""

    def advice(self, module: str) -> str:
        """What to do where a pickle names something of `module` that is not read."""


class Call(NamedTuple):
    """An allowed function: what to run here in its place."""

    run: Callable[..., Any]


class Unpickler:
    """Interpreter of the pickle opcodes that torch.save emits, or of others in a table of their own."""

    def __init__(
        self,
        archive: Source,
        opcodes: Mapping[bytes, Callable[["Unpickler"], Any]] | None = None,
        functions: Mapping[str, Any] | None = None,
    ):
        self.opcodes = OPCODES if opcodes is None else opcodes
        self.functions = FUNCTIONS if functions is None else functions
        self.archive, self.data = archive, archive.map
        self.at, self.end = archive.locate("data.pkl")
        if self.end - self.at > MAX_PICKLE:
            raise Bad(f"data.pkl has {self.end - self.at} bytes, more than the {MAX_PICKLE} allowed")
        self.allowance = self.end - self.at  # bytes that functions may copy: no more than the pickle has
        self.repeated = BASE_MEMORY + 4 * archive.size  # bytes by which tensors may be larger than what they show
        self.odd_keys = 0
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each open MARK
        self.memo: dict[int, Any] = {}
        self.buffers: dict[tuple[str, int], np.ndarray] = {}

    def run(self) -> Any:
        while (code := self.take(1)) != op.STOP:
            if code not in self.opcodes:
                raise Bad(f"unsupported pickle opcode {code!r}: save it again with {self.archive.default_protocol}")
            self.opcodes[code](self)
        if self.outer or len(self.stack) != 1:
            raise Bad("damaged file (its pickle leaves more or less than one object)")
        return self.stack[0]

    def take(self, count: int) -> bytes:
        if self.at + count > self.end:
            raise Bad("damaged file (its pickle ends too early)")
        self.at += count
        return self.data[self.at - count : self.at]

    def unpack(self, layout: str) -> Any:
        """The next number, an int or a float as `layout` says."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, min(self.end, self.at + 256))
        if end < 0:
            raise Bad("damaged file (a name in its pickle has no end)")
        return self.take(end + 1 - self.at)[:-1].decode()

    def push(self, item: Any) -> None:
        """Push something that is there already."""
        self.archive.spend(SLOT)
        self.stack.append(item)

    def new(self, item: Any) -> None:
        """Push a new object, scalar or container."""
        self.archive.spend(sys.getsizeof(item) + (0 if type(item) in (int, float) else NOTE))
        self.push(item)

    def text(self) -> None:
        count = self.unpack("<I")
        self.archive.spend(5 * min(count, self.end - self.at) + 80)  # the bytes, and 4 a letter if one letter is wide
        self.push(self.take(count).decode("utf-8", "surrogatepass"))

    def remember(self, index: int) -> None:
        self.archive.spend(MEMO)
        self.memo[index] = self.stack[-1]

    def mark(self) -> None:
        self.archive.spend(NOTE)
        if len(self.outer) > 10 * MAX_DEPTH:
            raise Bad("damaged file (its pickle is nested too deep)")
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def pop_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise Bad("damaged file (its pickle takes from an empty stack)")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.new(items)

    def find_global(self) -> None:
        self.push_global(self.line(), self.line())

    def push_global(self, module: str, name: str) -> None:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        if full not in self.functions:
            raise Bad(f"refused global {full!r}: {self.archive.advice(module)}")
        self.push(self.functions[full])

    def reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Call or type(args) is not tuple:
            raise Bad(f"refused call of {brief(function)}")
        self.new(function.run(self, *args))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is not OrderedDict or type(state) is not dict or state.keys() - {"_metadata"}:
            raise Bad(f"refused to set attributes of a {type_name(target)}")
        target.__dict__.update(state)

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Bad("damaged file (append to what is not a list)")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) not in MAPPINGS or len(items) % 2 or not self.are_keys(items[::2]):
            raise Bad("damaged file (wrong keys or values of a dict)")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def are_keys(self, items: list[Any]) -> bool:
        """Whether all may be keys of a dict or members of a set."""
        if not all(map(is_key, items)):
            return False
        self.archive.spend(MEMBER * len(items))
        self.odd_keys += sum(
            type(key) in (tuple, complex) or (type(key) is int and key.bit_length() > 60) for key in items
        )
        if self.odd_keys > MAX_ODD_KEYS:
            raise Bad(f"has more than {MAX_ODD_KEYS} keys that are tuples, complex or very large numbers")
        return True

    def find_storage(self) -> None:
        pid = self.stack.pop()
        if type(pid) is not tuple or tuple(map(type, pid)) != (str, _StorageClass, str, str, int):
            raise Bad("damaged file (wrong reference to a storage)")
        kind, storage, key, _, numel = pid
        if len(key) > 100:
            raise Bad("damaged file (wrong reference to a storage)")
        start, end = self.archive.locate(f"data/{key}")
        size = numel * (storage.dtype.itemsize if storage.dtype else 1)
        if kind != "storage" or size != end - start:
            raise Bad(f"damaged file (storage {key!r} should have {size} bytes, not {end - start})")
        self.new(_Storage(key, storage.dtype, size))

    def tensor_v3(self, storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None) -> np.ndarray:
        """The NumPy view of a storage; `offset`, `size` and `stride` count elements."""
        if type(storage) is not _Storage or not isinstance(dtype, np.dtype):
            raise Bad("damaged file (wrong description of a tensor)")
        if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= MAX_AXES:
            raise Bad("damaged file (wrong description of a tensor)")
        if any(type(number) is not int or not 0 <= number < 1 << 63 for number in (offset, *size, *stride)):
            shown = f"offset {brief(offset)}, size {brief(size)}, stride {brief(stride)}"
            raise Bad(f"damaged file (a tensor has {shown})")
        if metadata:
            raise Bad("holds a lazily conjugated or negated tensor: call resolve_conj() or resolve_neg() and save")
        if math.prod(size) == 0:
            return np.empty(size, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if (last + 1) * dtype.itemsize > storage.size:
            raise Bad(f"damaged file (a tensor of size {brief(size)} reaches beyond its storage {storage.key!r})")
        self.repeated -= max(math.prod(size) - (last + 1 - offset), 0) * dtype.itemsize
        if self.repeated < 0:
            raise Bad(
                f"a tensor of size {brief(size)} shows the same few numbers again and again (expand, stride 0), and "
                f"would take too much memory; save what it was expanded from"
            )
        swap = dtype.itemsize // (2 if dtype.kind == "c" else 1) if self.archive.big_endian else 1
        if (storage.key, swap) not in self.buffers:
            self.buffers[storage.key, swap] = self.archive.load(f"data/{storage.key}", swap)
        strides = [step * dtype.itemsize for step in stride]
        return np.ndarray(size, dtype, self.buffers[storage.key, swap], offset * dtype.itemsize, strides)

    def tensor_v2(self, storage, offset, size, stride, requires_grad, hooks, metadata=None) -> np.ndarray:
        dtype = (type(storage) is _Storage and storage.dtype) or np.dtype(np.uint8)
        return self.tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)

    def from_type(self, function, kind, args, state) -> np.ndarray:
        """A tensor or parameter with Python attributes; these are dropped."""
        if not any(function is FUNCTIONS[f"torch._utils._rebuild_{name}"] for name in ("tensor_v2", "tensor_v3")):
            raise Bad("refused a tensor subclass")
        return function.run(self, *args)

    def copy(self, make: Callable[[Any], Any], item: Any) -> Any:
        self.allowance -= len(item)
        self.archive.spend(SLOT * len(item))
        if self.allowance < 0:
            raise Bad("damaged file (its pickle copies more than it holds)")
        return make(item)

    def make_set(self, items: list[Any]) -> set:
        if type(items) is not list or not self.are_keys(items):
            raise Bad("damaged file (wrong members of a set)")
        return self.copy(set, items)

    def encode(self, text: str, encoding: str) -> bytes:
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise Bad(f"damaged file (bytes with the encoding {brief(encoding)})")
        return self.copy(lambda item: item.encode("latin-1"), text)


def _parameter(reader: Unpickler, data: np.ndarray, *_: Any) -> np.ndarray:
    return data


def _device(reader: Unpickler, *parts: str | int) -> str:
    if len(parts) > 2 or any(type(part) not in (str, int) or len(brief(part)) > 40 for part in parts):
        raise Bad("damaged file (wrong name of a device)")
    return ":".join(map(str, parts))


def _count(reader: Unpickler, counts: dict) -> Counter:
    if type(counts) is not dict or not reader.are_keys(list(counts)):
        raise Bad("damaged file (wrong counts)")
    return reader.copy(Counter, counts)


def _size(reader: Unpickler, sizes: list | tuple) -> tuple:
    if type(sizes) not in (list, tuple):
        raise Bad("damaged file (wrong size)")
    return reader.copy(tuple, sizes)


FUNCTIONS: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": Call(Unpickler.tensor_v2),
    "torch._utils._rebuild_tensor_v3": Call(Unpickler.tensor_v3),
    "torch._utils._rebuild_parameter": Call(_parameter),
    "torch._utils._rebuild_parameter_with_state": Call(_parameter),
    "torch._tensor._rebuild_from_type_v2": Call(Unpickler.from_type),
    "torch.Tensor": "torch.Tensor",  # these two only name the class for _rebuild_from_type_v2
    "torch.nn.parameter.Parameter": "torch.nn.parameter.Parameter",
    "torch.Size": Call(_size),
    "torch.device": Call(_device),
    "collections.OrderedDict": Call(lambda reader: OrderedDict()),
    "collections.Counter": Call(_count),
    "builtins.set": Call(Unpickler.make_set),
    "builtins.complex": Call(lambda reader, real, imag: complex(real, imag)),
    "builtins.bytes": Call(lambda reader: b""),
    "builtins.bytearray": Call(lambda reader, *args: bytearray(reader.encode(*args) if args else b"")),
    "_codecs.encode": Call(Unpickler.encode),
    "torch.storage.UntypedStorage": _StorageClass(None),
    **{f"torch.{name}": _StorageClass(DTYPES[dtype]) for dtype, name in STORAGE_CLASSES.items()},
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
}

OPCODES: dict[bytes, Callable[[Unpickler], Any]] = {
    op.PROTO: lambda r: r.take(1),
    op.GLOBAL: Unpickler.find_global,
    op.REDUCE: Unpickler.reduce,
    op.BUILD: Unpickler.build,
    op.BINPERSID: Unpickler.find_storage,
    op.MARK: Unpickler.mark,
    op.TUPLE: lambda r: r.new(tuple(r.pop_mark())),
    op.TUPLE1: lambda r: r.pop_tuple(1),
    op.TUPLE2: lambda r: r.pop_tuple(2),
    op.TUPLE3: lambda r: r.pop_tuple(3),
    op.EMPTY_TUPLE: lambda r: r.push(()),
    op.EMPTY_LIST: lambda r: r.new([]),
    op.EMPTY_DICT: lambda r: r.new({}),
    op.APPEND: lambda r: r.append([r.stack.pop()]),
    op.APPENDS: lambda r: r.append(r.pop_mark()),
    op.SETITEM: lambda r: r.set_items([r.stack.pop(-2), r.stack.pop()]),
    op.SETITEMS: lambda r: r.set_items(r.pop_mark()),
    op.NONE: lambda r: r.push(None),
    op.NEWTRUE: lambda r: r.push(True),
    op.NEWFALSE: lambda r: r.push(False),
    op.BININT: lambda r: r.new(r.unpack("<i")),
    op.BININT1: lambda r: r.push(r.unpack("<B")),
    op.BININT2: lambda r: r.push(r.unpack("<H")),
    op.LONG1: lambda r: r.new(int.from_bytes(r.take(r.unpack("<B")), "little", signed=True)),
    op.BINFLOAT: lambda r: r.new(r.unpack(">d")),
    op.BINUNICODE: Unpickler.text,
    op.BINGET: lambda r: r.push(r.memo[r.unpack("<B")]),
    op.LONG_BINGET: lambda r: r.push(r.memo[r.unpack("<I")]),
    op.BINPUT: lambda r: r.remember(r.unpack("<B")),
    op.LONG_BINPUT: lambda r: r.remember(r.unpack("<I")),
}
