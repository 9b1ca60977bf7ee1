"""Find out how much memory a training step takes by compiling it, and the cheapest rule that fits a device."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from slt_jax.base.console import say
from slt_jax.base.heap import free_bytes, keep_at_most, process_bytes, promised_bytes, return_large_blocks
from slt_jax.config import ModelConfig, TrainingConfig
from slt_jax.data.loader import Loader
from slt_jax.errors import UserError
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.runtime import hosts
from slt_jax.streams import images_of
from slt_jax.training.program import Program
from slt_jax.training.state import TrainState

Shapes = Mapping[str, Any]  # of a batch: anything with shape, dtype and sharding, no array is computed

GIB = 2**30
CHUNK = 64
# Each takes less memory than the one before, and more time: 0, 1, 2 and 2 further forward passes of a backbone.
RULES = (KEEP_ALL, Memory("block"), Memory("stream"), Memory("block", CHUNK))
# On a CPU, XLA merges what is computed twice, so that only loops save memory there.
CPU_RULES = (KEEP_ALL, Memory("none", CHUNK), Memory("none", CHUNK // 8))
# Of a frame of 150 kB a ViT-S/14 keeps 0.13 GB for the backward pass, a ViT-g/14 1.3 GB.
KEPT_PER_BYTE = 10_000
COMPILER = GIB // 2  # what compiling takes, and libraries for their own temporaries
PLENTY = 8 * GIB  # what any computer has that trains a model
# XLA's temporaries on a CPU against what JAX would keep: measured are 0.5 to 1.5, docs/performance.md.
CPU_TEMPORARIES = 1.5


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device. `fits` is False if the compiler itself refused; `total` is then what it said."""

    arguments: int
    temporaries: int
    total: int
    fits: bool = True


def step_memory(program: Program, state: TrainState, batch: Shapes) -> StepMemory:
    """What the training step needs on each device. `state` and `batch` are shapes with their places."""
    try:
        analysis = program.lower(state, batch).compile().memory_analysis()
        assert analysis is not None  # every backend that XLA compiles for has one
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        # A TPU's compiler lays out the memory and says how much it would need.
        return StepMemory(0, 0, out_of_memory(error)[0], fits=False)
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    total = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes + new
    return StepMemory(analysis.argument_size_in_bytes, analysis.temp_size_in_bytes, total)


def out_of_memory(error: Exception) -> tuple[int, int]:
    """The bytes that a TPU's compiler wanted, and those that it has, according to its message; 0 if it does not say."""
    text = str(error)
    matches = [
        re.search(pattern, text)
        for pattern in (r"(?:Used |required [^(]*\()([\d.]+)([KMGT])", r"(?: of |available HBM \()([\d.]+)([KMGT])")
    ]
    unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    wanted, usable = (int(float(match[1]) * unit[match[2]]) if match else 0 for match in matches)
    return wanted, usable


def device_bytes() -> int:
    """The memory of a device of this run, the least over all processes; on a CPU, what the machine has free."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit") or free_bytes()
    return min(hosts.gathered([limit]))  # all processes must compile the same program


def shard_bytes(tree: Any) -> int:
    """The bytes that the arrays of a tree take on each device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * np.dtype(a.dtype).itemsize for a in leaves)


# --- which rule ---------------------------------------------------------------------------------------------------


def with_memory_rule(program: Program, training: TrainingConfig, batch: Shapes, state: TrainState) -> Program:
    """`program` under `training.remat` and `training.frame_chunk`. `auto` prints what it chooses, and why.

    `batch` are the shapes and places of the largest batch. Raises UserError if not even the last rule fits a TPU.
    """
    asked = Memory(training.remat, training.frame_chunk)
    if asked.remat != "auto":
        return program.under(asked)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
    limit = device_bytes()
    of = f"of {limit / GIB:.1f} GiB"
    rules = rules_for(training, program.mesh)
    advice = "lower --batch-size (--grad-accum-steps makes up for it)"
    if on_cpu(program.mesh):
        memory, need = _fits_host(program, shapes, batch, rules, limit)
        reason, now = f"{limit / GIB:.1f} GiB are free", process_bytes()
        if need:
            most = now + need + COMPILER
            keep_at_most(min(most, now + limit))
            reason = f"the process takes up to {most / GIB:.1f} of {(now + limit) / GIB:.1f} GiB"
        say(f"memory: {memory}, {reason}" + (f": if it is killed, {advice}" if need > limit else ""))
    else:
        memory, used = first_that_fits(program, shapes, batch, rules, limit)
        if used and not used.fits:
            raise UserError(f"a step takes {used.total / GIB:.1f} {of} even with {memory}; {advice}")
        reason = f"which takes {used.total / GIB:.1f} {of}" if used else f"plainly enough memory: {of[3:]}"
        say(f"memory: {memory}, {reason}" + (f": if it fails, {advice}" if used and used.total > limit else ""))
    return program.under(memory)


