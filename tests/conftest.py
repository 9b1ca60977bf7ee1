"""What all tests share: CPU only, compiled programs kept for the session, and shapes held to their annotations."""

import gc
import os
import tempfile
from importlib.metadata import version

from jaxtyping import install_import_hook

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")  # what fails once in many runs is told whole
# Inherited by the commands that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"slt-jax-tests-{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# A third of the time to compile, for programs that run once. XLA ends the process over a flag that it does not know.
flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
flags += ["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []
os.environ.setdefault("XLA_FLAGS", " ".join(flags))
# Small torch models are 20 times slower on two threads than on one where tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every call in these files is held to its annotations, as `Float[Array, "b t d"]`; commands run without.
CHECKED = ["models.cnn", "models.fusion", "models.images", "models.layers", "models.multistream", "models.temporal"]
CHECKED += ["models.translator", "models.vit", "models.t5", "models.t5_config", "models.bart", "models.seq2seq"]
CHECKED += ["models.decoders", "models.families", "decoding.inference", "decoding.generate", "decoding.search"]
CHECKED += ["decoding.beam_search", "decoding.token_rules"]
CHECKED += ["training.loss", "training.optim", "training.step"]
install_import_hook([f"slt_jax.{name}" for name in CHECKED], "beartype.beartype")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no process is left with one at the end while the other is idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """A fifth of the time to trace a model went to the garbage collector, which looked at all modules each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
