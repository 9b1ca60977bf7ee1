"""Several processes, on one host or many, that train together: they meet, agree, share results and end together.

Everything here is harmless in a run of one process, where nothing is sent and `jax.distributed` is never touched.
"""

import json
import logging
import os
import re
import socket
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from slt_jax.base import console
from slt_jax.errors import UserError
from slt_jax.runtime import links

# What tells a process of a cluster which one it is.
KNOWN = re.compile(r"SLURM_(PROCID|NTASKS|STEP_NODELIST)|OMPI_COMM_WORLD_(RANK|SIZE)|TPU_WORKER_\w+|JOB_\w+_INDEX")


# --- meeting ------------------------------------------------------------------------------------------------------


def join(prog: str, where: links.Meeting) -> None:
    """Become one of several processes. Call it before a device is used, and `introduce` afterwards.

    Raises UserError in one line where others do not answer in time.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # CPU programs may run side by side, and those with sums over devices can wait for each other for ever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM from us
    if where.coordinator is None:
        _detect(prog, where.timeout)
        return
    host, port = where.coordinator
    flag = f"--coordinator {host}:{port}"
    if where.count > 1 and where.index == 0:
        links.current = links.answer(flag, links.listen(flag, port), where.count, where.timeout)
    elif where.count > 1:
        links.current = links.call(flag, where.coordinator, where.count, where.index, where.timeout)
    if links.current:
        links.current.watch(prog)
    if where.index:
        host, port = "127.0.0.1", links.relay(where.coordinator)
    jax.distributed.initialize(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        where.count,
        where.index,
        initialization_timeout=round(where.timeout) + 1,
        cluster_detection_method="deactivate",
    )


def _detect(prog: str, timeout: float) -> None:
    def give_up() -> None:
        known = ", ".join(f"{name}={os.environ[name]}" for name in sorted(os.environ) if KNOWN.fullmatch(name))
        print(
            f"{prog}: error: --distributed: not all processes answered within {timeout:g} s; this one, on "
            f"{socket.gethostname()}, waits for the others ({known or 'nothing about them in the environment'})",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)

    # jaxlib would end this process with pages of its log.
    timer = threading.Timer(timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(initialization_timeout=round(timeout) + 60)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: neither SLURM, GKE, Open MPI nor a TPU slice tells who takes part "
            f"({' '.join(str(error).split())}); give --coordinator, --num-processes and --process-id"
        ) from None
    finally:
        timer.cancel()


def introduce(prog: str, where: links.Meeting) -> None:
    """Print all hosts and their devices in process 0. From now on, this process ends when another one ends."""
    if not primary():
        console.silence()
        for name in ("splits", "quality"):  # all look at all clips
            logging.getLogger(f"slt_jax.data.{name}").setLevel(logging.ERROR)
    if links.current is None and jax.process_count() > 1:  # they met without us
        listener = links.listen("--distributed", 0) if primary() else None
        address = f"{_own_address()}:{listener.getsockname()[1]}" if listener else ""
        host, _, port = gathered([address])[0].rpartition(":")
        shared = jax.process_count(), jax.process_index(), where.timeout
        if listener:
            links.current = links.answer("--distributed", listener, shared[0], where.timeout)
        else:
            links.current = links.call("--distributed", (host, int(port)), *shared)
        links.current.watch(prog)
    devices = Counter(device.device_kind for device in jax.local_devices())
    description = f"{socket.gethostname()}: {', '.join(f'{number} x {kind}' for kind, number in devices.items())}"
    counts = gathered([len(jax.local_devices())])
    for index, line in enumerate(gathered([description])):
        console.say(f"process {index} of {jax.process_count()} on {line}")
    if len(set(counts)) > 1:
        raise UserError(
            f"the processes have different numbers of devices ({', '.join(map(str, counts))}), so a batch cannot be "
            f"split evenly; give each the same number (CUDA_VISIBLE_DEVICES chooses)"
        )


def _own_address() -> str:
    """The address of this host that others can reach. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostname()
        return probe.getsockname()[0]


# --- sharing ------------------------------------------------------------------------------------------------------


def primary() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def count() -> int:
    """The number of processes."""
    return jax.process_count()


def barrier(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gathered(items: Sequence[Any]) -> list[Any]:
    """The items (JSON types) of all processes, in the order of the processes. Every process must ask."""
    if jax.process_count() == 1:
        return list(items)
    text = np.frombuffer(json.dumps(list(items)).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded)
    return [item for row, size in zip(rows, sizes, strict=True) for item in json.loads(row[:size].tobytes())]


def beside() -> int:
    """How many processes of this run share this host. Every process must ask."""
    return gathered([socket.gethostname()]).count(socket.gethostname())


def fetch(tree: Any) -> Any:
    """Whole NumPy arrays of a tree of arrays, wherever their parts are. Every process must ask."""

    def whole(array: Any) -> np.ndarray:
        if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))

    return jax.device_get(tree) if jax.process_count() == 1 else jax.tree.map(whole, tree)


def own_rows(array: jax.Array, mesh: Mesh) -> np.ndarray:
    """This process's rows of a batch of results; undoes `place_batch`."""
    if jax.process_count() == 1:
        return np.asarray(array)
    return np.asarray(multihost_utils.global_array_to_host_local_array(array, mesh, PartitionSpec("data")))


def on_own_devices(arrays: Any, mesh: Mesh) -> Any:
    """This process's rows of batches of results, on its own devices only."""
    if jax.process_count() == 1:
        return arrays
    rows = NamedSharding(mesh.local_mesh, PartitionSpec("data"))
    return jax.tree.map(lambda array: jax.device_put(own_rows(array, mesh), rows), arrays)


@dataclass(frozen=True)
class Wish:
    """What a process asks all to do after a step: end because of a signal (its number), save because it is due."""

    signal: int = 0
    save: bool = False


class Agreement:
    """What any process wishes, so that all save and stop at the same step.

    A step's answer is known with the next step's: a few bytes join the queue of the devices, and nobody waits for
    them. With one process it is known at once.
    """

    def __init__(self, mesh: Mesh):
        self._mesh = mesh
        self._pending: jax.Array | None = None

    def ask(self, wish: Wish) -> Wish:
        """Name a wish for this step; what was agreed on at the step before, nothing at the first."""
        if jax.process_count() == 1:
            return wish
        before, self._pending = self._pending, self._highest(wish)
        agreed = Wish() if before is None else _wish(before)
        if agreed != Wish():
            self._pending = None  # what was named meanwhile is this again, or is named once more
        return agreed

    def now(self, wish: Wish) -> Wish:
        """Name a wish and wait for the answer."""
        return wish if jax.process_count() == 1 else _wish(self._highest(wish))

    def _highest(self, wish: Wish) -> jax.Array:
        places = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
        rows = np.tile(np.array([wish.signal, wish.save], np.int32), (len(self._mesh.local_devices), 1))
        return _maximum(jax.make_array_from_process_local_data(places, rows))


def _wish(highest: jax.Array) -> Wish:
    number, save = np.asarray(highest)
    return Wish(int(number), bool(save))


_maximum = jax.jit(lambda rows: rows.max(axis=0))
