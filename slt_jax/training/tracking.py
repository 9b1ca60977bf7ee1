"""TensorBoard event files through tensorboardX."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slt_jax.base.places import check_folder, naming


def check_tensorboard(folder: str | None) -> None:
    """Raise UserError now where event files could not be written later."""
    if folder and "://" not in folder:  # tensorboardX also writes to buckets
        check_folder("--tensorboard", folder)


class Tracker:
    """Writes scalars and texts; without a folder it does nothing.

    Events are written here and not in a thread of tensorboardX's, where an error would be nobody's. If the folder
    cannot be written, an OSError names it.
    """

    def __init__(self, folder: str | Path | None):
        self._writer: Any = None
        self._folder = str(folder or "")
        if folder:
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.record_writer import RecordWriter, directory_check

            now = time.time()
            name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}"
            with naming(self._folder):
                directory_check(self._folder)
                self._writer = RecordWriter(f"{self._folder}/{name}")
            self._add(Event(wall_time=now, file_version="brain.Event:2"))

    def __bool__(self) -> bool:
        return self._writer is not None

    def scalars(self, values: Mapping[str, float], step: int, titles: Mapping[str, str] | None = None) -> None:
        """Write values by tag, shown under their `titles`, where they have one."""
        if self._writer:
            from tensorboardX.summary import scalar

            for name, value in values.items():
                self._add_summary(scalar(name, value, display_name=(titles or {}).get(name, "")), step)

    def texts(self, texts: Mapping[str, str], step: int) -> None:
        """Markdown by tag."""
        if self._writer:
            from tensorboardX.summary import text

            for tag, markdown in texts.items():
                self._add_summary(text(tag, markdown), step)

    def _add_summary(self, summary, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._add(Event(wall_time=time.time(), step=step, summary=summary))

    def _add(self, event) -> None:
        with naming(self._folder):
            self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Write everything to disk."""
        if self._writer:
            with naming(self._folder):
                self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        writer, self._writer = self._writer, None
        if writer:
            with naming(self._folder):
                writer.close()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_) -> None:
        self.close()
