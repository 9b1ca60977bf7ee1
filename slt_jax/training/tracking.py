"""TensorBoard event files through tensorboardX."""

from collections.abc import Mapping
from pathlib import Path


class Tracker:
    """Writes scalars and texts; without a folder it does nothing."""

    def __init__(self, folder: str | Path | None):
        self._writer = None
        if folder:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def __bool__(self) -> bool:
        return self._writer is not None

    def scalars(self, values: Mapping[str, float], step: int, titles: Mapping[str, str] | None = None) -> None:
        """Write values by tag, shown under their `titles`, where they have one."""
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step, display_name=(titles or {}).get(name, ""))

    def texts(self, texts: Mapping[str, str], step: int) -> None:
        """Markdown by tag."""
        if self._writer:
            for tag, markdown in texts.items():
                self._writer.add_text(tag, markdown, step)

    def flush(self) -> None:
        """Write everything to disk."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer:
            self._writer.close()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_) -> None:
        self.close()
