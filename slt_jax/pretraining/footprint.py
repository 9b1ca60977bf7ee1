"""Will pre-training fit? Compile its real step for named TPUs or for the devices here, without data or weights."""

from collections.abc import Sequence
from functools import cached_property

import jax
import jax.numpy as jnp

from slt_jax.models.flops import matmul_flops
from slt_jax.models.remat import Memory
from slt_jax.pretraining.program import Schedules, abstract_batch, pretraining_program
from slt_jax.pretraining.settings import PretrainConfig
from slt_jax.pretraining.start import check_sizes, starting_backbone
from slt_jax.runtime.sharding import check_batch_size, device_mesh
from slt_jax.training.memory import StepMemory, step_memory
from slt_jax.training.planning import Devices, Verdict, largest_batch

STEPS = 1000  # of an epoch: what a step takes does not depend on it


class PretrainingPlanner(Devices):
    """Plans one configuration for several sets of devices."""

    def __init__(self, config: PretrainConfig):
        self.config = config
        self.vit, _ = starting_backbone(config)
        check_sizes(config, self.vit)

    @cached_property
    def flops(self) -> int:
        """FLOPs of a step per crop: student and teacher, forward and backward."""
        program, _ = pretraining_program(self.config, self.vit, Schedules.of(self.config, STEPS))
        functions, batch = program.functions, abstract_batch(self.config, program.layout, 1)
        rate = jax.ShapeDtypeStruct((), jnp.float32)
        return matmul_flops(functions.train_step, program.abstract_state(), batch, rate)

    def verdict(self, name: str, devices: Sequence[jax.Device], usable: int) -> Verdict:
        """Whether a step fits `devices`, whose memory is `usable` each, and how many crops would."""
        config, mesh = self.config, device_mesh(devices=devices)
        asked, parts = config.dataset.batch_size, mesh.shape["data"]
        check_batch_size(f"{name}: --batch-size", asked, mesh)
        program, _ = pretraining_program(config, self.vit, Schedules.of(config, STEPS), mesh)
        state = program.abstract_state()
        measured: dict[int, StepMemory] = {}

        def measure(crops: int) -> StepMemory:
            if crops not in measured:
                measured[crops] = step_memory(program, state, abstract_batch(config, program.layout, crops))
            return measured[crops]

        needs, memory = measure(asked), Memory(remat=config.run.remat)
        largest = largest_batch(measure, parts, asked, usable)
        return Verdict(name, len(devices), usable, asked, memory, needs, largest, memory, False)
