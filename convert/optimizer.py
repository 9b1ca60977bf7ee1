"""Optimiser state between our mappings and `torch.optim`'s `state_dict()`.

torch numbers parameters in the order of `model.parameters()`: tied ones once, no buffers, and untrained ones counted
but without state. Those with another learning rate or weight decay are a group of their own, and groups are numbered
one after another. Later v9 numbers only what needs a gradient, in two groups: the encoder's and the decoder's.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from convert.state_dict import Entry, parameters
from slt_jax.errors import UserError

# What torch 2.13 writes in a group beside what was asked for, by optimiser.
COMMON = {"maximize": False, "foreach": None, "differentiable": False}
CAPTURABLE: dict[str, Any] = COMMON | {"capturable": False}
GROUPS: dict[str, dict[str, Any]] = {
    "adamw": CAPTURABLE | {"fused": None, "amsgrad": False, "decoupled_weight_decay": True},
    "adam": CAPTURABLE | {"fused": None, "amsgrad": False, "decoupled_weight_decay": False},
    "sgd": COMMON | {"fused": None, "dampening": 0, "nesterov": False},
    "rmsprop": CAPTURABLE | {"alpha": 0.99, "centered": False},
    "adagrad": COMMON | {"fused": None, "lr_decay": 0, "initial_accumulator_value": 0},
    "adamax": CAPTURABLE,
    "adadelta": CAPTURABLE | {"rho": 0.9},
    "nadam": CAPTURABLE | {"momentum_decay": 4e-3, "decoupled_weight_decay": False},
    "radam": CAPTURABLE | {"decoupled_weight_decay": False},
    "adafactor": {"beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "foreach": None, "maximize": False},
    "lion": {},  # which torch does not have; as its common implementations write it
}
WITH_MOMENTUM = ("sgd", "rmsprop")
WITH_BETAS = ("adamw", "adam", "adamax", "nadam", "radam", "lion")
WITHOUT_EPSILON = ("sgd", "lion", "adafactor")  # which has two

OWN_SETTINGS = {  # that no other kind has
    "nadam": "momentum_decay", "adagrad": "lr_decay", "adadelta": "rho", "rmsprop": "alpha", "adafactor": "beta2_decay",
}  # fmt: skip


class PartSettings(Protocol):
    """How a parameter is trained otherwise than the rest."""

    @property
    def rate(self) -> float:
        """A factor of the learning rate."""

    @property
    def decay(self) -> float:
        """A factor of the weight decay."""


class OptimizerSettings(Protocol):
    """What must be known of an optimiser to write its state. The one in `slt_jax.training` has it all."""

    @property
    def kind(self) -> str:
        """One of `GROUPS`."""

    @property
    def slots(self) -> tuple[str, ...]:
        """The arrays kept of parameters, under torch's names."""

    @property
    def weight_decay(self) -> float:
        """As torch names it."""

    @property
    def momentum(self) -> float:
        """Of sgd and rmsprop."""

    @property
    def betas(self) -> tuple[float, float]:
        """Of Adam and what came of it."""

    @property
    def epsilon(self) -> float:
        """As torch names it eps; sgd has none."""

    @property
    def parts(self) -> Sequence[tuple[str, PartSettings]]:
        """The paths that are trained otherwise than the rest."""

    def scalars(self, step: float) -> dict[str, float]:
        """The numbers that torch keeps of a parameter after `step` updates, by its names."""


def to_torch(
    state: Mapping[str, Any],
    trained: Collection[str],
    optimizer: OptimizerSettings,
    lr: float,
    initial_lr: float,
    entries: list[Entry],
) -> dict[str, Any]:
    """Our optimiser state of the `trained` paths as torch's `{"state": {index: slots}, "param_groups": [...]}`."""
    steps = dict(zip(sorted(trained), np.asarray(state["step"]), strict=True))
    slots: dict[int, dict[str, Any]] = {}
    groups = _own_groups(optimizer, entries)
    for index, entry in enumerate(entry for _, _, group in groups for entry in group):
        step = float(steps.get(entry.path, 0))
        if not step and optimizer.kind != "adagrad":  # the one that makes its state before the first update
            continue
        scalars = {name: np.asarray(value, np.float32) for name, value in optimizer.scalars(step).items()}
        own = [slot for slot in optimizer.slots if not step or entry.path in state[slot]]
        kept = scalars | {slot: _as_torch(state[slot].get(entry.path), entry) for slot in own}
        if kept:  # sgd without momentum keeps nothing
            slots[index] = kept
    written: list[dict[str, Any]] = []
    first = 0
    for rate, decay, group in groups:
        numbers = {"lr": lr * rate, "initial_lr": initial_lr * rate, "params": [*range(first, first + len(group))]}
        written.append(_group(optimizer, decay) | numbers)
        first += len(group)
    return {"state": slots, "param_groups": written}


