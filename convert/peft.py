"""Adapters of the decoder to and from a folder of HuggingFace's PEFT.

A folder holds `adapter_config.json` and `adapter_model.safetensors` (of old versions `adapter_model.bin`), whose names
are `base_model.model.<layer of the HuggingFace model>.lora_A.weight` and `lora_B.weight`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.adapters import LORA_STATE, NAMES, AdapterTable
from convert.checkpoint import Blueprint, blueprint, load_params
from convert.huggingface import read_safetensors
from convert.safetensors_file import write_safetensors
from convert.source import Source
from convert.target import Progress, adding_up, total_bytes
from convert.torch_file import read_pt, write_pt
from slt_jax.adapter_settings import Lora
from slt_jax.base.files import replacing_folder, write_json
from slt_jax.base.json_text import read_json
from slt_jax.errors import UserError, shown
from slt_jax.models.families import PREFIX, text_encoders
from slt_jax.models.lora import KERNEL, A, B
from slt_jax.models.trust import Trust

CONFIG, WEIGHTS, OLD_WEIGHTS = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
WRAPPED = "base_model.model."
TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.(lora_[AB])(?:\.[^.]+)?\.weight")  # with its adapter's name, or not
# Settings of PEFT that change what is computed, and the values at which they don't.
PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False), "lora_bias": (None, False), "bias": (None, "none"), "modules_to_save": (None, []),
    "rank_pattern": (None, {}), "alpha_pattern": (None, {}), "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}), "layer_replication": (None, []),
}  # fmt: skip
MOVES_BASE = ("pissa", "olora", "corda", "loftq")  # initialisations that change the weights under the adapters


def to_peft(source: Source, target: Path) -> list[str]:
    """Write the adapters of the decoder in `source` as a folder; returns what to know about it, in lines.

    Raises UserError if there are none, or the decoder is no HuggingFace model.
    """
    model, state = source.checkpoint.model_fields, source.rest.get(LORA_STATE)
    lora = Lora.parse(model.get("lora"))
    if lora is None or not isinstance(state, Mapping):
        raise UserError(f"{source.path}: has no adapters ({LORA_STATE}); only runs with model.lora write some")
    if model.get("decoder_class"):
        raise UserError(f"{source.path}: its decoder is the class {model['decoder_class']}, which PEFT does not know")
    arrays = {key: array for key, array in state.items() if isinstance(array, np.ndarray)}
    adapters = {key: array for key, array in arrays.items() if not key.endswith(NAMES[KERNEL])}
    own = {key.removeprefix(PREFIX): array for key, array in adapters.items() if key.startswith(PREFIX)}
    if not own:
        raise UserError(f"{source.path}: has adapters of the backbones alone; a PEFT folder is one of a decoder")
    with replacing_folder(target) as folder:
        write_json(folder / CONFIG, _peft_config(lora, model.get("decoder_model"), own))
        write_safetensors(folder / WEIGHTS, {WRAPPED + key: array for key, array in own.items()}, {})
    notes = [f"{target}: written, the adapters of {len(own) // 2} layers of the decoder"]
    if len(own) < len(adapters):
        notes.append(f"note: those of {(len(adapters) - len(own)) // 2} layers of the backbones are left out")
    return notes


def _peft_config(lora: Lora, base: Any, adapters: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What PEFT reads; layers are named one by one, as it would give the text encoder adapters otherwise."""
    return {
        "peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": base, "inference_mode": True,
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "use_rslora": lora.rslora,
        "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True,
        "target_modules": sorted({key.removesuffix(f".{NAMES[A]}") for key in adapters if key.endswith(NAMES[A])}),
    }  # fmt: skip


