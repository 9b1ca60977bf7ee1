"""Our side of the benchmark of pre-training: what `slt-pretrain` builds before its first step, at random weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import write_pt
from convert.state_dict import to_state
from slt_jax.base.heap import give_back_freed_memory
from slt_jax.cli.command import choose_device, keep_compiled_programs
from slt_jax.models.params import describe, split_model
from slt_jax.pretraining.objective import SelfDistillation
from slt_jax.pretraining.program import Prepare, Schedules, mirrored_views, new_student, pretraining_program
from slt_jax.pretraining.settings import PretrainConfig
from slt_jax.pretraining.start import check_sizes, starting_backbone
from slt_jax.runtime.sharding import device_mesh, place_batch
from tools.benchmarks.ours import device_facts
from tools.benchmarks.processes import resident
from tools.benchmarks.timing import timed

STEPS = 1000  # of an epoch, which only schedules read


class Training:
    """Steps on one batch of made-up crops, whose views are drawn anew in each step."""

    def __init__(self, config: PretrainConfig):
        choose_device(config.run.device)
        keep_compiled_programs()
        vit, _ = starting_backbone(dataclasses.replace(config, run=dataclasses.replace(config.run, backbone=None)))
        self.vit = dataclasses.replace(vit, interpolate_offset=0.0)  # transformers resizes positions without it
        check_sizes(config, self.vit)
        self.config, self.schedules = config, Schedules.of(config, STEPS)
        self.program, self.entries = pretraining_program(config, self.vit, self.schedules, device_mesh())
        self.params = split_model(new_student(self.vit, config.loss, config.run.seed))[1]
        side = config.augmentation.image_size
        crops = np.random.default_rng(0).integers(0, 256, (config.dataset.batch_size, side, side, 3), np.uint8)
        self.crops, self.views = {"images": crops}, self._views(crops)
        self.batch = place_batch(self.crops, self.program.mesh)
        self.state: Any = None

    def _views(self, crops: np.ndarray) -> dict[str, jax.Array]:
        config = self.config
        prepare = Prepare(config.augmentation, mirrored_views(config), config.loss, self.vit.patch_size)
        return jax.jit(prepare)({"images": crops}, jax.random.key(0))

    def facts(self) -> dict[str, Any]:
        """The device and versions."""
        return device_facts()

    def save(self, weights: str, views: str) -> dict[str, Any]:
        """Write the student's weights under the hub's names, and the views; returns the sizes of the ViT."""
        host = {path: np.asarray(array) for path, array in self.params.items()}
        write_pt(weights, to_state(host, self.entries))
        np.savez(views, large=self.views["global"], small=self.views["local"])
        return dataclasses.asdict(self.vit)

    def loss(self) -> float:
        """The loss of the views in float32, before the first step."""
        objective = self.program.functions.objective
        assert isinstance(objective, SelfDistillation)
        structure, _ = describe(lambda: new_student(self.vit, self.config.loss, self.config.run.seed))
        objective = dataclasses.replace(objective, structure=structure)

        def loss(params, teacher, views):
            found = objective.loss(structure.merge(params), views, jax.random.key(0), teacher)
            return found.total / found.weight

        return float(jax.jit(loss)(self.params, objective.teacher(self.params), self.views))

    def bytes_in_use(self) -> dict[str, int]:
        """Bytes now and at most: of the device, or on a CPU this process's."""
        stats = jax.local_devices()[0].memory_stats()
        return {"now": stats["bytes_in_use"], "peak": stats["peak_bytes_in_use"]} if stats else resident()

    def turn(self, steps: int, warm_up: int) -> dict[str, Any]:
        """`steps` steps: time a step, and all losses. Untimed before: `warm_up` the first time, then one."""
        losses = []

        def run(count: int) -> None:
            for _ in range(count):
                self.state, results = self.program.step(self.state, [self.batch], jnp.float32(1e-4))
                losses.append(results["loss"][0])
            jax.block_until_ready(self.state)

        if self.state is None:
            self.state = self.program.place(self.program.new_state(self.params))
            run(warm_up)
        else:
            run(1)
        seconds = timed(lambda: run(steps)) / steps
        give_back_freed_memory()  # while the others have their turns
        return {"seconds": seconds, "losses": [float(loss) for loss in losses]}