def _own_groups(optimizer: OptimizerSettings, entries: list[Entry]) -> list[tuple[float, float, list[Entry]]]:
    """The factors of learning rate and weight decay of each group and its parameters, in the order of the model."""
    own = {path: (part.rate, part.decay) for path, part in optimizer.parts}
    groups: dict[tuple[float, float], list[Entry]] = {} if entries else {(1.0, 1.0): []}
    for entry in parameters(entries):
        groups.setdefault(own.get(entry.path, (1.0, 1.0)), []).append(entry)
    return [(*factors, group) for factors, group in groups.items()]


def _as_torch(array: Any, entry: Entry) -> np.ndarray:
    """A slot in torch's layout; zeros for what is not trained."""
    if array is None:
        return np.zeros(entry.shape, np.float32)
    return np.asarray(entry.layout.to_torch(np.asarray(array)), order="C")


def _group(optimizer: OptimizerSettings, decay: float) -> dict[str, Any]:
    kind = optimizer.kind
    asked: dict[str, Any] = {"weight_decay": optimizer.weight_decay * decay}
    if kind in WITH_MOMENTUM:
        asked["momentum"] = optimizer.momentum
    if kind in WITH_BETAS:
        asked["betas"] = optimizer.betas
    return asked | ({} if kind in WITHOUT_EPSILON else {"eps": optimizer.epsilon}) | GROUPS[kind]


def optimizer_kind(saved: Mapping[str, Any]) -> str:
    """Which of `GROUPS` wrote a state. torch writes no name, but its settings tell."""
    group = saved["param_groups"][0]
    for kind, key in OWN_SETTINGS.items():
        if key in group:
            return kind
    if "betas" not in group:
        return "sgd"
    if "eps" not in group:
        return "lion"
    if any("exp_inf" in slots for slots in saved.get("state", {}).values()):
        return "adamax"
    decoupled = group.get("decoupled_weight_decay")
    if "amsgrad" not in group and "foreach" in group:
        return "adamax" if decoupled is None else "radam"
    return "adam" if decoupled is False else "adamw"


def check_kind(written: str, wanted: str, where: str) -> None:
    """Raise UserError if a state is of another optimiser, though its arrays may have the same names and shapes."""
    if written != wanted and not {written, wanted} <= {"adam", "adamw"}:  # whose states are the same
        raise UserError(f"{where}: was written by {written}, not {wanted}; give --optimizer {written}")


def from_torch(
    saved: Mapping[str, Any],
    state: Mapping[str, Any],
    trained: Collection[str],
    optimizer: OptimizerSettings,
    entries: list[Entry],
    frozen: Collection[str] = (),
) -> dict[str, Any]:
    """`state` (freshly initialised) of the `trained` paths, filled from torch's optimiser state.

    Parameters without saved state keep zeros, as in torch. `frozen` are the paths that need no gradient, which later
    v9 does not number. Raises UserError if the saved state is of another kind of optimiser or another model.
    """
    check_kind(optimizer_kind(saved), optimizer.kind, "optimizer_state")
    numbered = numbering(saved, entries, frozen, optimizer)
    paths = sorted(trained)
    steps = dict.fromkeys(paths, 0.0)
    filled = {slot: dict(state[slot]) for slot in optimizer.slots}
    for index, slots in saved["state"].items():
        entry = numbered[index]
        if entry.path not in steps:
            continue
        for slot in optimizer.slots:
            if (fresh := state[slot].get(entry.path)) is None:  # of Adafactor's, a parameter has some
                continue
            if slots.get(slot) is None:
                raise UserError(f"optimizer_state: no '{slot}' for {entry.key}; it was not written by {optimizer.kind}")
            if np.shape(slots[slot]) != entry.layout.to_torch(np.asarray(fresh)).shape:
                raise UserError(
                    f"optimizer_state: '{slot}' of {entry.key} has the shape {list(np.shape(slots[slot]))} and the "
                    f"parameter {list(entry.shape)}; it is of another model"
                )
            filled[slot][entry.path] = np.asarray(entry.layout.to_jax(slots[slot]), np.float32, order="C")
        steps[entry.path] = float(slots.get("step", 1))
    return filled | {"step": np.array([steps[path] for path in paths], np.float32)}


