"""Everything of a run that is compiled or placed, made in one place from the settings."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding

from slt_jax.config import OptimConfig, TrainingConfig
from slt_jax.models.params import Params, Structure, describe, split_model
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.runtime.precision import compute_dtype, use_precision
from slt_jax.runtime.sharding import Layout, device_mesh, replicated
from slt_jax.training.objective import Inputs, Objective
from slt_jax.training.optim import Optimizer, build_optimizer
from slt_jax.training.scaler import scaler_state
from slt_jax.training.state import OptState, TrainState
from slt_jax.training.step import Arrays, Results, StepFunctions

# Makes the model: build(dtype=..., memory=...).
Build = Callable[..., nnx.Module]
PER_BATCH = ("loss", "weight", "metrics")  # results of a step that each of its micro-batches has


@dataclass(frozen=True)
class Program:
    """The model without its arrays, where arrays live, and the step. `build` makes the model under another rule."""

    build: Build
    functions: StepFunctions
    trained: tuple[str, ...]  # paths that get gradients and optimiser state
    precision: str

    @property
    def structure(self) -> Structure:
        """The model without its arrays."""
        return self.functions.structure

    @property
    def layout(self) -> Layout:
        """Where arrays live."""
        return self.functions.layout

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return self.layout.mesh

    # --- states -------------------------------------------------------------------------------------------------

    def new_state(self, params: Mapping[str, Any]) -> TrainState:
        """A state at step 0 with these `params`, on this host."""
        chosen = set(self.trained)
        trained = {path: params[path] for path in self.trained}
        if narrow := self.structure.narrow:
            params = {path: p.astype(jnp.bfloat16) if path in narrow else p for path, p in params.items()}
        return TrainState(
            trained=trained,
            frozen={path: array for path, array in params.items() if path not in chosen},
            optimizer=self.functions.optimizer.init(trained),
            scaler=scaler_state(),
            step=np.int32(0),
            teacher=self.functions.objective.teacher(params),
        )

    def place(self, state: TrainState) -> TrainState:
        """Place `state` on the devices. Every process holds all of it and gives its devices their parts."""

        def place(array: Any, sharding: NamedSharding) -> jax.Array:
            host = np.asarray(array)
            # Always a copy: the first step donates these buffers, and a mapped file or a caller may share them.
            return jax.make_array_from_callback(host.shape, sharding, lambda part: np.array(host[part]))

        return jax.tree.map(place, state, self.places(state))

    def abstract_state(self) -> TrainState:
        """The shapes and places of a state, without computing an array."""

        def place(array: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

        shapes = jax.eval_shape(lambda: self.new_state(split_model(self.build())[1]))
        return jax.tree.map(place, shapes, self.places(shapes))

    def places(self, state: TrainState) -> TrainState:
        """Where the arrays of a state live; takes arrays or only their shapes."""
        everywhere, params = replicated(self.mesh), self.layout.params

        def beside(teacher: Any) -> Any:
            if isinstance(teacher, Mapping) and teacher.keys() <= state.params.keys():
                return params(teacher)  # a copy of weights lives as they do
            if isinstance(teacher, Mapping):
                return {name: beside(part) for name, part in teacher.items()}
            return jax.tree.map(lambda _: everywhere, teacher)

        slots = {name: params(slot) for name, slot in state.optimizer.slots.items()}
        return TrainState(
            trained=params(state.trained),
            frozen=params(state.frozen),
            optimizer=OptState(slots, everywhere),
            scaler=dict.fromkeys(state.scaler, everywhere),
            step=everywhere,
            teacher=beside(state.teacher),
        )

    # --- other rules --------------------------------------------------------------------------------------------

    def under(self, memory: Memory) -> "Program":
        """The same program with a model under the rule `memory`."""
        if memory == KEEP_ALL:
            return self
        if memory.frame_chunk:
            memory = dataclasses.replace(memory, shards=self.mesh.shape["data"])
        dtype = compute_dtype(self.precision)
        structure = describe(lambda: self.build(dtype=dtype, memory=memory))[0]
        return self._with(structure=dataclasses.replace(structure, narrow=self.structure.narrow))

    def suited_to(self, state: TrainState) -> "Program":
        """The same program; its optimiser has one count of updates if all parameters of `state` share it."""
        return self._with(optimizer=self.functions.optimizer.suited_to(state.optimizer))

    def _with(self, **changes: Any) -> "Program":
        return dataclasses.replace(self, functions=dataclasses.replace(self.functions, **changes))

    # --- running ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def jitted(self) -> "Jitted":
        """The compiled functions."""
        return jitted(self.functions)

    def step(self, state: TrainState, batches: Sequence[Arrays], lr: Array | np.float32) -> tuple[TrainState, Results]:
        """Take one optimiser step over micro-batches; `state` is donated.

        Returns the new state, and results: lists of `loss`, `weight` and `metrics` of each micro-batch, `grad_norm`,
        and with a scaled loss also `scale`.
        """
        if len(batches) == 1:
            state, results = self.jitted.train(state, batches[0], lr)
            return state, {**results, **{name: [results[name]] for name in PER_BATCH}}
        grads: Params = jax.tree.map(jnp.zeros_like, state.trained)
        rows: list[Results] = []
        for index, batch in enumerate(batches):
            grads, results = self.jitted.accumulate(state, grads, batch, jnp.int32(index))
            rows.append(results)
        metrics = jax.tree.map(lambda *values: sum(values) / len(values), *(row["metrics"] for row in rows))
        state, results = self.jitted.apply(state, grads, metrics, jnp.float32(len(batches)), lr)
        return state, {**results, **{name: [row[name] for row in rows] for name in PER_BATCH}}

    def evaluate(self, params: Mapping[str, Any], batch: Arrays) -> Results:
        """What the objective's `evaluate` reads of one batch."""
        return self.jitted.evaluate(params, batch)

    def lower(self, state: TrainState, batch: Arrays) -> jax.stages.Lowered:
        """The step on one batch (arrays or only their shapes), traced but not compiled."""
        return self.jitted.train.lower(state, batch, jax.ShapeDtypeStruct((), jnp.float32))

    def compilations(self) -> int:
        """Programs compiled so far for training and validation: one per function and shape."""
        return sum(compiled_shapes(function) for function in self.jitted)


