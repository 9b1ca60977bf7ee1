"""Our side of the benchmarks: what `slt_jax.training.run` builds before its first step, at random weights."""

import dataclasses
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert import write_pt
from convert.checkpoint import Blueprint, plan_model
from convert.state_dict import to_state
from slt_jax.base.heap import give_back_freed_memory
from slt_jax.cli.command import choose_device, keep_compiled_programs
from slt_jax.config import Config
from slt_jax.decoding.generate import generate_tokens
from slt_jax.decoding.inference import Translator
from slt_jax.decoding.search import Search
from slt_jax.models.flops import model_flops
from slt_jax.models.layers import affine
from slt_jax.models.params import split_model
from slt_jax.models.vit import ViTConfig
from slt_jax.runtime.precision import compute_dtype, use_precision
from slt_jax.runtime.sharding import check_batch_size, device_mesh, place_batch
from slt_jax.training.memory import step_memory, with_memory_rule
from slt_jax.training.start import fresh_params
from slt_jax.training.translation_program import abstract_batch, translation_program
from tools.benchmarks.problem import raw_batch
from tools.benchmarks.processes import resident
from tools.benchmarks.timing import Seconds, timed


def plan_of(config: Config) -> Blueprint:
    """The model of `config`. Position tables are resized as transformers does it, without the hub's offset of 0.1."""
    plan = plan_model(config.model)
    backbones = {
        stream: dataclasses.replace(sizes, interpolate_offset=0.0) if isinstance(sizes, ViTConfig) else sizes
        for stream, sizes in plan.backbones.items()
    }
    return dataclasses.replace(plan, backbones=backbones)


def device_facts() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": f"{jax.device_count()} x {device.device_kind}",
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__},
    }


class Training:
    """Steps of training on one batch."""

    def __init__(self, config: Config):
        choose_device(config.data.device)
        keep_compiled_programs()
        self.config = config
        self.mesh = device_mesh(config.training.model_parallel)
        check_batch_size("--batch-size", config.data.batch_size, self.mesh)
        self.plan = plan_of(config)
        structure, self.entries = self.plan.structure(dtype=compute_dtype(config.data.precision))
        program = translation_program(config, self.plan, structure, mesh=self.mesh)
        random = {entry.key for entry in self.entries}  # no part's weights are read, whatever the configuration names
        params = fresh_params(self.plan, self.entries, config.data.seed, given=random)
        self.state = program.place(program.new_state(params))
        shapes = abstract_batch(config, program.layout, config.data.batch_size)
        self.program = with_memory_rule(program, config.training, shapes, self.state)
        self.raw = raw_batch(config, self.vocabulary, config.data.batch_size)
        self.batch = place_batch(self.raw, self.mesh)
        self.warm = False

    @property
    def vocabulary(self) -> int:
        return self.plan.vocabulary

    def facts(self) -> dict[str, Any]:
        """The device and the work: `flops` are forward and backward of one clip."""
        config = self.config
        flops = model_flops(
            self.plan.build, config.model, self.program.trained, target_length=config.data.max_target_length
        )
        return device_facts() | {
            "parameters": sum(p.size for p in self.state.params.values()),
            "flops": {name: part.training for name, part in flops.items()},
        }

    def save(self, path: str | Path) -> dict[str, Any]:
        """Write the weights for torch; returns what builds the model: sizes, and the keys that are not trained."""
        params = jax.device_get(self.state.params)
        write_pt(path, to_state(params, self.entries))
        chosen = set(self.program.trained)
        frozen = [entry.key for entry in self.entries if entry.path not in chosen]
        return self.plan.record() | {"vocabulary": self.vocabulary, "frozen": frozen}

    def loss(self, rows: int) -> float:
        """The loss of the first rows in float32, without dropout."""
        data = dataclasses.replace(self.config.data, precision="float32")
        program = translation_program(dataclasses.replace(self.config, data=data), self.plan, mesh=self.mesh)
        results = program.evaluate(self.state.params, {name: array[:rows] for name, array in self.raw.items()})
        loss = float(results["loss"])
        use_precision(self.config.data.precision)  # as it was
        return loss

    def turn(self, steps: int, warm_up: int) -> dict[str, Any]:
        """`steps` optimiser steps: time a step, and all losses. Untimed before: `warm_up` the first time, then one."""
        batches = [self.batch] * self.config.training.grad_accum_steps
        losses = []

        def run(count: int) -> None:
            for _ in range(count):
                self.state, results = self.program.step(self.state, batches, jnp.float32(self.config.optim.lr))
                losses.extend(results["loss"])
            jax.block_until_ready(self.state)

        run(1 if self.warm else warm_up)
        self.warm = True
        seconds = timed(lambda: run(steps)) / steps
        give_back_freed_memory()  # while the others have their turns
        return {"seconds": seconds, "losses": [float(loss) for loss in losses]}

    def lower(self) -> jax.stages.Lowered:
        """The step, traced and not yet compiled."""
        return self.program.lower(self.state, self.batch)

    def run_compiled(self, step: jax.stages.Compiled) -> None:
        self.state, results = step(self.state, self.batch, jnp.float32(self.config.optim.lr))
        jax.block_until_ready((self.state, results))

    def memory(self) -> dict[str, int]:
        """Bytes that the compiled step takes on each device."""
        return dataclasses.asdict(step_memory(self.program, self.state, self.batch))

    def bytes_in_use(self) -> dict[str, int]:
        """Bytes now and at most: the device's, or on a CPU this process's."""
        stats = jax.devices()[0].memory_stats()
        return {"now": stats["bytes_in_use"], "peak": stats["peak_bytes_in_use"]} if stats else resident()

    def matmul_peak(self) -> float:
        """FLOP/s of large products in the dtype of the computation, on all devices: the best of five tries."""
        size, times = (8192, 20) if jax.default_backend() != "cpu" else (2048, 2)
        dtype = compute_dtype(self.config.data.precision)
        # Of chance: a GPU multiplies constants faster than it ever will what is trained on.
        left, right = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
        right = right * size**-0.5
        product = jax.jit(lambda left, right: jax.lax.fori_loop(0, times, lambda _, x: affine(x, right), left))
        product(left, right).block_until_ready()
        best = min(timed(lambda: product(left, right).block_until_ready()).wall for _ in range(5))
        return 2.0 * size**3 * times / best * self.mesh.size


