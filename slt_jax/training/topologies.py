"""Devices to compile for that are not here: slices of TPUs by libtpu, NVIDIA GPUs by JAX's CUDA plugin."""

import os
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from slt_jax.base.quiet import expect_no_tpu
from slt_jax.errors import UserError
from slt_jax.training.memory import GIB, out_of_memory

GPU = re.compile(r"gpu:(\d+(?:\.\d+)?)(?:x(\d+))?")  # GiB of memory, and how many
EXAMPLES = "such as v5e:2x2, v5e:4x4, v5p:2x2x1 or v6e:2x2, or gpu:24 for a GPU of 24 GiB"
# What XLA asks of a GPU: here an Ampere with as many units as an RTX 3090 has, which many GPUs of 24 GiB resemble.
AMPERE = """
platform_name: "CUDA"
device_description_str: "NVIDIA GPU of {gib} GiB"
dnn_version_info {{ major: 9 minor: 8 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 8 minor: 6 }}
  device_memory_size: {memory}
  memory_bandwidth: 936000000000
  core_count: 82
  fpus_per_core: 128
  clock_rate_ghz: 1.695
  l2_cache_size: 6291456
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 1536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 101376
  shared_memory_per_core: 102400
}}
"""
JAX_TAKES = 0.75  # of a GPU's memory, where the variable does not say otherwise


def devices_of(name: str) -> tuple[Sequence[jax.Device], int]:
    """The devices of a TPU slice such as v5e:2x2 or a GPU such as gpu:24, and the bytes that a program has on each.

    Raises UserError that says what to do.
    """
    os.environ.pop("XLA_FLAGS", None)  # libtpu ends the process over one that it does not know, such as a GPU's
    if name.lower().startswith("gpu"):
        return _gpus(name)
    devices = _tpus(name)
    return devices, _usable_bytes(devices[0])


def _tpus(name: str) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    expect_no_tpu()
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError("--topology needs libtpu: pip install 'slt-jax[plan]'") from None
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).partition(": ")[2].split()) or error
        raise UserError(f"--topology {name}: {reason}; {EXAMPLES}") from None


def _gpus(name: str) -> tuple[Sequence[jax.Device], int]:
    from jax.experimental import topologies

    gpu = GPU.fullmatch(name.lower())
    memory, count = (int(float(gpu[1]) * GIB), int(gpu[2] or 1)) if gpu else (0, 0)
    if not memory or not count:
        raise UserError(f"--topology {name}: names no memory; {EXAMPLES}")
    target = AMPERE.format(gib=f"{memory / GIB:g}", memory=memory)
    try:
        found = topologies.get_topology_desc(name, "cuda", target_config=target, topology=f"1x1x{count}")
    except NotImplementedError:
        raise UserError(
            f"--topology {name} needs JAX's CUDA plugin, though no GPU: pip install --no-deps "
            f"jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}"
        ) from None
    return found.devices, int(memory * _share())


def _share() -> float:
    """Of a GPU's memory, what JAX takes."""
    for variable in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        if given := os.environ.get(variable):
            try:
                return float(given)
            except ValueError:
                raise UserError(f"{variable}={given}: must be a number, such as 0.9") from None
    return JAX_TAKES


def _usable_bytes(device: jax.Device) -> int:
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