def rules_for(training: TrainingConfig, mesh: Mesh) -> Sequence[Memory]:
    """The rules that a configuration leaves to choose from, cheapest first."""
    remat, chunk = training.remat, training.frame_chunk
    if remat != "auto":
        return [Memory(remat, chunk)]
    if chunk:
        return [Memory("none", chunk), Memory("block", chunk)]
    return CPU_RULES if on_cpu(mesh) else RULES


def on_cpu(mesh: Mesh) -> bool:
    """Whether the devices of `mesh` are CPUs."""
    return mesh.devices.flat[0].platform == "cpu"


def takes_large_blocks(image_bytes: int) -> bool:
    """Whether a model that is shown so many bytes of frames at once had better return freed blocks to the system."""
    return image_bytes * KEPT_PER_BYTE >= PLENTY


def suit_heap(model: ModelConfig, clips: int) -> None:
    """Return freed blocks to the system if batches of `clips` of full length take large ones."""
    if takes_large_blocks(clips * model.sequence_length * len(images_of(model)) * 3 * model.image_size**2):
        return_large_blocks()


def keep_decoded(loaders: Sequence[Loader], share: float, batch: Shapes, mesh: Mesh) -> int:
    """Have the loaders keep decoded frames where all of a split fit into `share` of the memory that a host has free.

    What the step of a CPU may still take is not free. Returns the bytes.
    """
    left = free_bytes() // hosts.beside()
    if on_cpu(mesh):
        promised = promised_bytes()
        left -= frame_bytes(batch) * KEPT_PER_BYTE if promised is None else promised
    left, taken = int(share * left), 0
    for loader in loaders:
        taken += loader.keep_frames(left - taken)
    if taken:
        say(f"memory: up to {taken / GIB:.1f} GiB hold decoded frames and poses (data.keep_decoded)")
    return taken


def frame_bytes(batch: Shapes) -> int:
    """What the frames of a batch take."""
    return sum(math.prod(array.shape) for array in batch.values() if array.dtype == jnp.uint8)


def _fits_host(
    program: Program, state: TrainState, batch: Shapes, rules: Sequence[Memory], limit: int
) -> tuple[Memory, int]:
    """The first rule that fits by estimate, and the bytes that the process will take more; 0 if these are few.

    Nothing is compiled, as that would take longer than many a run.
    """
    images, pixels = [a.shape for a in batch.values() if a.dtype == jnp.uint8], frame_bytes(batch)
    if not takes_large_blocks(pixels) and pixels * KEPT_PER_BYTE < limit:
        return rules[0], 0
    kept = kept_bytes(program, state, batch)
    frames = max(math.prod(shape[:-3]) for shape in images)  # that one backbone sees
    memory, need = rules[0], 0
    for memory in rules:
        chunk = (memory.frame_chunk or frames) * program.mesh.shape["data"]
        # Gradients, and a copy of the state while it is saved; the state itself is there.
        need = int(CPU_TEMPORARIES * kept * min(1.0, chunk / frames)) + shard_bytes(state.trained) + shard_bytes(state)
        if need < limit:
            break
    return memory, need


def first_that_fits(
    program: Program, state: TrainState, batch: Shapes, rules: Sequence[Memory], limit: int
) -> tuple[Memory, StepMemory | None]:
    """The first rule under which the program fits, else the last, and what it takes.

    Rules are not compiled if their arrays alone say no, nor (None) is keeping everything if they plainly say yes.
    """
    arrays = shard_bytes(state) + shard_bytes(state.trained) + shard_bytes(batch)
    memory, used = rules[0], None
    for memory in rules:
        candidate = program.under(memory)
        if len(rules) > 1:
            kept = kept_bytes(candidate, state, batch) // program.mesh.shape["data"]
            if memory == KEEP_ALL and arrays + 1.5 * kept < limit:
                return memory, None
            # XLA fuses much of what JAX would keep, but never two thirds of it.
            if arrays + kept / 3 > limit and memory is not rules[-1]:
                continue
        used = step_memory(candidate, state, batch)
        if used.fits and used.total <= limit:
            break
    return memory, used


def kept_bytes(program: Program, state: TrainState, batch: Shapes) -> int:
    """The bytes that the backward pass keeps of the forward pass, on all devices together and before any fusion."""
    kept = jax.eval_shape(program.functions.backward, state, batch)
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(kept))
