"""Chunks of frames on eight devices: each computes its own clips' frames, and none travels."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from slt_jax.models.remat import KEEP_ALL, Memory
from slt_jax.models.multistream import frame_features
from slt_jax.models.params import split_model
from slt_jax.models.vit import VisionTransformer, ViTConfig
from slt_jax.runtime.sharding import device_mesh

mesh = device_mesh()
assert mesh.shape["data"] == 8
structure, params = split_model(VisionTransformer(ViTConfig(24, 1, 2, image_size=28), rngs=nnx.Rngs(0)))
params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
images = np.random.default_rng(0).integers(0, 256, (16, 5, 28, 28, 3), np.uint8)
images = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))

def program(memory):
    def loss(params, images):
        return (frame_features(structure.merge(params), images, memory) ** 2).sum()
    return jax.jit(jax.value_and_grad(loss)).lower(params, images).compile()

whole, chunked = program(KEEP_ALL), program(Memory("block", 4, shards=8))
for kind in ("all-gather", "all-to-all", "collective-permute"):
    assert f" {kind}(" not in chunked.as_text() and f" {kind}-start(" not in chunked.as_text(), kind
(loss, grads), (chunked_loss, chunked_grads) = whole(params, images), chunked(params, images)
np.testing.assert_allclose(loss, chunked_loss, rtol=1e-5)
largest = max(float(abs(g).max()) for g in grads.values())
for path, g in grads.items():
    np.testing.assert_allclose(g, chunked_grads[path], rtol=0, atol=1e-5 * largest, err_msg=path)
"""


def test_no_frame_travels():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
