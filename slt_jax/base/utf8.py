"""Names of files as UTF-8, whatever the locale says: libraries beneath Python read and write them so."""

import os
from collections.abc import Sequence

from slt_jax.errors import UserError, shown


def check_names(words: Sequence[str]) -> None:
    """Raise UserError if a word of a command line, or the name of the current folder, is not UTF-8."""
    for word in (*words, os.getcwd() if os.path.exists(".") else ""):
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UserError(f"{shown(word)} is not UTF-8; rename it")