class Generation:
    """Texts for one batch, from its encoded frames, as `Translator.generate` finds them."""

    def __init__(self, config: Config):
        choose_device(config.data.device)
        keep_compiled_programs()
        use_precision("float32")  # of `turn` as of the translator: else a GPU computes in TF32
        self.config = config
        plan = plan_of(config)
        self.translator = Translator(plan, split_model(plan.build(seed=config.data.seed))[1])
        raw = raw_batch(config, plan.vocabulary, config.data.batch_size)
        self.batch = {name: array for name, array in raw.items() if name != "labels"}
        structure, self.entries = plan.structure()
        self.decoder = structure.merge(self.translator.params).decoder.model
        self.encoded = jnp.asarray(self.translator.encode(self.batch))
        self.mask = jnp.asarray(raw["pad_mask"])

    def facts(self) -> dict[str, Any]:
        return device_facts()

    def save(self, folder: str) -> dict[str, Any]:
        """Write weights and encoded frames for torch; returns what builds the model."""
        plan, params = self.translator.blueprint, jax.device_get(self.translator.params)
        write_pt(Path(folder, "weights.pt"), to_state(params, self.entries))
        np.save(Path(folder, "encoded.npy"), self.encoded)
        np.save(Path(folder, "mask.npy"), self.mask)
        return plan.record() | {"frozen": []}

    def tokens(self, beams: int) -> np.ndarray:
        return self.translator.generate(self.batch, num_beams=beams, max_length=self.config.data.max_target_length)

    def turn(self, beams: int) -> Seconds:
        search = Search(self.config.data.max_target_length, beams, min_length=0, early_stopping=False)
        return timed(lambda: generate_tokens(self.decoder, self.encoded, self.mask, search))
