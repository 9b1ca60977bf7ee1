"""All kernels of `tools/benchmark.py kernels` in all their tiles, for an H200 that is not here."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tools.benchmarks.kernels import products
from tools.benchmarks.kernels.attention_forward import attend
from tools.benchmarks.kernels.attention_gradient import gradient
from tools.benchmarks.kernels.operations import attention_tiles, gradient_tiles, product_tiles

PLUGIN = importlib.util.find_spec("jax_plugins") and importlib.util.find_spec("jax_plugins.xla_cuda13")
TARGET = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 19 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  device_memory_size: 150754820096
  memory_bandwidth: 4800000000000
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  l2_cache_size: 62914560
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
}
"""


def kernels() -> dict[str, tuple]:
    """Each function and the shapes that it gets, those of 512 images of 257 tokens in a ViT-S/14."""
    rows, wide = 512 * 257, 1536
    packed, mixed, total = of(512, 257, 3, 6, 64), of(512, 257, 6, 64), of(512, 6, 257, dtype=jnp.float32)
    x, y, known = of(rows, 384), of(rows, wide), (of(rows, dtype=jnp.float32),) * 2
    found: dict[str, tuple] = {}
    for tiles in attention_tiles(interpret=False):
        found[f"attention {tiles}"] = partial(attend, scale=0.125, tiles=tiles, interpret=False), packed
    for tiles in gradient_tiles(interpret=False):
        run = partial(gradient, scale=0.125, tiles=tiles, interpret=False)
        found[f"gradient of attention {tiles}"] = run, packed, mixed, total, mixed
    for tiles in product_tiles(interpret=False):
        found[f"norm, GELU {tiles}"] = partial(normed_gelu, tiles), x, of(384, wide), of(wide), *known
        found[f"residual {tiles}"] = partial(added, tiles), y, of(wide, 384), of(384), x
        run = partial(products.gelu_gradient, tiles=tiles, interpret=False)
        found[f"gradient of GELU {tiles}"] = run, x, of(wide, 384), y
    for tiles in product_tiles(interpret=False, whole_rows=True):
        run = partial(products.norm_gradient, tiles=tiles, interpret=False)
        found[f"gradient of norm {tiles}"] = run, y, of(384, wide), x, known, x
    return found


def normed_gelu(tiles, x, kernel, bias, *known):
    return products.product(x, kernel, bias, tiles, False, statistics=known, with_gelu=True)


def added(tiles, x, kernel, bias, residual):
    return products.product(x, kernel, bias, tiles, False, added=residual)


def of(*shape: int, dtype=jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@contextlib.contextmanager
def for_an_h200() -> Iterator[None]:
    """Since jax 0.11 a kernel asks which GPU it is traced for."""
    if jax.__version_info__ < (0, 11):
        yield
        return
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        yield


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_triton_takes_all():
    """Its arrays are powers of two in size, and it lacks many of JAX's operations."""
    for name, (run, *shapes) in kernels().items():
        with for_an_h200():
            lowered = jax.jit(run).trace(*shapes).lower(lowering_platforms=("cuda",))
        assert "__gpu$xla.gpu.triton" in lowered.as_text(), name


@pytest.mark.slow
@pytest.mark.skipif(not PLUGIN, reason="needs JAX's CUDA plugin, though no GPU (docs/memory.md)")
def test_an_h200_has_room_for_all():
    """Registers and shared memory suffice. In a process of its own, without what tests ask of XLA."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-m", __name__], cwd=Path(__file__).parents[2], env=environment, check=True)


def compile_all() -> None:
    """Raises XLA's error for the first that it refuses."""
    from jax.experimental import topologies

    device = topologies.get_topology_desc("h200", "cuda", target_config=TARGET, topology="1x1x1").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    for run, *shapes in kernels().values():
        placed = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes)
        with for_an_h200():
            lowered = jax.jit(run).lower(*placed)
        lowered.compile()


if __name__ == "__main__":
    compile_all()
