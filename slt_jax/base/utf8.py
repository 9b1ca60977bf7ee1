"""Names of files as UTF-8, whatever the locale says: libraries beneath Python read and write them so."""

import os
import sys
from collections.abc import Sequence

from slt_jax.errors import UserError, shown


def start_again_in_utf8() -> None:
    """Where Python would read names in another encoding, as in the locale C, start this program again in UTF-8 mode.

    Otherwise Orbax would write beside the folder that a person named, and ids of clips would not be names of files. The
    terminal's encoding stays as it was.
    """
    # Python heeds the variable, unless it was told not to, or the program goes on in another Python for ever.
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", getattr(sys.stdout, "encoding", None) or "utf-8")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def check_names(words: Sequence[str]) -> None:
    """Raise UserError if a word of a command line, or the name of the current folder, is not UTF-8."""
    for word in (*words, os.getcwd() if os.path.exists(".") else ""):
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UserError(f"{shown(word)} is not UTF-8; rename it")
