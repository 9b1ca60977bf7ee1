"""Will it fit? Compile the real training step for named devices or for those here, without data or weights."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from convert.checkpoint import Blueprint, plan_model
from slt_jax.config import Config
from slt_jax.data.text import VOCABULARY
from slt_jax.models.flops import Flops, flops_by_part, part_counts
from slt_jax.models.freeze import training_table
from slt_jax.models.platform import traced_for
from slt_jax.models.remat import Memory
from slt_jax.models.trust import trusting
from slt_jax.runtime.sharding import check_batch_size, device_mesh
from slt_jax.training.contrastive import CONTRASTIVE, check_reads_texts
from slt_jax.training.ema import weights_beside
from slt_jax.training.gloss_ctc import GLOSS_CTC
from slt_jax.training.memory import StepMemory, device_bytes, first_that_fits, rules_for, step_memory
from slt_jax.training.program import Program
from slt_jax.training.start import check_target_length
from slt_jax.training.teaching import Teaching
from slt_jax.training.topologies import devices_of
from slt_jax.training.translation_program import abstract_batch, translation_program

MOST_CLIPS = 256  # per device; the search for the largest batch ends there
GLOSSES = 1000  # that a head is planned for: only data tell how many there are
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


class Devices(Protocol):
    """What can be planned for the devices here and for some that are not."""

    def verdict(self, name: str, devices: Sequence[jax.Device], usable: int) -> Verdict:
        """Whether a step fits `devices`, whose memory is `usable` each."""
        ...

    def present(self) -> Verdict:
        """The verdict for the devices of this machine."""
        devices = jax.devices()
        return self.verdict(devices[0].device_kind, devices, device_bytes())

    def topology(self, name: str) -> Verdict:
        """The verdict for devices that need not be at hand, such as v5e:2x2 or gpu:24."""
        # Programs that are not kept: only these devices could read them back.
        shortest = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]  # made at run time
        jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)
        try:
            devices, usable = devices_of(name)
            with traced_for(devices[0].platform):
                return self.verdict(name, devices, usable)
        finally:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)


class Planner(Devices):
    """Plans one configuration for several sets of devices."""

    def __init__(self, config: Config):
        named = config.training.teacher
        self.teaching = Teaching.open(named, trusting(config.model)) if named else None
        if config.model.vocab_size is None:
            vocabulary = self.teaching.plan.vocabulary if self.teaching else VOCABULARY
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocabulary))
        self.config = config
        self.plan: Blueprint = plan_model(config.model)
        check_target_length(self.plan, config.data.max_target_length)
        if config.training.objectives.get(CONTRASTIVE):
            check_reads_texts(self.plan)
        if self.teaching:
            self.teaching.check(config, self.plan, self.teaching.tokenizer)

    def program(self, mesh: Mesh, precision: str | None = None) -> Program:
        """The program that training would make, in the configuration's precision or another."""
        data = dataclasses.replace(self.config.data, precision=precision or self.config.data.precision)
        config = dataclasses.replace(self.config, data=data)
        teacher = self.teaching.teacher(config) if self.teaching else None
        glosses = GLOSSES if config.training.objectives.get(GLOSS_CTC) else 0
        return translation_program(config, self.plan, mesh=mesh, glosses=glosses, teacher=teacher)

    def batch(self, program: Program, clips: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of what it is shown: what the model reads, and its teacher."""
        loaded = self.teaching.joining(self.config) if self.teaching else self.config
        return abstract_batch(loaded, program.layout, clips)

    @cached_property
    def flops(self) -> dict[str, Flops]:
        """FLOPs per clip, by part and in `total`, without the optimiser's."""
        # In float32, where no product is inside a kernel that cannot be looked into.
        program = self.program(device_mesh(1, jax.devices()[:1]), "float32")
        functions, state, batch = program.functions, program.abstract_state(), self.batch(program, 1)
        forward = part_counts(functions.evaluate, state.params, batch)
        index = jax.ShapeDtypeStruct((), jnp.int32)
        return flops_by_part(forward, part_counts(functions.accumulate, state, state.trained, batch, index))

    def table(self) -> list[str]:
        """Lines on what trains, and the memory of weights, gradients and optimiser state."""
        state = self.program(device_mesh(1, jax.devices()[:1])).abstract_state()
        return training_table(state.params, state.trained, state.optimizer.slots, weights_beside(state))

    def verdict(self, name: str, devices: Sequence[jax.Device], usable: int) -> Verdict:
        """Whether a step fits `devices`, whose memory is `usable` each, and how many clips would."""
        config = self.config
        mesh = device_mesh(config.training.model_parallel, devices)
        check_batch_size(f"{name}: --batch-size", config.data.batch_size, mesh)
        program = self.program(mesh)
        state, rules = program.abstract_state(), rules_for(config.training, mesh)
        measured: dict[tuple[Memory, int], StepMemory] = {}

        def measure(memory: Memory, batch_size: int) -> StepMemory:
            if (memory, batch_size) not in measured:
                shapes = self.batch(program, batch_size)
                measured[memory, batch_size] = step_memory(program.under(memory), state, shapes)
            return measured[memory, batch_size]

        asked = config.data.batch_size
        memory, needs = first_that_fits(program, state, self.batch(program, asked), rules, usable)
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
