"""Adapters beside a checkpoint's merged weights, under PEFT's names and in torch's layouts.

`lora_state` of a `.pt` has for each layer with an adapter: `<layer>.lora_A.weight` (rank, in), `<layer>.lora_B.weight`
(out, rank) and `<layer>.base_layer.weight`, what they were merged into. Names begin as in v9's state dict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.checkpoint import Blueprint
from convert.state_dict import LINEAR, Entry, StateDictMismatch, to_params, to_state
from slt_jax.models.layers import Adapted
from slt_jax.models.lora import KERNEL, A, B
from slt_jax.models.params import describe

LORA_STATE, LORA_OPTIMIZER = "lora_state", "lora_optimizer_state"  # entries of a `.pt`
NAMES = {A: "lora_A.weight", B: "lora_B.weight", KERNEL: "base_layer.weight"}


@dataclass(frozen=True)
class AdapterTable:
    """The entries of a model's adapters, and of the weights under them; none for a model without adapters."""

    adapters: list[Entry]
    bases: list[Entry]

    @classmethod
    def of(cls, plan: Blueprint) -> "AdapterTable":
        """Those of the model of `plan`, without computing an array."""
        if plan.lora is None:
            return NO_ADAPTERS
        _, leaves = describe(lambda: plan.build(adapters=True))
        adapters: list[Entry] = []
        bases: list[Entry] = []
        for leaf in leaves:
            stem, _, name = leaf.path.rpartition(".")
            if issubclass(leaf.owner, Adapted) and name in NAMES and leaf.name == leaf.path:
                entry = Entry(f"{stem}.{NAMES[name]}", leaf.path, leaf.shape[::-1], LINEAR, False)
                (bases if name == KERNEL else adapters).append(entry)
        return cls(adapters, bases)

    def state(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """`lora_state` of unmerged weights by path. Bases keep their dtype."""
        return to_state(params, [*self.adapters, *self.bases])

    def params(self, state: Any, where: object) -> dict[str, np.ndarray]:
        """Adapters and the weights under them by path. Raises StateDictMismatch that begins with `where`."""
        held = state if isinstance(state, Mapping) else {}
        arrays = {key: array for key, array in held.items() if isinstance(array, np.ndarray)}
        try:
            return to_params(arrays, [*self.adapters, *self.bases])
        except StateDictMismatch as error:
            raise StateDictMismatch(f"{where}: {LORA_STATE}: {error}") from None


NO_ADAPTERS = AdapterTable([], [])
