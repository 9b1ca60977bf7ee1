"""Where arrays live: batches are split over devices, parameters and optimiser state are replicated or split too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from slt_jax.errors import UserError
from slt_jax.runtime import hosts
from slt_jax.runtime.tensor_parallel import model_dimension


def device_mesh(model_parallel: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices (or the given ones) as `data` x `model`. A single device needs no other code.

    The devices of a process follow each other along `data`, so that its rows of a batch are one block of it. Raises
    UserError where the devices do not divide.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda device: device.process_index)
    count, processes = len(devices), len({device.process_index for device in devices})
    if count % model_parallel:
        raise UserError(
            f"--model-parallel {model_parallel} does not divide the {count} devices; use a divisor of {count}"
        )
    if count // processes % model_parallel:
        raise UserError(
            f"--model-parallel {model_parallel} does not divide the {count // processes} devices of a process, which "
            f"must share the matrices; use a divisor of {count // processes}"
        )
    grid = np.array(devices).reshape(count // model_parallel, model_parallel)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def check_batch_size(flag: str, batch_size: int, mesh: Mesh) -> None:
    """Raise UserError naming `flag` if the batch does not divide over the devices."""
    parts = mesh.shape["data"]
    if batch_size % parts:
        raise UserError(f"{flag} {batch_size} does not divide over {parts} devices; use a multiple of {parts}")


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(arrays: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """This process's rows of a batch as global arrays, split over `data` along the first axis."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    if hosts.count() == 1:
        return jax.device_put(dict(arrays), rows)  # one call for all arrays takes two thirds of the time
    return {name: jax.make_array_from_process_local_data(rows, array) for name, array in arrays.items()}


@dataclass(frozen=True)
class Layout:
    """Where the arrays of a train state live. Hashable, so that it can be compiled in.

    Over `model` the matrices of the decoder and of the temporal encoder are split, see `tensor_parallel`. With `fsdp`
    every parameter, with its optimiser slots, is split over `data` too, along its largest dimension that divides.
    """

    mesh: Mesh
    fsdp: bool = False

    def spec(self, path: str, shape: Sequence[int]) -> PartitionSpec:
        """How the parameter at `path` is split."""
        axes: list[str | None] = [None] * len(shape)
        dimension = model_dimension(path)
        if dimension is not None and self.mesh.shape["model"] > 1 and shape[dimension] % self.mesh.shape["model"] == 0:
            axes[dimension] = "model"
        if self.fsdp:
            parts = self.mesh.shape["data"]
            free = [n for n, size in enumerate(shape) if axes[n] is None and size >= parts and size % parts == 0]
            if free:
                axes[max(free, key=lambda n: shape[n])] = "data"
        while axes and axes[-1] is None:  # so that equal placements are equal objects for `jax.jit` too
            axes.pop()
        return PartitionSpec(*axes)

    def params(self, params: Mapping[str, Any]) -> dict[str, NamedSharding]:
        """The places of parameters, gradients or slots, arrays or only their shapes."""
        return {path: NamedSharding(self.mesh, self.spec(path, array.shape)) for path, array in params.items()}

    def keep(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Inside `jax.jit`: the same arrays, in their places."""
        if self.mesh.size == 1:
            return dict(params)
        return jax.lax.with_sharding_constraint(dict(params), self.params(params))

    def rows(self, array: Array) -> Array:
        """Inside `jax.jit`: the same results, the rows of a batch where those of its inputs are."""
        return jax.lax.with_sharding_constraint(array, NamedSharding(self.mesh, PartitionSpec("data")))

    def gather(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Parameters as a model computes with them: whole, except for what `model` splits. Works inside `jax.jit` too.

        Without this XLA would leave the parameters split over `data`, and move the activations instead.
        """
        if not self.fsdp or self.mesh.size == 1:
            return dict(params)
        return _constrain(dict(params), Layout(self.mesh))

    def on_each_process(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Gathered parameters, of several processes each with all of them on its devices alone."""
        if hosts.count() == 1:
            return dict(params)
        return jax.device_put(hosts.fetch(dict(params)), Layout(self.mesh.local_mesh).params(params))


@partial(jax.jit, static_argnums=1)
def _constrain(params: dict[str, Array], layout: Layout) -> dict[str, Array]:
    return jax.lax.with_sharding_constraint(params, layout.params(params))
