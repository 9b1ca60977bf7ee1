"""Keeping up with a camera: who loses pictures lets the models look at fewer of them."""

import time

from slt_jax.media.live import MOST_EVERY, LiveExtractor

PATIENCE = 2.0  # seconds of lost pictures before the models look at fewer of them
TOLERATED = 2  # pictures that may be lost in that time


class Pacemaker:
    """Raises an extractor's `every` by one where more than TOLERATED pictures were lost within PATIENCE seconds."""

    def __init__(self, extractor: LiveExtractor):
        self._extractor = extractor
        self._since = time.monotonic()
        self._lost: int | None = None  # at first, everything is slow

    def tell(self, lost: int) -> None:
        """Say how many pictures have been lost since the beginning; after every one that was looked at."""
        now = time.monotonic()
        if now - self._since >= PATIENCE:
            slow = self._lost is not None and lost - self._lost > TOLERATED
            self._extractor.every = min(self._extractor.every + slow, MOST_EVERY)
            self._since, self._lost = now, lost
