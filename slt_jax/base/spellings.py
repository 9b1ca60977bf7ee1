"""Ids whose accents are written in different ways: as one character (NFC), or as two (NFD), as macOS writes names."""

import unicodedata
from collections.abc import Iterable


class Spellings:
    """Known ids, each found under every spelling of it."""

    def __init__(self, ids: Iterable[str]):
        self.ids = dict.fromkeys(ids)
        self._composed = {unicodedata.normalize("NFC", id): id for id in self.ids if not id.isascii()}

    def meant(self, name: str) -> str | None:
        """The known id that `name` is, or None."""
        if name in self.ids:
            return name
        return self._composed.get(unicodedata.normalize("NFC", name)) if self._composed else None
