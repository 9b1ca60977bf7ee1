"""Will it fit? Compile the real training step for named TPUs or for the devices here, without data or weights."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from convert.checkpoint import Blueprint, plan_model
from slt_jax.base.quiet import expect_no_tpu
from slt_jax.config import Config
from slt_jax.data.text import VOCABULARY
from slt_jax.errors import UserError
from slt_jax.models.flops import Flops, model_flops
from slt_jax.models.freeze import trained_paths, training_table
from slt_jax.models.params import describe
from slt_jax.models.remat import Memory
from slt_jax.runtime.precision import compute_dtype
from slt_jax.runtime.sharding import check_batch_size, device_mesh
from slt_jax.training.memory import StepMemory, device_bytes, first_that_fits, out_of_memory, rules_for, step_memory
from slt_jax.training.start import check_target_length
from slt_jax.training.translation_program import abstract_batch, translation_program

MOST_CLIPS = 256  # per device; the search for the largest batch ends there
TRIES = 3  # programs compiled to confirm the largest batch


@dataclass(frozen=True)
class Verdict:
    """Whether a step fits. Bytes are per device, batches for all devices together."""

    name: str
    devices: int
    usable: int
    batch_size: int
    memory: Memory
    needs: StepMemory
    largest_batch: int  # 0: not even one clip per device
    largest_memory: Memory
    searched_to_end: bool  # an even larger batch may fit

    @property
    def fits(self) -> bool:
        """Whether a step fits the memory of each device."""
        return self.needs.fits and self.needs.total <= self.usable

    def to_dict(self) -> dict[str, Any]:
        """For `slt-plan --json`."""
        return {
            "topology": self.name, "devices": self.devices, "usable_bytes": self.usable, "batch_size": self.batch_size,
            "remat": self.memory.remat, "frame_chunk": self.memory.frame_chunk, "fits": self.fits,
            "argument_bytes": self.needs.arguments, "temporary_bytes": self.needs.temporaries,
            "total_bytes": self.needs.total, "largest_batch": self.largest_batch,
            "largest_batch_remat": self.largest_memory.remat,
            "largest_batch_frame_chunk": self.largest_memory.frame_chunk, "larger_may_fit": self.searched_to_end,
        }  # fmt: skip


def topology_devices(name: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice such as v5e:2x2, to compile for. Raises UserError that says what to do."""
    from jax.experimental import topologies

    expect_no_tpu()
    os.environ.pop("XLA_FLAGS", None)  # libtpu ends the process over one that it does not know, such as a GPU's
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError("--topology needs libtpu: pip install 'slt-jax[plan]'") from None
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).partition(": ")[2].split()) or error
        raise UserError(f"--topology {name}: {reason}; such as v5e:2x2, v5e:4x4, v5p:2x2x1 or v6e:2x2") from None


def usable_bytes(device: jax.Device) -> int:
    """The memory of a TPU that is not at hand: its compiler tells when a program needs more."""
    sharding = jax.sharding.SingleDeviceSharding(device)
    tebibyte = jax.ShapeDtypeStruct((1 << 20, 1 << 18), jnp.float32, sharding=sharding)
    try:
        jax.jit(lambda x: x + 1).lower(tebibyte).compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = out_of_memory(error)[1]
        if wanted:
            return wanted
        raise
    raise RuntimeError(f"{device.device_kind} takes a program of 2 TiB")


class Devices(Protocol):
    """What can be planned for the devices here and for TPUs that are not."""

    def verdict(self, name: str, devices: Sequence[jax.Device], usable: int) -> Verdict:
        """Whether a step fits `devices`, whose memory is `usable` each."""
        ...

    def present(self) -> Verdict:
        """The verdict for the devices of this machine."""
        devices = jax.devices()
        return self.verdict(devices[0].device_kind, devices, device_bytes())

    def topology(self, name: str) -> Verdict:
        """The verdict for a TPU slice such as v5e:2x2, which need not be at hand."""
        devices = topology_devices(name)
        # Programs that are not kept: only a TPU could read them back.
        shortest = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]  # made at run time
        jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)
        try:
            return self.verdict(name, devices, usable_bytes(devices[0]))
        finally:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)