class Jitted(NamedTuple):
    """The functions of a step under `jax.jit`."""

    train: jax.stages.Wrapped
    accumulate: jax.stages.Wrapped
    apply: jax.stages.Wrapped
    evaluate: jax.stages.Wrapped


@functools.lru_cache(maxsize=4)
def jitted(functions: StepFunctions) -> Jitted:
    """The compiled functions, which equal runs of one process share."""
    jit = functools.partial(jax.jit, compiler_options=compiler_options(functions.layout.mesh))
    return Jitted(
        train=jit(functions.train_step, donate_argnums=0),
        accumulate=jit(functions.accumulate, donate_argnums=1),
        apply=jit(functions.apply, donate_argnums=0),
        evaluate=jit(functions.evaluate),
    )


def compiled_shapes(function: Any) -> int:
    """For how many shapes a jitted function has been compiled in this process."""
    return function._cache_size()


def compiler_options(mesh: Mesh) -> dict[str, bool] | None:
    """On a GPU, use cuBLAS for products: XLA's own Triton kernels take longer to tune, and more memory."""
    on_gpu = mesh.devices.flat[0].platform in ("gpu", "cuda")
    return {"xla_gpu_enable_triton_gemm": False} if on_gpu else None


def as_loaded(batch: Arrays, key: Array | None) -> Inputs:
    """The `prepare` for batches that are already model inputs."""
    return batch


def make_program(
    build: Build,
    objective: Objective,
    *,
    optim: OptimConfig,
    training: TrainingConfig,
    optimizer: Optimizer | None = None,
    precision: str = "float32",
    seed: int = 0,
    prepare: Callable[[Arrays, Array | None], Inputs] = as_loaded,
    structure: Structure | None = None,
    trained: Sequence[str] | None = None,
    mesh: Mesh | None = None,
) -> Program:
    """The program of a task, on `mesh` (default: all devices).

    `structure` saves time if the caller has described the model already; `trained` are the paths that move (default:
    all parameters); `optimizer` takes the place of that of `optim`. From now on, float32 is real float32 if `precision`
    computes in it. Raises UserError if the devices do not divide.
    """
    use_precision(precision)
    dtype = compute_dtype(precision)
    structure = structure or describe(lambda: build(dtype=dtype, memory=KEEP_ALL))[0]
    if trained is None:
        trained = sorted(name for name, *_ in structure.variables if name not in structure.buffers)
    functions = StepFunctions(
        structure=structure,
        objective=objective,
        optimizer=dataclasses.replace(optimizer or build_optimizer(optim), one_count=True),  # as a new state has
        layout=Layout(mesh or device_mesh(training.model_parallel), fsdp=training.sharding == "fsdp"),
        prepare=prepare,
        clip_norm=optim.grad_clip_norm,
        seed=seed,
        scaled=dtype == jnp.float16,
    )
    return Program(build, functions, tuple(trained), precision)
