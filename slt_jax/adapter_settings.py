"""The settings of low-rank adapters, `model.lora`."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slt_jax.errors import UserError, nearest, shortened, shown

MOST = 65536  # far above any rank
FROZEN_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al., 2021): W becomes W + scale B A, where only A and B are trained.

    `targets` are parts of the model (`backbones`, `decoder`) and ends of the paths of linear layers (`q`,
    `SelfAttention.q`); of one kind where only the other is given, all. `frozen_dtype` is what the weights of parts with
    adapters are kept in.
    """

    rank: int = 8
    alpha: float = 8.0  # by default the rank, so that the scale of plain adapters is 1
    targets: tuple[str, ...] = ("decoder",)
    dropout: float = 0.0
    rslora: bool = False
    frozen_dtype: str = "float32"

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None) -> "Lora | None":
        """The settings in a mapping, None for None. Raises UserError that names the key."""
        if given is None:
            return None
        known = [field.name for field in dataclasses.fields(cls)]
        for key in given:
            if key not in known:
                asked = f"model.lora.{shortened(str(key))}"
                raise UserError(f"unknown configuration key '{asked}'{nearest(str(key), known)}")
        values = {key: value for key, value in given.items() if value is not None}
        _check(values)
        targets = values.get("targets", cls.targets)
        values["targets"] = (targets,) if isinstance(targets, str) else tuple(dict.fromkeys(targets))
        values["alpha"] = float(values.get("alpha", values.get("rank", cls.rank)))
        return cls(**values)

    @property
    def scale(self) -> float:
        """What B A is multiplied with. By the square root of the rank as Kalajdzievski, 2023, where `rslora` is set."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def same_function(self, other: "Lora") -> bool:
        """Whether weights trained with these settings are the same model under the `other`."""
        mine, theirs = ((lora.rank, lora.scale, set(lora.targets)) for lora in (self, other))
        return mine == theirs


def _check(values: Mapping[str, Any]) -> None:
    rank, alpha = values.get("rank", 8), values.get("alpha", 1.0)
    if type(rank) is not int or not 1 <= rank <= MOST:
        raise UserError(f"model.lora.rank must be a whole number from 1 to {MOST}, not {shown(rank)}")
    if type(alpha) not in (int, float) or not (math.isfinite(alpha) and alpha > 0):
        raise UserError(f"model.lora.alpha must be a number above 0, not {shown(alpha)}")
    dropout = values.get("dropout", 0.0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise UserError(f"model.lora.dropout must be from 0 to below 1, not {shown(dropout)}")
    if type(rslora := values.get("rslora", False)) is not bool:
        raise UserError(f"model.lora.rslora must be true or false, not {shown(rslora)}")
    if (dtype := values.get("frozen_dtype", "float32")) not in FROZEN_DTYPES:
        raise UserError(f"model.lora.frozen_dtype must be {' or '.join(FROZEN_DTYPES)}, not {shown(dtype)}")
    targets = values.get("targets", "decoder")
    names = [targets] if isinstance(targets, str) else targets
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) and n for n in names):
        raise UserError(f"model.lora.targets must be names of parts or layers, not {shown(targets)}")