# --- how torch numbers parameters ---------------------------------------------------------------------------------

PARTS = ("encoder.", "decoder.")  # later v9's groups


def numbering(
    saved: Mapping[str, Any],
    entries: list[Entry],
    frozen: Collection[str] = (),
    optimizer: OptimizerSettings | None = None,
) -> dict[int, Entry]:
    """The entry of each number in torch's optimiser state, by whichever layout its groups are as long as.

    The groups that `optimizer` makes are tried first. Raises UserError if they are as long as none.
    """
    groups = [list(group["params"]) for group in saved["param_groups"]]
    layouts = [[parameters(entries)], [_trained(entries, frozen)], _parts(entries, frozen)]
    own = [group for *_, group in _own_groups(optimizer, entries)] if optimizer else layouts[0]
    for layout in [own, *layouts]:
        if [len(part) for part in layout] == [len(group) for group in groups]:
            return {
                number: entry
                for group, part in zip(groups, layout, strict=True)
                for number, entry in zip(group, part, strict=True)
            }
    (everything,), (trained,), _ = layouts
    counts = ", ".join(f"{sum(e.key.startswith(part) for e in trained)} of the {part[:-1]}" for part in PARTS)
    raise UserError(
        f"optimizer_state: has {' + '.join(str(len(group)) for group in groups)} parameters, the model has "
        f"{len(everything)}, of which {len(trained)} are not frozen ({counts}); freeze what was frozen when it was "
        f"written (--freeze-face-backbone, ...), give the rates by part that it was written with (optim.lr_backbone, "
        f"...), or take the weights alone with --init-checkpoint"
    )


def rates_note(saved: Mapping[str, Any], optimizer: OptimizerSettings) -> str | None:
    """A line about groups with learning rates of their own that `optimizer` does not have; None if there are none."""
    rates = [group.get("lr") for group in saved["param_groups"]]
    if len({*rates}) < 2 or optimizer.parts:
        return None
    given = ", ".join(f"{rate:g}" for rate in rates)
    return (
        f"optimizer_state: its groups have the learning rates {given}; here one rate holds for all parameters unless "
        f"optim.lr_backbone, lr_encoder or lr_decoder are given"
    )


def regrouped(
    saved: Mapping[str, Any], layout: str, entries: list[Entry], frozen: Collection[str] = ()
) -> dict[str, Any]:
    """torch's optimiser state in `layout`, v9 or later-v9; the settings of a group are those of the first one saved."""
    old = {entry.path: number for number, entry in numbering(saved, entries, frozen).items()}
    parts = [parameters(entries)] if layout == "v9" else _parts(entries, frozen)
    groups, slots, first = [], {}, 0
    for part in parts:
        numbers = range(first, first + len(part))
        groups.append({**saved["param_groups"][0], "params": list(numbers)})
        for number, entry in zip(numbers, part, strict=True):
            if (before := old.get(entry.path)) in saved["state"]:
                slots[number] = saved["state"][before]
        first += len(part)
    return {"state": slots, "param_groups": groups}


def _trained(entries: list[Entry], frozen: Collection[str]) -> list[Entry]:
    return [entry for entry in parameters(entries) if entry.path not in frozen]


def _parts(entries: list[Entry], frozen: Collection[str]) -> list[list[Entry]]:
    """Later v9's groups; one without any parameter is not there."""
    trained = _trained(entries, frozen)
    parts = [[entry for entry in trained if entry.key.startswith(part)] for part in PARTS]
    return [part for part in parts if part]
