"""`inspect`: describe a file or folder in lines for a reader."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from convert.optimizer import optimizer_kind
from convert.source import Source, find_ties

SUMMARY = (
    "image_size",
    "d_model",
    "projector_dim",
    "sequence_length",
    "temporal_layers",
    "temporal_nhead",
    "decoder_layers",
    "decoder_model",
    "decoder_config",
    "decoder_class",
    "face_backbone",
    "backbone",
)


def report(source: Source, *, with_keys: bool = True) -> Iterator[str]:
    """The lines: the kind, what is beside the tensors, and a table of the tensors."""
    ties = find_ties(source.tensors)
    untied = {key: array for key, array in source.tensors.items() if key not in ties}
    yield f"{source.path}: {source.kind}"
    dtypes = sorted({array.dtype.name for array in untied.values()})
    numbers = sum(array.size for array in untied.values())
    total = sum(array.nbytes for array in untied.values())
    yield (
        f"{len(source.tensors)} tensors, {len(ties)} of them tied to others; {numbers:,} numbers, {size(total)}; "
        f"{', '.join(dtypes)}"
    )
    yield from _beside(source.rest)
    if with_keys:
        yield ""
        yield from table(
            ["key", "shape", "dtype", "size"],
            [
                [key, str(list(array.shape)), array.dtype.name, f"= {ties[key]}" if key in ties else size(array.nbytes)]
                for key, array in source.tensors.items()
            ],
        )


def _beside(rest: Mapping[str, Any]) -> Iterator[str]:
    if "epoch" in rest:
        yield f"epoch {rest['epoch']}, val_loss {rest.get('val_loss')}, best_val {rest.get('best_val')}"
    config = rest.get("config")
    if isinstance(config, Mapping):
        model = config.get("model")
        if isinstance(model, Mapping):
            yield "model: " + ", ".join(f"{key} {model[key]}" for key in SUMMARY if model.get(key) not in (None, ""))
        data = config.get("data")
        masks = data.get("v9_hand_masks", True) if isinstance(data, Mapping) else True
        yield f"hands: {'hidden, as v9 does (v9_hand_masks)' if masks else 'seen (v9_hand_masks false)'}"
    optimizer = rest.get("optimizer_state")
    if isinstance(optimizer, Mapping) and optimizer.get("param_groups"):
        group = optimizer["param_groups"][0]
        settings = {key: group[key] for key in ("lr", "weight_decay", "momentum", "betas") if key in group}
        text = ", ".join(f"{key} {value}" for key, value in settings.items())
        state = optimizer.get("state", {})
        steps = {int(np.asarray(slots["step"])) for slots in state.values() if "step" in slots}
        taken = f", {max(steps)} steps" if steps else ""
        yield f"optimizer: {optimizer_kind(optimizer)}, {text}; state of {len(state)} parameters{taken}"
    if rest.get("scaler_state"):
        yield f"loss scale: {rest['scaler_state'].get('scale')}"
    others = [
        str(key)
        for key in rest
        if key not in ("epoch", "val_loss", "best_val", "config", "optimizer_state", "scaler_state")
    ]
    if others:
        yield f"beside them: {', '.join(others)}"


def size(count: float) -> str:
    """A number of bytes for a reader."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """The rows as text, in aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
