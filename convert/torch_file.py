"""Read and write PyTorch `.pt` files without torch: nested plain containers of NumPy arrays.

A `.pt` file (torch >= 1.6) is a zip archive (torch_zip.py) with a pickle of the containers (torch_pickle.py
writes, torch_unpickle.py reads) and the raw bytes of each storage. Linux and macOS.
"""

import os
import struct
from collections.abc import Callable
from typing import Any

from convert.torch_pickle import Pickler, plan_storages, survey
from convert.torch_unpickle import Unpickler
from convert.torch_zip import ALIGNMENT, Archive, Bad, ZipWriter
from slt_jax.base.files import open_regular, replacing
from slt_jax.errors import UserError

# All that wrong bytes can cause in code that does not check for them by name.
WRONG_BYTES = (
    struct.error,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    RecursionError,
)


class TorchFileError(UserError):
    """A `.pt` file that cannot be read or written; one line that names the file and what is wrong."""


class TorchTypeError(TorchFileError, TypeError):
    """A value that a `.pt` file cannot hold; the line names its place, as in `['optimizer_state']['lr']`."""


def read_pt(path: str | os.PathLike[str], *, mmap: bool = True) -> Any:
    """Read a `.pt` file into a dict, OrderedDict, list, tuple, set, numbers, str, bytes, None and NumPy arrays.

    Tensors of one storage are views of one buffer, strides kept. With `mmap` (default) the arrays are
    mapped copy-on-write: pages are read when first used, and writing to an array changes neither the file
    nor what others read. Without it the payloads are read into memory once. torch.Size becomes a tuple,
    torch.dtype a np.dtype, torch.device its name; an OrderedDict keeps torch's `_metadata` attribute.
    One pass over the file compares its checksums. Whatever is in it, time is linear in its size, and memory at most
    64 MB and 4 times its size.
    Raises TorchFileError for anything that is not a sound file of such data; nothing in it is executed.
    """
    try:
        with open_regular(path) as file:
            archive = Archive(file, mapped=mmap)
        archive.verify()
        obj = Unpickler(archive).run()
        survey(obj)  # also refuses what the pickle may name but not hold, such as a storage without a tensor
        return obj
    except Bad as error:
        raise TorchFileError(f"{path}: {error}") from None
    except FileNotFoundError as error:
        raise TorchFileError(f"{path}: no such file") from error
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except WRONG_BYTES as error:
        raise TorchFileError(f"{path}: damaged file ({type(error).__name__}: {str(error)[:100]!r})") from error


def write_pt(path: str | os.PathLike[str], obj: Any, *, progress: Callable[[int], None] | None = None) -> None:
    """Write `obj` (see read_pt for what it may hold) so that torch.load(weights_only=True, mmap=True) reads it.

    Arrays of one type over the same memory become views of one storage; other strided arrays are written
    contiguous. The same object gives the same bytes, whatever the file's name. Payloads are streamed, with
    at most one array copied at a time; `progress` gets the number of bytes after each piece. The file
    appears whole or not at all: an existing one stays until the new one is on disk. Raises TorchTypeError,
    naming the key, for a value that torch's safe loading would refuse (NumPy scalars, paths, ...), and
    TorchFileError where the file cannot be written.
    """
    try:
        places, storages = plan_storages(survey(obj))
        pickled = Pickler(places).dump(obj)
        os.stat(os.path.dirname(os.path.realpath(path)))  # a folder that is not there is a mistake, and not to be made
        with replacing(path) as file:
            archive = ZipWriter(file, progress)
            archive.add("data.pkl", len(pickled), [pickled])
            archive.add("byteorder", 6, [b"little"])
            archive.add(".storage_alignment", 2, [b"%d" % ALIGNMENT])
            for index, storage in enumerate(storages):
                archive.add(f"data/{index}", storage.size, storage.payload())
            archive.add("version", 2, [b"3\n"])
            archive.finish()
    except Bad as error:
        raise TorchTypeError(f"{path}: {error}") from None
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be written: {error.strerror or error}") from error
