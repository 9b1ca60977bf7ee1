"""How much memory a training step takes, told by compiling it, and the cheapest rule that fits a device."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from convert.checkpoint import Blueprint
from slt_jax.base.console import say
from slt_jax.config import Config
from slt_jax.errors import UserError
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.runtime import hosts
from slt_jax.runtime.precision import compute_dtype
from slt_jax.runtime.sharding import Layout
from slt_jax.training.compiled import jitted
from slt_jax.training.step import StepFunctions, TrainState

GIB = 2**30
CHUNK = 64
# Each takes less memory than the one before, and more time: 0, 1, 2 and 2 further forward passes of a backbone.
RULES = (KEEP_ALL, Memory("block"), Memory("stream"), Memory("block", CHUNK))
# XLA merges what is computed twice on the CPU, so that only loops keep memory low there.
CPU_RULES = (KEEP_ALL, Memory("none", CHUNK), Memory("none", CHUNK // 8))
# Of a frame of 150 kB a ViT-S/14 keeps 0.13 GB for the backward pass, a ViT-g/14 1.3 GB.
KEPT_PER_BYTE = 10_000


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one device; `fits` is False where the compiler itself refused, and `total` is then what it told."""

    arguments: int
    temporaries: int
    total: int
    fits: bool = True


def step_memory(functions: StepFunctions, state: TrainState, batch: Mapping) -> StepMemory:
    """What `functions.train_step` needs on each device; `state` and `batch` are shapes with their places."""
    train_step, lr = jitted(functions)[0], jax.ShapeDtypeStruct((), jnp.float32)
    try:
        found = train_step.lower(state, batch, lr).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # A TPU's memory is laid out by its compiler, which names what it would need.
        return StepMemory(0, 0, out_of_memory(error)[0], fits=False)
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    total = found.argument_size_in_bytes + found.temp_size_in_bytes + new
    return StepMemory(found.argument_size_in_bytes, found.temp_size_in_bytes, total)


def out_of_memory(error: Exception) -> tuple[int, int]:
    """The bytes that a TPU's compiler wanted and those that it has, by its words; 0 where it does not say."""
    text = str(error)
    found = [
        re.search(pattern, text)
        for pattern in (r"(?:Used |required [^(]*\()([\d.]+)([KMGT])", r"(?: of |available HBM \()([\d.]+)([KMGT])")
    ]
    unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    wanted, usable = (int(float(told[1]) * unit[told[2]]) if told else 0 for told in found)
    return wanted, usable


def abstract_batch(config: Config, layout: Layout, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and places of a batch as the loader brings it, of clips of full length."""
    clip = batch_size, config.model.sequence_length
    image = (*clip, config.model.image_size, config.model.image_size, 3)
    landmarks = config.model.pose_landmarks
    shapes = {
        "face": (image, jnp.uint8), "hand_l": (image, jnp.uint8), "hand_r": (image, jnp.uint8),
        "pose": ((*clip, 3 * landmarks), jnp.float32), "pose_conf_mask": ((*clip, landmarks), bool),
        "pad_mask": (clip, bool), "miss_mask_hl": (clip, bool), "miss_mask_hr": (clip, bool),
        "labels": ((batch_size, config.data.max_target_length), jnp.int32), "valid": ((batch_size,), bool),
        "flip": ((batch_size,), bool),
    }  # fmt: skip
    rows = NamedSharding(layout.mesh, PartitionSpec("data"))
    return {name: jax.ShapeDtypeStruct(shape, kind, sharding=rows) for name, (shape, kind) in shapes.items()}


def device_bytes() -> int:
    """The memory of a device of this run, the least over all processes; on the CPU what the machine has free."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit") or _free_bytes()
    return min(hosts.gathered([limit]))  # all processes must compile the same program