class Planner(Devices):
    """Plans one configuration for several sets of devices."""

    def __init__(self, config: Config):
        if config.model.vocab_size is None:
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=VOCABULARY))
        self.config = config
        self.plan: Blueprint = plan_model(config.model)
        check_target_length(self.plan, config.data.max_target_length)
        self.build = partial(self.plan.build, adapters=True)
        self.structure, _ = describe(lambda: self.build(dtype=compute_dtype(config.data.precision)))

    @cached_property
    def flops(self) -> dict[str, Flops]:
        """FLOPs per clip, by part and in `total`."""
        names = [name for name, *_ in self.structure.variables]
        trained = trained_paths(self.config.model, names, self.structure.buffers)
        target = self.config.data.max_target_length
        return model_flops(self.build, self.config.model, frozenset(trained), target_length=target)

    def table(self) -> list[str]:
        """Lines on what trains, and the memory of weights, gradients and optimiser state."""
        program = translation_program(self.config, self.plan, self.structure, mesh=device_mesh(1, jax.devices()[:1]))
        state = program.abstract_state()
        return training_table(state.params, state.trained, state.optimizer.slots)

    def verdict(self, name: str, devices: Sequence[jax.Device], usable: int) -> Verdict:
        """Whether a step fits `devices`, whose memory is `usable` each, and how many clips would."""
        config = self.config
        mesh = device_mesh(config.training.model_parallel, devices)
        check_batch_size(f"{name}: --batch-size", config.data.batch_size, mesh)
        program = translation_program(config, self.plan, self.structure, mesh=mesh)
        state, rules = program.abstract_state(), rules_for(config.training, mesh)
        measured: dict[tuple[Memory, int], StepMemory] = {}

        def measure(memory: Memory, batch_size: int) -> StepMemory:
            if (memory, batch_size) not in measured:
                batch = abstract_batch(config, program.layout, batch_size)
                measured[memory, batch_size] = step_memory(program.under(memory), state, batch)
            return measured[memory, batch_size]

        asked = config.data.batch_size
        batch = abstract_batch(config, program.layout, asked)
        memory, needs = first_that_fits(program, state, batch, rules, usable)
        if needs is not None:
            measured[memory, asked] = needs
        needs = measure(memory, asked)
        parts = mesh.shape["data"]
        largest = largest_batch(partial(measure, rules[-1]), parts, asked, usable)
        return Verdict(
            name, len(devices), usable, asked, memory, needs, largest, rules[-1], largest == MOST_CLIPS * parts
        )


def largest_batch(measure: Callable[[int], StepMemory], parts: int, asked: int, usable: int) -> int:
    """The most clips, a multiple of `parts`, for which `measure(clips)` fits; `asked` may be one already measured.

    Memory grows evenly with the batch, except where a compiler lays things out differently. So two sizes lead to the
    limit, and the program of that size decides. If they don't, the result is the last size that fitted while doubling.
    """

    def fits(clips: int) -> bool:
        needs = measure(clips)
        return needs.fits and needs.total <= usable

    if not fits(parts):
        return 0
    known = asked if asked > parts and fits(asked) else parts
    second = known if known > parts else 2 * parts
    each = (measure(second).total - measure(parts).total) / (second - parts)
    guess = 3 * MOST_CLIPS * parts if each <= 0 else int(parts + (usable - measure(parts).total) / each)
    roomy = 2 * measure(second).total < usable
    if roomy and guess > 2 * MOST_CLIPS * parts:  # far from any doubt
        return MOST_CLIPS * parts
    if not roomy and guess > 4 * second:
        # A TPU's compiler that is short of memory computes again by itself: it hardly grows, and leads nowhere.
        while known < MOST_CLIPS * parts and fits(2 * known):
            known *= 2
        return known
    for _ in range(TRIES):
        guess = min(guess, MOST_CLIPS * parts) // parts * parts
        if guess <= known:
            break
        if fits(guess):
            return guess
        guess = int(guess * 0.9)
    return known