def from_peft(
    folder: Path, source: Source, target: Path, *, trust: Trust = False, progress: Progress | None = None
) -> list[str]:
    """Write `source`, a whole model, with the adapters of a PEFT folder on its decoder: merged, and beside that apart.

    Returns what to know about it, in lines. Raises UserError for adapters that do more than LoRA, or do not fit.
    """
    settings, tensors = _read_config(folder), _read_tensors(folder)
    checkpoint = source.checkpoint
    plan = blueprint(checkpoint, trust=trust)
    if plan.decoder is None or "model_type" not in plan.decoder:
        raise UserError(f"{source.path}: has no HuggingFace decoder, on which the adapters of {folder} could be")
    load_params(checkpoint, plan.structure()[1])  # strict, as everything else that reads a whole model
    own = {key: array for key, array in tensors.items() if not key.startswith(text_encoders())}
    if not own:
        raise UserError(f"{folder}: has adapters of the text encoder alone, which reads no frames")
    plan, lora = _with_adapters(plan, folder, settings, {key.rpartition(".lora_")[0] for key in own})
    table = AdapterTable.of(plan)
    weights = {entry.key: entry.key.removesuffix(NAMES[KERNEL]) + "weight" for entry in table.bases}
    state = own | {key: np.asarray(checkpoint.state[name], np.float32) for key, name in weights.items()}
    table.params(state, folder)  # strict: what does not fit is told
    merged = dict(checkpoint.state)
    for key, name in weights.items():
        a, b = (state[key.removesuffix(NAMES[KERNEL]) + NAMES[half]] for half in (A, B))
        merged[name] = state[key] + np.float32(lora.scale) * (b @ a)
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(lora).items()}
    config = {**checkpoint.config, "model": {**checkpoint.model_fields, "lora": given}}
    content: dict[str, Any] = {"epoch": 0, "model_state": merged, LORA_STATE: state, "config": config}
    content |= {key: checkpoint.rest[key] for key in ("architecture",) if key in checkpoint.rest}
    write_pt(target, content, progress=adding_up(progress, total_bytes(merged, state)))
    notes = [f"{target}: written, with the adapters of {len(weights)} layers of the decoder merged"]
    if len(own) < len(tensors):
        count = (len(tensors) - len(own)) // 2
        notes.append(f"note: those of {count} layers of the text encoder are left out, as it reads no frames")
    return notes


def _with_adapters(
    plan: Blueprint, folder: Path, settings: Mapping[str, Any], layers: set[str]
) -> tuple[Blueprint, Lora]:
    """The plan with adapters on these layers, by the names of their kinds where that says it."""

    def targeting(targets: list[str]) -> Blueprint:
        return dataclasses.replace(plan, config=dataclasses.replace(
            plan.config, lora={**settings, "targets": ["decoder", *targets]}))  # fmt: skip

    able = {entry.key.removesuffix(f".{NAMES[KERNEL]}") for entry in AdapterTable.of(targeting([])).bases}
    if unknown := sorted(layers - able):
        raise UserError(
            f"{folder}: has an adapter of {unknown[0].removeprefix(PREFIX)}, which is no linear layer of the decoder"
        )
    kinds = sorted({layer.rpartition(".")[2] for layer in layers})
    whole = {layer for layer in able if layer.rpartition(".")[2] in kinds} == layers
    plan = targeting(kinds if whole else sorted(layer.removeprefix(PREFIX) for layer in layers))
    assert plan.lora is not None
    return plan, plan.lora


def _read_config(folder: Path) -> dict[str, Any]:
    """`model.lora` without targets. Raises UserError for what is no plain LoRA."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder}: is no PEFT adapter (it has no {CONFIG})")
    config = read_json(path, "adapter")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UserError(f"{path}: its peft_type is {shown(kind)}; only LORA can be read")
    for key, plain in PLAIN.items():
        if config.get(key) not in plain:
            raise UserError(f"{path}: {key} {shown(config[key])} cannot be read; merge the adapter with PEFT instead")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(MOVES_BASE):
        raise UserError(
            f"{path}: init_lora_weights {shown(start)} changed the weights under the adapters too; merge it with PEFT"
        )
    given = {"rank": config.get("r", 8), "alpha": config.get("lora_alpha", 8),
             "dropout": config.get("lora_dropout") or 0.0, "rslora": bool(config.get("use_rslora"))}  # fmt: skip
    try:
        Lora.parse(given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return given


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """A and B of each layer, float32, by the names of `lora_state`. Raises UserError for any other tensor."""
    path = next((folder / name for name in (WEIGHTS, OLD_WEIGHTS) if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: has no {WEIGHTS}")
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pt(path)
    tensors: dict[str, np.ndarray] = {}
    for key, array in content.items() if isinstance(content, Mapping) else ():
        match = TENSOR.fullmatch(str(key))
        if match is None or not isinstance(array, np.ndarray) or array.ndim != 2:
            raise UserError(f"{path}: {shown(key)} is no matrix of LoRA on a linear layer; merge the adapter with PEFT")
        if not np.isfinite(wide := np.asarray(array, np.float32)).all():
            raise UserError(f"{path}: {shown(key)} has numbers that are not finite")
        tensors[f"{PREFIX}{match[1]}.{match[2]}.weight"] = wide
    if not tensors or math.remainder(len(tensors), 2):
        raise UserError(f"{path}: holds no pairs of lora_A and lora_B")
    return tensors
