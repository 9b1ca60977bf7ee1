"""The folder for what comes out of uploaded videos, which nothing is left of."""

import os
import shutil
import tempfile
from pathlib import Path

from slt_jax.base.files import is_running

PREFIX = "slt-serve-"


class Scratch:
    """A folder for what comes out of an uploaded video: in memory where the system has a file system there.

    Those of services that were killed are removed by the next one's start. A context manager.
    """

    def __init__(self, root: str | Path | None = None):
        memory = "/dev/shm"
        usable = os.path.isdir(memory) and os.access(memory, os.W_OK)
        self._root = Path(root or (memory if usable else tempfile.gettempdir()))

    def __enter__(self) -> "Scratch":
        for folder in self._root.glob(f"{PREFIX}*"):
            number = folder.name.removeprefix(PREFIX).partition("-")[0]
            if number.isdigit() and int(number) != os.getpid() and not is_running(int(number)):
                shutil.rmtree(folder, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=self._root))
        return self

    def __exit__(self, *_) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
