"""TensorBoard event files through tensorboardX."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from slt_jax.decoding.results import Prediction


class Tracker:
    """Writes scalars and texts; without a folder it does nothing."""

    def __init__(self, folder: str | Path | None):
        self._writer = None
        if folder:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def __bool__(self) -> bool:
        return self._writer is not None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def translations(self, samples: Sequence[Prediction], epoch: int) -> None:
        """References and predictions as a table."""
        if self._writer:
            rows = [f"| {sample.reference} | {sample.prediction} |" for sample in samples]
            table = "\n".join(["| reference | prediction |", "|---|---|", *rows])
            self._writer.add_text("val/translations", table, epoch)

    def flush(self) -> None:
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()