def _free_bytes() -> int:
    try:
        told = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        told = None
    return int(told[1]) * 1024 if told else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def shard_bytes(tree: Any) -> int:
    """What the arrays of a tree take on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * np.dtype(a.dtype).itemsize for a in leaves)


# --- which rule ---------------------------------------------------------------------------------------------------


def with_memory_rule(functions: StepFunctions, plan: Blueprint, config: Config, state: TrainState) -> StepFunctions:
    """`functions` under `training.remat` and `training.frame_chunk`; `auto` says what it takes, and why.

    Raises UserError where not even the last rule fits a TPU.
    """
    asked = Memory(config.training.remat, config.training.frame_chunk)
    if asked.remat != "auto":
        return under_rule(functions, plan, config, asked)
    batch = abstract_batch(config, functions.layout, config.data.batch_size)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
    limit = device_bytes()
    of = f"of {limit / GIB:.1f} GiB"
    rules = rules_for(config, functions.layout)
    advice = "lower --batch-size (--grad-accum-steps makes up for it)"
    if _on_cpu(functions.layout):
        memory, need = _fits_host(functions, shapes, batch, rules, limit)
        need = f"which takes about {need / GIB:.1f} {of}" if need else f"{limit / GIB:.1f} GiB are free"
        say(f"memory: {memory}, {need}")
    else:
        memory, used = first_that_fits(partial(under_rule, functions, plan, config), shapes, batch, rules, limit)
        if used and not used.fits:
            raise UserError(f"a step takes {used.total / GIB:.1f} {of} even with {memory}; {advice}")
        need = f"which takes {used.total / GIB:.1f} {of}" if used else f"plainly enough memory: {of[3:]}"
        say(f"memory: {memory}, {need}" + (f": if it fails, {advice}" if used and used.total > limit else ""))
    return under_rule(functions, plan, config, memory)


def under_rule(functions: StepFunctions, plan: Blueprint, config: Config, memory: Memory) -> StepFunctions:
    """`functions` with a model that keeps to `memory`."""
    if memory == KEEP_ALL:
        return functions
    if memory.frame_chunk:
        memory = dataclasses.replace(memory, shards=functions.layout.mesh.shape["data"])
    structure, _ = plan.structure(dtype=compute_dtype(config.data.precision), memory=memory)
    return dataclasses.replace(functions, structure=structure)


def rules_for(config: Config, layout: Layout) -> Sequence[Memory]:
    """What a configuration leaves to choose from, the cheapest first."""
    remat, chunk = config.training.remat, config.training.frame_chunk
    if remat != "auto":
        return [Memory(remat, chunk)]
    if chunk:
        return [Memory("none", chunk), Memory("block", chunk)]
    return CPU_RULES if _on_cpu(layout) else RULES


def _on_cpu(layout: Layout) -> bool:
    return layout.mesh.devices.flat[0].platform == "cpu"


def _fits_host(
    functions: StepFunctions, state: TrainState, batch: Mapping, rules: Sequence[Memory], limit: int
) -> tuple[Memory, int]:
    """The first rule that fits by estimate, and its bytes, 0 where a look at the frames is enough.

    Nothing is compiled: memory that runs short slows a computer down before it ends a run.
    """
    if sum(math.prod(a.shape) for a in batch.values() if a.dtype == jnp.uint8) * KEPT_PER_BYTE < limit:
        return rules[0], 0
    kept = kept_bytes(functions, state, batch)
    frames = math.prod(batch["pad_mask"].shape)
    for memory in rules:
        share = min(1.0, memory.frame_chunk * functions.layout.mesh.shape["data"] / frames) if memory.frame_chunk else 1
        need = int(kept * share) + shard_bytes(state) + shard_bytes(state["trained"])
        if need < limit:
            break
    return memory, need


def first_that_fits(
    under: Callable[[Memory], StepFunctions], state: TrainState, batch: Mapping, rules: Sequence[Memory], limit: int
) -> tuple[Memory, StepMemory | None]:
    """The first rule whose program fits, else the last, and what it takes.

    Not compiled are those whose arrays alone say no, and (None) keeping everything where they plainly say yes.
    """
    arrays = shard_bytes(state) + shard_bytes(state["trained"]) + shard_bytes(batch)
    for memory in rules:
        functions = under(memory)
        if len(rules) > 1:
            kept = kept_bytes(functions, state, batch) // functions.layout.mesh.shape["data"]
            if memory == KEEP_ALL and arrays + 1.5 * kept < limit:
                return memory, None
            # XLA fuses much of what JAX would keep, but never two thirds of it.
            if arrays + kept / 3 > limit and memory is not rules[-1]:
                continue
        used = step_memory(functions, state, batch)
        if used.fits and used.total <= limit:
            break
    return memory, used


def kept_bytes(functions: StepFunctions, state: TrainState, batch: Mapping) -> int:
    """What the backward pass keeps of the forward pass on all devices together, before a compiler fuses any of it."""
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(jax.eval_shape(functions.backward, state, batch)))
