"""Read a pickle of plain data (lists, dicts, texts, numbers) by the interpreter that reads `.pt` files.

Corpora come as such files. Python's own unpickler runs what a file names; here nothing in it is ever run.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from convert import torch_unpickle
from convert.torch_file import WRONG_BYTES
from convert.torch_pickle import survey
from convert.torch_unpickle import OPCODES, Call, Unpickler
from convert.torch_zip import BASE_MEMORY, Bad
from slt_jax.base.files import open_regular
from slt_jax.errors import UserError

MAX_FILE = 256 << 20  # bytes; CSL-Daily's annotations take about 15 MB
# Of the file's size: what its objects may take beside BASE_MEMORY. A letter of Chinese that is a text of its own has 13
# bytes in a pickle and 250 in memory.
MEMORY_FACTOR = 30
_KINDS = "biuf"  # of NumPy's numbers


class _File:
    """The bytes of a pickle that is a file of its own."""

    default_protocol = "Python's pickle.dump, protocol 2 or later"
    big_endian = False

    def __init__(self, path: str | os.PathLike[str]):
        with open_regular(path) as file:
            self.size = os.fstat(file.fileno()).st_size
            if not self.size:
                raise Bad("the file is empty")
            if self.size > MAX_FILE:
                raise Bad(f"has {self.size} bytes, more than the {MAX_FILE} that are read")
            self.map = file.read(self.size)
        self.allowance = BASE_MEMORY + MEMORY_FACTOR * self.size

    def locate(self, name: str) -> tuple[int, int]:
        return 0, len(self.map)

    def load(self, name: str, swap: int) -> np.ndarray:
        raise Bad("refused a tensor: this is no .pt file")

    def spend(self, size: int) -> None:
        self.allowance -= size
        if self.allowance < 0:
            raise Bad(f"refused: it would take more memory than {MEMORY_FACTOR} times the file's size")

    def advice(self, module: str) -> str:
        return "only lists, dicts, texts and numbers are read; write the table as CSV or JSON in Python"


class _NumberType:
    """numpy.dtype in a pickle: a kind and a size such as `i8`, then its byte order."""

    def __init__(self, code: str):
        if type(code) is not str or code[:1] not in _KINDS or code[1:] not in ("1", "2", "4", "8"):
            raise Bad("refused a NumPy type that is no number")
        self.code, self.order = code, "<"


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """The plain data in a pickle: dict, list, tuple, set, numbers, str, bytes, None. NumPy's numbers become Python's.

    Time and memory are linear in the file's size. Raises UserError, which names the file, for anything else; nothing in
    it is executed.
    """
    try:
        obj = Unpickler(_File(path), _OPCODES, _FUNCTIONS).run()
        survey(obj)  # refuses what the pickle may name but not hold, such as a type without a number
        return obj
    except Bad as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except WRONG_BYTES as error:
        raise UserError(f"{path}: damaged file ({type(error).__name__}: {str(error)[:100]!r})") from None


def _text(reader: Unpickler, layout: str) -> None:
    count = reader.unpack(layout)
    reader.archive.spend(5 * min(count, reader.end - reader.at) + 80)
    reader.push(reader.take(count).decode("utf-8", "surrogatepass"))


def _old_text(reader: Unpickler, layout: str) -> None:
    """A str of Python 2, which is bytes: UTF-8, else Latin-1."""
    count = reader.unpack(layout)
    reader.archive.spend(5 * min(count, reader.end - reader.at) + 80)
    content = reader.take(count)
    try:
        reader.push(content.decode())
    except UnicodeDecodeError:
        reader.push(content.decode("latin-1"))


def _bytes(reader: Unpickler, layout: str) -> None:
    count = reader.unpack(layout)
    reader.archive.spend(min(count, reader.end - reader.at) + 80)
    reader.push(reader.take(count))


def _named(reader: Unpickler) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    if type(name) is not str or type(module) is not str or len(name) + len(module) > 256:
        raise Bad("damaged file (a name that is no text)")
    reader.push_global(module, name)


def _build(reader: Unpickler) -> None:
    state, target = reader.stack.pop(), reader.stack[-1]
    if type(target) is not _NumberType or type(state) is not tuple or state[1:2] not in (("<",), (">",), ("|",)):
        raise Bad("refused to set attributes")
    target.order = state[1]


def _number(reader: Unpickler, kind: _NumberType, content: bytes) -> int | float | bool:
    if type(kind) is not _NumberType or type(content) is not bytes:
        raise Bad("damaged file (wrong NumPy number)")
    dtype = np.dtype(kind.order + kind.code)
    if len(content) != dtype.itemsize:
        raise Bad("damaged file (wrong NumPy number)")
    return np.frombuffer(content, dtype)[0].item()


_OPCODES: Mapping[bytes, Callable[[Unpickler], Any]] = {
    **{code: run for code, run in OPCODES.items() if code != torch_unpickle.op.BINPERSID},
    torch_unpickle.op.FRAME: lambda r: r.take(8),
    torch_unpickle.op.MEMOIZE: lambda r: r.remember(len(r.memo)),
    torch_unpickle.op.SHORT_BINUNICODE: lambda r: _text(r, "<B"),
    torch_unpickle.op.BINUNICODE8: lambda r: _text(r, "<Q"),
    torch_unpickle.op.SHORT_BINSTRING: lambda r: _old_text(r, "<B"),
    torch_unpickle.op.BINSTRING: lambda r: _old_text(r, "<I"),
    torch_unpickle.op.SHORT_BINBYTES: lambda r: _bytes(r, "<B"),
    torch_unpickle.op.BINBYTES: lambda r: _bytes(r, "<I"),
    torch_unpickle.op.STACK_GLOBAL: _named,
    torch_unpickle.op.BUILD: _build,
}  # fmt: skip
_FUNCTIONS: Mapping[str, Any] = {
    **{name: run for name, run in torch_unpickle.FUNCTIONS.items() if not name.startswith("torch")},
    "numpy.dtype": Call(lambda reader, code, *_: _NumberType(code)),
    "numpy.core.multiarray.scalar": Call(_number),
    "numpy._core.multiarray.scalar": Call(_number),
}
