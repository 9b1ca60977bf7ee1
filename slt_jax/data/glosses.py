"""Glosses of clips, where the metadata has them: the names of the signs, in the order in which they are signed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from slt_jax.data.metadata import ClipRow
from slt_jax.errors import UserError

COLUMNS = ("gloss", "glosses", "orth")  # names of their column, of which the first found is read
BLANK, UNKNOWN = 0, 1  # ids: CTC's blank, which also fills up labels, and glosses that no training clip has
FIRST = 2


@dataclass(frozen=True)
class Glosses:
    """The glosses that a model knows, in the order of their ids from `FIRST` on."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, clips: Iterable[ClipRow]) -> "Glosses":
        """Those of training clips. Raises UserError where no clip has one."""
        names = sorted({name for clip in clips for name in glosses_of(clip)})
        if not names:
            columns = " or ".join(COLUMNS)
            raise UserError(f"training.objectives.gloss_ctc: the metadata has no glosses (a column {columns})")
        return cls(tuple(names))

    @property
    def size(self) -> int:
        """Ids, blank and unknown included."""
        return FIRST + len(self.names)

    def labels(self, clips: Sequence[ClipRow], longest: int) -> np.ndarray:
        """The ids of each clip's glosses, int32 (N, longest), filled up with `BLANK`.

        Clips with more glosses than `longest` have none: they could not be aligned with their frames.
        """
        ids = {name: number for number, name in enumerate(self.names, FIRST)}
        labels = np.full((len(clips), longest), BLANK, np.int32)
        for row, clip in zip(labels, clips, strict=True):
            found = [ids.get(name, UNKNOWN) for name in glosses_of(clip)]
            if len(found) <= longest:
                row[: len(found)] = found
        return labels


def glosses_of(clip: ClipRow) -> list[str]:
    """The glosses of a clip, which stand between spaces; none without the column."""
    return next((clip.extra[name].split() for name in COLUMNS if clip.extra.get(name)), [])


def collapsed(path: np.ndarray) -> list[int]:
    """The ids that a path (T,) of CTC stands for: repeated ones are one, blanks are none (Graves et al., 2006)."""
    steps = path[np.flatnonzero(np.diff(path, prepend=-1))]
    return steps[steps != BLANK].tolist()
