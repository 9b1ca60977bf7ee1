"""Where arrays live: batches split over all devices, parameters and optimiser state on each of them."""

from collections.abc import Mapping

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from slt_jax.errors import UserError


def device_mesh() -> Mesh:
    """One axis, `data`, over every device; a single device is the same code."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def check_batch_size(flag: str, batch_size: int, mesh: Mesh) -> None:
    if batch_size % mesh.size:
        raise UserError(f"{flag} {batch_size} does not divide over {mesh.size} devices; use a multiple of {mesh.size}")


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def place_batch(arrays: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """This process's rows of a batch as global arrays, split over `data` along the first axis."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(rows, array) for name, array in arrays.items()}
